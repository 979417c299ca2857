// What is told by parameter: importance, parallel coordinates, slices, contour.

const VIRIDIS = [
  "#440154",
  "#472d7b",
  "#3b528b",
  "#2c728e",
  "#21918c",
  "#28ae80",
  "#5ec962",
  "#addc30",
  "#fde725",
];
function importanceSection() {
  const draw = () => {
    const { shares, missing } = S.importance;
    if (missing) return missing;
    const rows = shares.slice(0, 25);
    const y = rows.map(([text]) => label(text, 28));
    return {
      traces: [
        {
          type: "bar",
          orientation: "h",
          x: rows.map((row) => row[1]),
          y: rows.map((_, k) => k),
          text: rows.map((row) => `${Math.round(row[1] * 100)}%`),
          textposition: "outside",
          cliponaxis: false,
          marker: { color: css("--accent") },
          hovertemplate: "%{text}<extra></extra>",
        },
      ],
      layout: {
        showlegend: false,
        height: Math.max(160, 60 + rows.length * 30),
        margin: { l: 20, r: 50, t: 6, b: 40 },
        xaxis: { title: { text: "share" }, tickformat: ".0%", rangemode: "tozero" },
        yaxis: { autorange: "reversed", tickvals: rows.map((_, k) => k), ticktext: y },
      },
      table: () => ({
        caption: "Shares of the parameters",
        head: ["parameter", "share"],
        rows: shares,
      }),
    };
  };
  return plotSection({
    id: "importance",
    title: "Importance of the parameters",
    filtered: false,
    draw,
    intro:
      "How much each parameter matters for getting among the best tenth of all trials " +
      "(PED-ANOVA, by Optuna).",
  });
}

