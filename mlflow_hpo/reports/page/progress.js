// The incumbent, and learning curves.

function incumbentSection() {
  chosen.incumbent = "trials";
  const draw = () => {
    const by = chosen.incumbent;
    const column = { trials: 0, epochs: 1, time: 2 }[by];
    const time = timeUnit(S.seconds);
    const scale = by === "time" ? 1 / time.unit : 1;
    const title = {
      trials: "trial",
      epochs: "epochs spent in all",
      time: `${time.name} since the study began`,
    }[by];
    const steps = S.incumbent;
    const all = valued(shown);
    if (!steps.length && !all.length) return "No trial has a feasible value yet.";
    const at = {
      trials: (i) => T().id[i] + 1,
      epochs: null,
      time: (i) => (T().ended[i] === null ? null : T().ended[i] / time.unit),
    }[by];
    const drawn = at
      ? sample(
          all.filter((i) => at(i) !== null),
          MOST.points,
        )
      : [];
    const range = robust([...drawn.map((i) => T().best[i]), ...steps.map((step) => step[3])]);
    const line = {
      type: "scatter",
      mode: "lines+markers",
      name: "best so far",
      x: steps.map((step) => step[column] * scale),
      y: steps.map((step) => step[3]),
      line: { shape: "hv", color: css("--best"), width: 2.5 },
      marker: { size: 5, color: css("--best") },
      hovertemplate: "best so far: %{y}<extra></extra>",
    };
    return {
      traces: [...(at ? dots(drawn, at, (i) => T().best[i]) : []), line],
      layout: {
        xaxis: { title: { text: title }, rangemode: "tozero" },
        yaxis: { ...metricAxis(), ...(range ? { range } : {}) },
      },
      note: [at ? ofThem(drawn.length, all.length, "trial") : "", range ? CUT_OFF : ""].join(" "),
      table: () => ({
        caption: "The best value, where it became better",
        head: ["trials", "epochs", "seconds", S.metric],
        rows: steps,
      }),
    };
  };
  const by = select(
    "incumbent-by",
    "over",
    [
      ["trials", "trials"],
      ["epochs", "epochs"],
      ["time", "time"],
    ],
    (value) => {
      chosen.incumbent = value;
      redraw("incumbent");
    },
  );
  return plotSection({
    id: "incumbent",
    title: "Incumbent",
    intro: "The best value so far, and the best value of every trial.",
    controls: [by],
    draw,
  });
}

function curvesSection() {
  const draw = () => {
    const all = shown.filter((i) => S.curves[i][1].length);
    if (!all.length) return NOTHING;
    const points = all.reduce((sum, i) => sum + S.curves[i][1].length, 0);
    const room = (all.length * MOST.curvePoints) / Math.max(points, MOST.curvePoints);
    const drawn = sample(all, Math.max(20, Math.min(MOST.curves, Math.floor(room))));
    const faint = Math.max(0.45, Math.min(1, Math.sqrt(60 / drawn.length)));
    const best = valued(all).reduce(
      (a, b) => (a === null || better(T().best[b], T().best[a]) < 0 ? b : a),
      null,
    );
    const range = robust(
      drawn.flatMap((i) => S.curves[i][1]),
      15,
    );
    const traces = ORDER.map((k) => {
      const trace = {
        type: "scatter",
        mode: "lines",
        name: FATES[k].word,
        x: [],
        y: [],
        customdata: [],
        text: [],
        hovertemplate: "%{text}<br>epoch %{x}: %{y}<extra></extra>",
        line: { color: css(FATES[k].colour), width: k === 3 ? 1 : 1.4 },
        opacity: (k === 3 ? 0.55 : 0.8) * faint,
      };
      for (const i of drawn) if (T().fate[i] === k) add(trace, i);
      if (S.max <= 1 || drawn.every((i) => S.curves[i][1].length < 2)) trace.mode = "markers";
      return trace;
    }).filter((trace) => trace.x.length);
    function add(trace, i) {
      const [epochs, values] = curve(i);
      trace.x.push(...epochs, null);
      trace.y.push(...values, null);
      for (let k = 0; k <= epochs.length; k += 1) {
        trace.customdata.push(i);
        trace.text.push(name(i));
      }
      if (epochs.length === 1) ((trace.mode = "lines+markers"), (trace.marker = { size: 4 }));
    }
    if (best !== null) {
      const trace = {
        type: "scatter",
        mode: "lines+markers",
        name: `best: ${name(best)}`,
        x: [],
        y: [],
        customdata: [],
        text: [],
        hovertemplate: "%{text}<br>epoch %{x}: %{y}<extra></extra>",
        line: { color: css("--best"), width: 2.5 },
        marker: { size: 4 },
      };
      add(trace, best);
      traces.push(trace);
    }
    return {
      traces,
      layout: {
        xaxis: { title: { text: "epoch" }, rangemode: "tozero" },
        yaxis: { ...metricAxis(), ...(range ? { range } : {}) },
        height: 420,
      },
      note: [ofThem(drawn.length, all.length, "curve"), range ? CUT_OFF : ""].join(" "),
      table: () => ({
        caption: "Values by epoch",
        head: ["trial", "status", "epochs", "first value", "last value", "best value"],
        rows: all.map((i) => {
          const values = S.curves[i][1];
          return [
            T().id[i],
            fateOf(i).word,
            T().epochs[i],
            values[0],
            values[values.length - 1],
            T().best[i],
          ];
        }),
      }),
    };
  };
  return plotSection({
    id: "curves",
    title: "Learning curves",
    intro: "Every trial by epoch, coloured by what became of it. Click a curve to see its trial.",
    draw,
  });
}