const byImportance = () => {
  const ranks = new Map(S.importance.shares.map(([text], k) => [text, k]));
  const rank = (p) => ranks.get(S.space[p].name) ?? ranks.size;
  return S.space.map((_, p) => p).sort((a, b) => rank(a) - rank(b) || a - b);
};
function rankColours(places) {
  // trial -> one of the colours, the best ones the brightest in the dark
  const ranked = [...places].sort((a, b) => better(scores[b], scores[a]));
  const scale = shades();
  return new Map(
    ranked.map((i, k) => [i, Math.min(scale.length - 1, Math.floor((k / ranked.length) * scale.length))]),
  );
}
const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark";
const shades = () => (dark() ? VIRIDIS : [...VIRIDIS].reverse()); // the best: far from the ground
function ticks(p) {
  const about = S.space[p];
  if (about.labels)
    return about.labels
      .map((text, k) => [(k + 0.5) / about.labels.length, cut(text, 14)])
      .filter((_, k, all) => all.length <= 10 || k % Math.ceil(all.length / 10) === 0);
  const round = (value) => (about.type === "int" ? String(Math.round(value)) : number(value, 2));
  return [0, 0.5, 1].map((at) => [at, round(fromUnit(p, at))]);
}
function parallelSection() {
  const draw = () => {
    const all = scored(shown);
    if (!all.length) return NOTHING;
    const axes = byImportance().slice(0, MOST.axes);
    const drawn = sample(all, MOST.lines, scores);
    const range = robust(drawn.map((i) => scores[i]));
    const values = drawn.map((i) => scores[i]);
    const [low, high] = range || [
      values.reduce((a, b) => Math.min(a, b)),
      values.reduce((a, b) => Math.max(a, b)),
    ];
    const height = (value) => Math.min(1, Math.max(0, high > low ? (value - low) / (high - low) : 0.5));
    const colours = rankColours(drawn);
    const scale = shades();
    const inactive = axes.map((p) => drawn.some((i) => unit(p, S.params[p][i]) === null));
    const some = inactive.includes(true);
    const jitter = (i, p) =>
      S.space[p].labels ? (((i * 7919 + p * 104729) % 97) / 97 - 0.5) * (0.5 / S.space[p].labels.length) : 0;
    const traces = scale
      .map((colour, bin) => {
        const trace = {
          type: "scatter",
          mode: "lines",
          showlegend: false,
          x: [],
          y: [],
          customdata: [],
          text: [],
          hovertemplate: "%{text}<extra></extra>",
          line: { color: colour, width: bin === scale.length - 1 ? 2 : 1.1 },
          opacity: 0.35 + (0.5 * bin) / scale.length,
        };
        for (const i of drawn) {
          if (colours.get(i) !== bin) continue;
          const text = `${name(i)}: ${number(scores[i])}`;
          axes.forEach((p, k) => {
            const place = unit(p, S.params[p][i]);
            trace.x.push(k);
            trace.y.push(place === null ? -0.12 : place + jitter(i, p));
          });
          trace.x.push(axes.length, null);
          trace.y.push(height(scores[i]), null);
          for (let k = 0; k < axes.length + 2; k += 1) {
            trace.customdata.push(i);
            trace.text.push(text);
          }
        }
        return trace;
      })
      .filter((trace) => trace.x.length);
    const ground = css("--panel");
    const mark = (x, y, text, more = {}) => ({
      x,
      y,
      text: label(text, 26),
      showarrow: false,
      font: { size: 11, color: css("--ink") },
      bgcolor: ground,
      borderpad: 1,
      opacity: 0.9,
      ...more,
    });
    const annotations = axes.flatMap((p, k) => [
      ...ticks(p).map(([at, text]) => mark(k, at, text, { xanchor: k === 0 ? "left" : "center" })),
      mark(k, 1, cut(S.space[p].name, 18), {
        yref: "paper",
        yanchor: "bottom",
        font: { size: 12, color: css("--ink") },
        textangle: axes.length > 5 ? -18 : 0,
        xanchor: axes.length > 5 ? "left" : k === 0 ? "left" : "center",
        bgcolor: "rgba(0,0,0,0)",
      }),
    ]);
    annotations.push(
      mark(axes.length, 1, cut(scoreName(), 22), {
        yref: "paper",
        yanchor: "bottom",
        font: { size: 12, color: css("--best") },
        xanchor: "right",
        bgcolor: "rgba(0,0,0,0)",
      }),
    );
    for (const at of [0, 0.5, 1])
      annotations.push(mark(axes.length, at, number(low + at * (high - low), 3), { xanchor: "right" }));
    axes.forEach((_, k) => {
      if (inactive[k])
        annotations.push(
          mark(k, -0.2, "not active", {
            font: { size: 11, color: css("--soft") },
            xanchor: k === 0 ? "left" : "center",
          }),
        );
    });
    const left = byImportance().length - axes.length;
    return {
      traces,
      minWidth: Math.max(0, (axes.length + 1) * 84),
      layout: {
        showlegend: false,
        height: 430,
        margin: { l: 12, r: 14, t: axes.length > 5 ? 70 : 40, b: 14 },
        annotations,
        shapes: [...axes, null].map((_, k) => ({
          type: "line",
          x0: k,
          x1: k,
          y0: 0,
          y1: 1,
          layer: "below",
          line: { color: css("--line"), width: 1.5 },
        })),
        xaxis: { visible: false, range: [-0.1, axes.length + 0.1], fixedrange: true },
        yaxis: { visible: false, range: [some ? -0.26 : -0.06, 1.06], fixedrange: true },
      },
      note: [
        ofThem(drawn.length, all.length, "trial"),
        left ? `The ${axes.length} most important of ${axes.length + left} parameters are drawn.` : "",
        "Narrow the filters above to follow some of the lines.",
      ].join(" "),
      table: () => configurations(all),
    };
  };
  return plotSection({
    id: "parallel",
    title: "Parallel coordinates",
    intro: "One line a trial through its parameters to its best value; the better, the stronger the colour.",
    draw,
  });
}
function configurations(places) {
  const ranked = [...places].sort((a, b) => better(scores[a], scores[b]));
  return {
    caption: "Configurations, best first",
    head: ["trial", scoreName(), ...S.space.map((about) => about.name)],
    rows: ranked.map((i) => [
      T().id[i],
      scores[i],
      ...S.space.map((_, p) => (S.space[p].labels ? paramText(p, i) : S.params[p][i])),
    ]),
  };
}

function paramAxis(p, more = {}) {
  const about = S.space[p];
  const axis = { title: { text: label(about.name, 34) }, ...more };
  if (!about.labels && about.log) {
    const [low, high] = [Math.log10(about.low), Math.log10(about.high)];
    const steps = high - low > 5 ? [1] : high - low > 2.2 ? [1, 3] : [1, 2, 5];
    const all = [];
    for (let power = Math.floor(low); power <= high; power += high - low > 12 ? 3 : 1)
      for (const step of steps) all.push(step * 10 ** power);
    const tickvals = all.filter((value) => value >= about.low * 0.999 && value <= about.high * 1.001);
    return {
      ...axis,
      type: "log",
      range: [low - (high - low) * 0.04, high + (high - low) * 0.04],
      tickvals,
      ticktext: tickvals.map((value) => number(value, 3)),
    };
  }
  if (!about.labels) return { ...axis, type: "linear", nticks: 6 };
  const every = Math.ceil(about.labels.length / 8);
  const kept = about.labels.map((text, k) => [k, text]).filter(([k]) => k % every === 0);
  return {
    ...axis,
    type: "linear",
    range: [-0.6, about.labels.length - 0.4],
    tickvals: kept.map(([k]) => k),
    ticktext: kept.map(([, text]) => label(text, 12)),
  };
}
const spot = (p, i) => S.params[p][i] + (S.space[p].labels ? (((i * 7919) % 101) / 101 - 0.5) * 0.5 : 0);
function slicesSection() {
  const draw = (width) => {
    const all = scored(shown);
    const axes = byImportance()
      .filter((p) => all.some((i) => S.params[p][i] !== null))
      .slice(0, MOST.slices);
    if (!axes.length) return NOTHING;
    const drawn = sample(all, Math.max(150, Math.floor((2 * MOST.points) / axes.length)), scores);
    const across = Math.max(1, Math.min(axes.length, width > 980 ? 3 : width > 620 ? 2 : 1));
    const down = Math.ceil(axes.length / across);
    const range = robust(drawn.map((i) => scores[i]));
    const made = {
      height: 40 + down * 235,
      margin: { l: 56, r: 14, t: 30, b: 46 },
      legend: { orientation: "h", y: 1 + 12 / (down * 235), yanchor: "bottom", x: 0 },
    };
    const gap = [0.05, 62 / (down * 235)];
    const traces = axes.flatMap((p, k) => {
      const [column, row] = [k % across, Math.floor(k / across)];
      const cell = [(1 - gap[0] * (across - 1)) / across, (1 - gap[1] * (down - 1)) / down];
      const n = k ? String(k + 1) : "";
      const [left, top] = [column * (cell[0] + gap[0]), 1 - row * (cell[1] + gap[1])];
      made[`xaxis${n}`] = paramAxis(p, { domain: [left, Math.min(1, left + cell[0])], anchor: `y${n}` });
      made[`yaxis${n}`] = {
        domain: [Math.max(0, top - cell[1]), top],
        anchor: `x${n}`,
        ...(column ? { showticklabels: false } : scoreAxis()),
        ...(k ? { matches: "y" } : range ? { range } : {}),
      };
      return dots(
        drawn.filter((i) => S.params[p][i] !== null),
        (i) => spot(p, i),
        (i) => scores[i],
        { xaxis: `x${n}`, yaxis: `y${n}` },
      ).map((trace) => ({
        ...trace,
        legendgroup: trace.name,
        showlegend: false,
        marker: { ...trace.marker, size: 5 },
      }));
    });
    const firsts = new Set(); // every fate stands once in the legend
    for (const trace of traces)
      if (!firsts.has(trace.name)) {
        firsts.add(trace.name);
        trace.showlegend = true;
      }
    const left = S.space.length - axes.length;
    return {
      traces,
      layout: made,
      note: [
        ofThem(drawn.length, all.length, "trial"),
        left > 0 && axes.length === MOST.slices
          ? `The ${axes.length} most important of ${S.space.length} parameters are drawn.`
          : "",
        range ? CUT_OFF : "",
      ].join(" "),
      table: () => configurations(all),
    };
  };
  return plotSection({
    id: "slices",
    title: "Slices",
    intro:
      "Best value of every trial over each parameter. Single choices are spread a little to be told apart.",
    draw,
  });
}

function contourSection() {
  const order = byImportance();
  if (order.length < 2) return null;
  [chosen.x, chosen.y] = order;
  const options = S.space.map((about, p) => [String(p), cut(about.name, 40)]);
  const draw = () => {
    const [px, py] = [chosen.x, chosen.y];
    if (px === py) return "Choose two different parameters.";
    const all = scored(shown).filter((i) => S.params[px][i] !== null && S.params[py][i] !== null);
    if (all.length < 4) return "It takes four trials that have a value and both parameters.";
    const drawn = sample(all, MOST.kernel, scores);
    const range = robust(drawn.map((i) => scores[i]));
    const clip = (value) => (range ? Math.min(range[1], Math.max(range[0], value)) : value);
    const at = drawn.map((i) => [unit(px, S.params[px][i]), unit(py, S.params[py][i]), clip(scores[i])]);
    const width = 0.06 + 0.14 / Math.sqrt(Math.sqrt(drawn.length));
    const cells = (p) =>
      S.space[p].labels
        ? S.space[p].labels.map((_, k, l) => (k + 0.5) / l.length)
        : Array.from({ length: 41 }, (_, k) => k / 40);
    const [us, vs] = [cells(px), cells(py)];
    const z = vs.map((v) =>
      us.map((u) => {
        let [sum, weight] = [0, 0];
        for (const [x, y, value] of at) {
          const w = Math.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * width * width));
          sum += w * value;
          weight += w;
        }
        return weight > 0.2 ? sum / weight : null;
      }),
    );
    const categorical = S.space[px].labels || S.space[py].labels;
    const scale = VIRIDIS.map((colour, k) => [k / (VIRIDIS.length - 1), colour]);
    return {
      traces: [
        {
          type: categorical ? "heatmap" : "contour",
          x: us.map((u) => fromUnit(px, u)),
          y: vs.map((v) => fromUnit(py, v)),
          z,
          colorscale: scale,
          reversescale: S.mode === "min",
          opacity: 0.85,
          contours: { coloring: "heatmap" },
          line: { width: 0.6, color: "rgba(255,255,255,.5)" },
          ncontours: 14,
          colorbar: {
            title: { text: label(scoreName(), 34), side: "right" },
            thickness: 12,
            outlinewidth: 0,
          },
          hoverinfo: "skip",
          connectgaps: false,
        },
        {
          type: "scatter",
          mode: "markers",
          x: drawn.map((i) => spot(px, i)),
          y: drawn.map((i) => spot(py, i)),
          customdata: drawn,
          text: drawn.map((i) => label(`${name(i)}: ${number(scores[i])}`)),
          hovertemplate: "%{text}<extra></extra>",
          marker: {
            size: 4.5,
            color: "rgba(20,26,34,.55)",
            line: { width: 0.8, color: "rgba(255,255,255,.8)" },
          },
          showlegend: false,
        },
      ],
      layout: {
        showlegend: false,
        height: 460,
        xaxis: paramAxis(px, { showgrid: false }),
        yaxis: paramAxis(py, { showgrid: false }),
      },
      note:
        `Smoothed over ${counted(drawn.length, "trial")} by a Gaussian kernel as wide as ` +
        `${(width * 100).toFixed(0)}% of each range; ` +
        "blank where no trial is near. Bright is better.",
      table: () => configurations(all),
    };
  };
  const pick = (id, words) =>
    select(
      `contour-${id}`,
      words,
      options,
      (value) => {
        chosen[id] = Number(value);
        redraw("contour");
      },
      String(chosen[id]),
    );
  return plotSection({
    id: "contour",
    title: "Contour",
    intro: "The best value over two parameters.",
    controls: [pick("x", "across"), pick("y", "up")],
    draw,
  });
}
