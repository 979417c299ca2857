"use strict";
// Draws the report from the data that stands in this page. What others wrote is only ever shown as text.
(() => {
  const STUDIES = JSON.parse(document.getElementById("data").textContent).studies;
  const FATES = [
    { word: "running", colour: "--running", symbol: "diamond" },
    { word: "paused", colour: "--paused", symbol: "square" },
    { word: "fully trained", colour: "--finished", symbol: "circle" },
    { word: "stopped early", colour: "--stopped", symbol: "circle" },
    { word: "failed", colour: "--failed", symbol: "x" },
  ];
  const ORDER = [3, 4, 1, 0, 2]; // in which they are drawn, the last on top
  const PAGE = 50; // rows of a table that are shown at a time
  const LONG = 160; // characters of a text that are shown at once
  const MOST = {
    points: 2500,
    curvePoints: 12000,
    lines: 400,
    axes: 12,
    slices: 12,
    table: 2000,
    kernel: 1500,
  };
  const SERIES = ["#0072b2", "#d1450c", "#00896a", "#a855a0", "#c47a00", "#3b9bd6", "#7a6a4f", "#777f8c"];
  const DASHES = ["solid", "dash", "dot", "dashdot"];
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
  const NOTHING = "No trial that is shown has what this plot needs.";

  // --- text and elements

  const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;
  const escaped = (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`;
  const plain = (text) => String(text).replace(HIDDEN, escaped); // no marks that turn the writing round
  const lines = (text) =>
    String(text).replace(HIDDEN, (char) => (char === "\n" || char === "\t" ? char : escaped(char)));
  const cut = (text, length) => {
    const chars = [...plain(text).slice(0, length * 2 + 2)];
    return chars.length > length ? `${chars.slice(0, length - 1).join("")}…` : chars.join("");
  };
  // plotly reads a few tags in its texts: none may come from others
  const label = (text, length = 60) =>
    cut(text, length).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function el(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat(Infinity))
      if (child !== null && child !== undefined) element.append(child);
    return element;
  }

  function said(text, limit = LONG) {
    // a text of others, whole or with a button that shows the whole
    const whole = plain(text);
    if (whole.length <= limit) return el("bdi", {}, whole);
    const shown = el("bdi", {}, cut(text, limit));
    const button = el(
      "button",
      {
        class: "plain",
        type: "button",
        "aria-expanded": "false",
        onclick: () => {
          const open = button.getAttribute("aria-expanded") === "false";
          button.setAttribute("aria-expanded", String(open));
          shown.textContent = open ? whole : cut(text, limit);
          button.textContent = open
            ? "show less"
            : `show all ${whole.length.toLocaleString("en")} characters`;
        },
      },
      `show all ${whole.length.toLocaleString("en")} characters`,
    );
    return el("span", {}, shown, " ", button);
  }

  const number = (value, digits = 6) => {
    if (value === null || value === undefined) return "–";
    if (Number.isInteger(value)) return Math.abs(value) < 1e7 ? value.toLocaleString("en") : String(value);
    return String(Number(value.toPrecision(digits)));
  };
  function duration(seconds) {
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const minutes = Math.floor(Math.round(seconds) / 60);
    if (minutes < 60) return `${minutes} min ${String(Math.round(seconds) % 60).padStart(2, "0")} s`;
    const hours = Math.floor(minutes / 60);
    return hours < 48
      ? `${hours} h ${String(minutes % 60).padStart(2, "0")} min`
      : `${(hours / 24).toFixed(1)} days`;
  }
  function timeUnit(most) {
    if (most < 180) return { unit: 1, name: "seconds" };
    if (most < 3 * 3600) return { unit: 60, name: "minutes" };
    return most < 4 * 86400 ? { unit: 3600, name: "hours" } : { unit: 86400, name: "days" };
  }
  const date = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC";
  const counted = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const announce = (text) => {
    document.getElementById("said").textContent = text;
  };

  // --- the study that is shown

  let S = STUDIES[0]; // the study
  let shown = []; // places of its trials that the filters let through
  let filters = { text: "", fates: new Set(), params: new Map(), numbers: new Map() };
  let plots = [];
  let onFilter = [];
  let haystacks = null;
  const chosen = {}; // what the plots' own controls say

  const T = () => S.trials;
  const better = (a, b) => (S.mode === "max" ? b - a : a - b);
  const valued = (places) => places.filter((i) => T().best[i] !== null);
  let scores = []; // by which trials are compared: their best values, or those at one epoch
  const scored = (places) => places.filter((i) => scores[i] !== null);
  function compareBy(level) {
    scores =
      level === "best"
        ? T().best
        : S.curves.map((_, i) => {
            const [epochs, values] = curve(i);
            const k = epochs.indexOf(Number(level));
            return k < 0 ? null : values[k];
          });
    chosen.level = level;
    for (const id of ["parallel", "slices", "contour"]) redraw(id);
  }
  const scoreName = () => (chosen.level === "best" ? S.metric : `${S.metric} at epoch ${chosen.level}`);
  const fateOf = (i) => FATES[T().fate[i]];
  const name = (i) => `trial ${T().id[i]}`;
  const reasonOf = (i) =>
    S.texts[T().reason[i]] || (T().infeasible[i] ? `infeasible: ${S.texts[T().infeasible[i]]}` : "");

  function paramText(p, i) {
    const value = S.params[p][i];
    if (value === null || value === undefined) return "";
    return S.space[p].labels ? S.space[p].labels[value] : String(value);
  }
  function unit(p, value) {
    // place of a parameter's value in [0, 1]
    const about = S.space[p];
    if (value === null || value === undefined) return null;
    if (about.labels) return (value + 0.5) / about.labels.length;
    const at = about.log ? Math.log : (x) => x;
    return (at(value) - at(about.low)) / (at(about.high) - at(about.low));
  }
  function fromUnit(p, place) {
    const about = S.space[p];
    if (about.labels) return place * about.labels.length - 0.5;
    if (about.log)
      return Math.exp(Math.log(about.low) + place * (Math.log(about.high) - Math.log(about.low)));
    return about.low + place * (about.high - about.low);
  }
  function curve(i) {
    const [epochs, values] = S.curves[i];
    return [Array.isArray(epochs) ? epochs : Array.from({ length: epochs }, (_, k) => k + 1), values];
  }
  function sample(places, most, values = T().best) {
    // the best, and an even choice of the others
    if (places.length <= most) return places;
    const ranked = places
      .filter((i) => values[i] !== null)
      .sort((a, b) => better(values[a], values[b]))
      .slice(0, Math.floor(most / 4));
    const kept = new Set(ranked);
    const rest = places.filter((i) => !kept.has(i));
    const step = rest.length / (most - kept.size);
    for (let k = 0; k < most - ranked.length; k += 1) kept.add(rest[Math.floor(k * step)]);
    return [...kept].sort((a, b) => a - b);
  }
  const ofThem = (drawn, all, what) =>
    drawn < all
      ? `${drawn.toLocaleString("en")} of ${counted(all, what)} are drawn: the best quarter of them and an even choice of the others. Filter to see others.`
      : "";
  function robust(values) {
    // the range of an axis that a few far-off values do not squeeze
    const sorted = values.filter((v) => v !== null).sort((a, b) => a - b);
    if (sorted.length < 8) return null;
    const at = (q) => sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))];
    const spread = Math.max(at(0.9) - at(0.1), 1e-12);
    let [low, high] = [sorted[0], sorted[sorted.length - 1]];
    if (S.mode === "min" && high > at(0.9) + 2 * spread) high = at(0.9) + spread / 2;
    else if (S.mode === "max" && low < at(0.1) - 2 * spread) low = at(0.1) - spread / 2;
    else return null;
    const pad = (high - low) * 0.05;
    return [low - pad, high + pad];
  }
  const CUT_OFF = "Values that are far worse lie outside the axis; double-click the plot to see them all.";

  // --- filters

  function passes(i) {
    if (!filters.fates.has(T().fate[i])) return false;
    for (const [p, allowed] of filters.params) {
      const value = S.params[p][i];
      if (value === null || value === undefined) return false;
      if (allowed instanceof Set ? !allowed.has(value) : value < allowed.min || value > allowed.max)
        return false;
    }
    for (const [column, range] of filters.numbers) {
      const value = T()[column][i];
      if (value === null || value < range.min || value > range.max) return false;
    }
    return !filters.text || haystack(i).includes(filters.text);
  }
  function haystack(i) {
    haystacks ??= T().id.map((id, k) =>
      [
        `trial ${id}`,
        T().run[k],
        fateOf(k).word,
        reasonOf(k),
        S.texts[T().origin[k]],
        ...S.space.map((about, p) => (S.params[p][k] === null ? "" : `${about.name}=${paramText(p, k)}`)),
      ]
        .join("\n")
        .toLowerCase(),
    );
    return haystacks[i];
  }
  let waiting = 0;
  function filtered() {
    // soon, and once for many keystrokes
    clearTimeout(waiting);
    waiting = setTimeout(applyFilters, 120);
  }
  function applyFilters() {
    shown = T()
      .id.map((_, i) => i)
      .filter(passes);
    for (const listener of onFilter) listener();
    for (const plot of plots) if (plot.filtered) plot.stale = true;
    drawVisible();
  }
  const activeFilters = () =>
    (filters.text ? 1 : 0) +
    (filters.fates.size < FATES.length ? 1 : 0) +
    filters.params.size +
    filters.numbers.size;

  function clearFilters() {
    filters = { text: "", fates: new Set(FATES.keys()), params: new Map(), numbers: new Map() };
  }

  function rangeField(legend, hint, change) {
    const bounds = { min: -Infinity, max: Infinity };
    const input = (end, word) =>
      el("input", {
        type: "number",
        step: "any",
        placeholder: number(hint[end], 4),
        "aria-label": `${legend}: ${word}`,
        oninput: (event) => {
          const value = event.target.value;
          bounds[end] = value === "" ? (end === "min" ? -Infinity : Infinity) : Number(value);
          change(bounds.min === -Infinity && bounds.max === Infinity ? null : { ...bounds });
        },
      });
    return el(
      "fieldset",
      {},
      el("legend", {}, el("bdi", {}, legend)),
      el(
        "div",
        { class: "range" },
        input("min", "at least"),
        el("span", { "aria-hidden": "true" }, "to"),
        input("max", "at most"),
      ),
    );
  }
  function checkField(legend, choices, change, wide = false) {
    const chosen = new Set(choices.map((_, k) => k));
    const boxes = choices.map((choice, k) =>
      el(
        "label",
        {},
        el("input", {
          type: "checkbox",
          checked: true,
          onchange: (event) => {
            if (event.target.checked) chosen.add(k);
            else chosen.delete(k);
            change(chosen.size === choices.length ? null : new Set(chosen));
          },
        }),
        choice,
      ),
    );
    return el(
      "fieldset",
      { class: wide ? "wide" : null },
      el("legend", {}, el("bdi", {}, legend)),
      el("div", { class: "checks" }, boxes),
    );
  }
  function setFilter(map, key, value) {
    if (value === null) map.delete(key);
    else map.set(key, value);
    filtered();
  }
  function filterSection() {
    const all = rungLevels(T().id.map((_, i) => i));
    const levels = all.filter((_, k) => k % Math.ceil(all.length / 12) === 0);
    const count = el("span", { class: "counted", id: "shown-count" });
    const reset = el(
      "button",
      {
        type: "button",
        onclick: () => {
          clearFilters();
          fill();
          applyFilters();
        },
      },
      "Clear filters",
    );
    const box = el("div", { class: "filters" });
    const search = el("div", { class: "search" });
    const more = el(
      "details",
      {
        class: "more",
        ontoggle: () => {
          if (more.open && !box.children.length) fillBox();
        },
      },
      el("summary", {}, "By status, value and parameters"),
      box,
    );
    function fillBox() {
      const extent = (column) => {
        const values = T()[column].filter((v) => v !== null);
        return {
          min: values.reduce((a, b) => Math.min(a, b), Infinity),
          max: values.reduce((a, b) => Math.max(a, b), -Infinity),
        };
      };
      const numbers = (column, legend) =>
        rangeField(legend, extent(column), (range) => setFilter(filters.numbers, column, range));
      const perFate = FATES.map(
        (fate, k) =>
          `${fate.word} (${T()
            .fate.filter((f) => f === k)
            .length.toLocaleString("en")})`,
      );
      box.replaceChildren(
        checkField(
          "Status",
          perFate,
          (chosen) => {
            filters.fates = chosen ?? new Set(FATES.keys());
            filtered();
          },
          true,
        ),
        numbers("best", `best ${cut(S.metric, 40)}`),
        numbers("epochs", "epochs"),
        numbers("seconds", "seconds"),
        ...S.space.map((about, p) => {
          const legend = plain(about.name);
          const change = (value) => setFilter(filters.params, p, value);
          return about.labels
            ? checkField(
                legend,
                about.labels.map((text) => el("bdi", {}, cut(text, 60))),
                change,
              )
            : rangeField(legend, { min: about.low, max: about.high }, change);
        }),
      );
    }
    function fill() {
      box.replaceChildren();
      if (more.open) fillBox();
      search.replaceChildren(
        el(
          "label",
          {},
          el("span", { class: "hidden" }, "Search in trials"),
          el("input", {
            type: "search",
            id: "filter-text",
            placeholder: "Search: a reason, a choice, a run…",
            oninput: (event) => {
              filters.text = event.target.value.trim().toLowerCase();
              filtered();
            },
          }),
        ),
      );
    }
    fill();
    onFilter.push(() => {
      count.textContent = `${shown.length.toLocaleString("en")} of ${counted(T().id.length, "trial")}`;
      reset.disabled = activeFilters() === 0;
      announce(`${count.textContent} shown`);
    });
    return el(
      "section",
      { id: "filter", "aria-labelledby": "filter-title" },
      el("h2", { id: "filter-title" }, "Filter"),
      el("div", { class: "controls" }, search, count, reset),
      more,
      levels.length > 1
        ? el(
            "div",
            { class: "controls" },
            select(
              "level",
              "Parallel coordinates, slices and contour compare",
              [
                ["best", "the best values"],
                ...levels.map((level) => [String(level), `the values at epoch ${level}`]),
              ],
              compareBy,
            ),
          )
        : null,
    );
  }

  // --- plots

  function layout(more, narrow) {
    const axis = {
      gridcolor: css("--grid"),
      linecolor: css("--line"),
      zeroline: false,
      tickcolor: css("--line"),
      automargin: true,
      title: { standoff: 8 },
    };
    const made = {
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: css("--ink") },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 56, r: 14, t: 14, b: 48 },
      height: 380,
      hovermode: "closest",
      dragmode: "zoom",
      showlegend: true,
      legend: {
        orientation: "h",
        y: 1.02,
        yanchor: "bottom",
        x: 0,
        bgcolor: "rgba(0,0,0,0)",
        traceorder: "normal",
      },
      hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--ink") } },
      ...more,
    };
    if (narrow && made.showlegend) made.height += 70; // its legend takes several lines
    for (const key of Object.keys(made))
      if (/^[xy]axis\d*$/.test(key))
        made[key] = { ...axis, ...made[key], title: { ...axis.title, ...made[key].title } };
    return made;
  }

  function plotSection({ id, title, intro, controls = [], draw, filtered: follows = true }) {
    const div = el("div", { class: "plot", id: `plot-${id}` });
    const note = el("p", { class: "note" });
    const rows = el("div");
    const data = el(
      "details",
      {
        class: "data",
        ontoggle: () => {
          if (data.open) fillTable();
        },
      },
      el("summary", {}, "The same as a table"),
      rows,
    );
    const plot = { div, stale: true, visible: false, filtered: follows, paint };
    let table = null;
    function fillTable() {
      rows.replaceChildren(
        table ? simpleTable(table()) : el("p", { class: "note" }, "There is nothing to show."),
      );
    }
    function paint() {
      plot.stale = false;
      const drawn = draw(div.parentElement.clientWidth);
      if (typeof drawn === "string") {
        Plotly.purge(div);
        div.replaceChildren(el("p", { class: "message" }, drawn));
        div.style.minWidth = "";
        note.textContent = "";
        table = null;
      } else {
        if (!div.classList.contains("js-plotly-plot")) div.replaceChildren();
        div.style.minWidth = drawn.minWidth ? `${drawn.minWidth}px` : "";
        Plotly.react(div, drawn.traces, layout(drawn.layout, div.parentElement.clientWidth < 520), {
          responsive: true,
          displaylogo: false,
          modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
        });
        if (!div.dataset.wired) {
          // a click on a trial tells all of it
          div.dataset.wired = "yes";
          div.on("plotly_click", (event) => {
            const place = event.points[0]?.customdata;
            if (Number.isInteger(place)) showTrial(place);
          });
        }
        note.textContent = drawn.note || "";
        table = drawn.table || null;
      }
      div.dataset.drawn = "yes";
      if (data.open) fillTable();
    }
    plots.push(plot);
    observer.observe(div);
    div.plot = plot;
    div.setAttribute("role", "img");
    div.setAttribute("aria-label", `${title}. The same stands below as a table.`);
    return el(
      "section",
      { id, "aria-labelledby": `${id}-title` },
      el("h2", { id: `${id}-title` }, title),
      intro ? el("p", { class: "intro" }, intro) : null,
      controls.length ? el("div", { class: "controls" }, controls) : null,
      el("div", { class: "scroll" }, div),
      note,
      data,
    );
  }
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) if (entry.target.plot) entry.target.plot.visible = entry.isIntersecting;
      drawVisible();
    },
    { rootMargin: "250px 0px" },
  );
  let drawing = false;
  function drawVisible() {
    // one plot a frame: the page stays alive
    if (drawing) return;
    const next = plots.find((plot) => plot.visible && plot.stale);
    if (!next) return;
    drawing = true;
    requestAnimationFrame(() =>
      setTimeout(() => {
        drawing = false;
        if (plots.includes(next) && next.stale) next.paint();
        drawVisible();
      }),
    );
  }
  function redraw(id) {
    const plot = document.getElementById(`plot-${id}`)?.plot;
    if (plot) {
      plot.stale = true;
      drawVisible();
    }
  }
  const select = (id, words, options, change, value) => {
    const box = el(
      "select",
      { id, onchange: (event) => change(event.target.value) },
      options.map(([key, text]) => el("option", { value: key }, text)),
    );
    if (value !== undefined) box.value = value;
    return el("label", {}, words, box);
  };
  const dots = (places, x, y, more = {}) =>
    ORDER.map((k) => {
      const fate = FATES[k];
      const mine = places.filter((i) => T().fate[i] === k);
      return {
        type: "scatter",
        mode: "markers",
        name: fate.word,
        x: mine.map(x),
        y: mine.map(y),
        customdata: mine,
        text: mine.map((i) => label(`${name(i)}, ${fate.word}`)),
        hovertemplate: "%{text}<br>%{y}<extra></extra>",
        marker: { color: css(fate.colour), symbol: fate.symbol, size: 6, opacity: k === 3 ? 0.6 : 0.85 },
        ...more,
      };
    }).filter((trace) => trace.x.length);
  const scoreAxis = () => ({ title: { text: label(scoreName(), 40) } });
  const metricAxis = () => ({ title: { text: label(S.metric, 40) } });

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
        traces: [...dots(drawn, at, (i) => T().best[i]), line],
        layout: {
          xaxis: { title: { text: title }, rangemode: "tozero" },
          yaxis: { ...metricAxis(), ...(range ? { range } : {}) },
        },
        note: [at ? ofThem(drawn.length, all.length, "trial") : "", range ? CUT_OFF : ""].join(" "),
        table: () => ({
          caption: "The best value, where it became better",
          head: ["trials", "epochs", "seconds", S.metric],
          rows: steps,
          numeric: true,
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
      const drawn = sample(
        all,
        Math.max(20, Math.floor((all.length * MOST.curvePoints) / Math.max(points, MOST.curvePoints))),
      );
      const best = valued(all).reduce(
        (a, b) => (a === null || better(T().best[b], T().best[a]) < 0 ? b : a),
        null,
      );
      const range = robust(drawn.flatMap((i) => S.curves[i][1]));
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
          opacity: k === 3 ? 0.45 : 0.75,
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
          numeric: true,
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

  function rungLevels(places) {
    // where trials paused, were stopped or ended
    const levels = new Set(
      places.filter((i) => [1, 2, 3].includes(T().fate[i]) && T().epochs[i] > 0).map((i) => T().epochs[i]),
    );
    return [...levels].sort((a, b) => a - b);
  }
  const RUNG = ["went on", "fully trained", "stopped here", "paused here", "failed before the next"];
  function rungRows(places) {
    return rungLevels(places).map((level) => {
      const reached = places.filter((i) => T().epochs[i] >= level);
      const here = (k) => reached.filter((i) => T().fate[i] === k && T().epochs[i] === level).length;
      const next = rungLevels(places).find((other) => other > level) ?? Infinity;
      const failed = reached.filter((i) => T().fate[i] === 4 && T().epochs[i] < next).length;
      const ended = here(2) + here(3) + here(1) + failed;
      return {
        level,
        reached: reached.length,
        parts: [reached.length - ended, here(2), here(3), here(1), failed],
      };
    });
  }
  function rungsSection() {
    chosen.bracket = "all";
    const brackets = [...new Set(T().bracket)].sort((a, b) => a - b);
    const draw = () => {
      const places = shown.filter(
        (i) => chosen.bracket === "all" || T().bracket[i] === Number(chosen.bracket),
      );
      const rows = rungRows(places);
      if (!rows.length) return NOTHING;
      const colours = ["--running", "--finished", "--stopped", "--paused", "--failed"];
      const x = rows.map((row) => `epoch ${row.level}`);
      const traces = RUNG.map((word, k) => ({
        type: "bar",
        name: word,
        x,
        y: rows.map((row) => row.parts[k]),
        marker: { color: css(colours[k]), opacity: k === 0 ? 0.55 : 0.9 },
        hovertemplate: `%{y} ${word}<extra></extra>`,
      })).filter((trace) => trace.y.some((count) => count));
      const best = valued(places);
      return {
        traces,
        layout: {
          barmode: "stack",
          bargap: rows.length > 30 ? 0.05 : 0.35,
          xaxis: { type: "category", nticks: 16 },
          yaxis: { title: { text: "trials" } },
          height: 340,
        },
        note: best.length
          ? `Of ${counted(places.length, "trial")}, ${rows[rows.length - 1].parts[1].toLocaleString("en")} were trained to epoch ${rows[rows.length - 1].level}.`
          : "",
        table: () => ({
          caption: "Trials by rung",
          head: ["epoch", "reached it", ...RUNG],
          rows: rows.map((row) => [row.level, row.reached, ...row.parts]),
          numeric: true,
        }),
      };
    };
    const controls =
      brackets.length > 1
        ? [
            select(
              "bracket",
              "bracket",
              [["all", "all"], ...brackets.map((b) => [String(b), String(b)])],
              (value) => {
                chosen.bracket = value;
                redraw("rungs");
              },
            ),
          ]
        : [];
    return plotSection({
      id: "rungs",
      title: "Rungs and promotions",
      intro: "How many trials came to each rung, and what was decided there.",
      controls,
      draw,
    });
  }

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
          numeric: true,
        }),
      };
    };
    return plotSection({
      id: "importance",
      title: "Importance of the parameters",
      filtered: false,
      draw,
      intro:
        "How much each parameter matters for getting among the best tenth of all trials (PED-ANOVA, by Optuna).",
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
    const draw = (width) => {
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
        S.space[p].labels
          ? (((i * 7919 + p * 104729) % 97) / 97 - 0.5) * (0.5 / S.space[p].labels.length)
          : 0;
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
      intro:
        "One line a trial through its parameters to its best value; the better, the stronger the colour.",
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
        note: `Smoothed over ${counted(drawn.length, "trial")} by a Gaussian kernel of ${(width * 100).toFixed(0)}% of each range; blank where no trial is near. Bright is better.`,
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

  function bars(places) {
    // when workers were at work: [worker, begin, end, trial]; where that is not recorded null
    const made = [];
    for (const i of places) {
      const jobs = T().jobs[i];
      const now = S.ended === null ? S.read - S.started : S.ended - S.started;
      if (jobs.length)
        for (const [worker, begin, seconds] of jobs) made.push([worker, begin, begin + seconds, i]);
      else made.push([null, T().started[i], T().ended[i] ?? now, i]);
    }
    return made;
  }
  function timelineSection() {
    const draw = () => {
      const all = bars(shown).sort((a, b) => a[1] - b[1]);
      if (!all.length) return NOTHING;
      const workers = [...new Set(all.map((bar) => bar[0]).filter((worker) => worker !== null))].sort(
        (a, b) => a - b,
      );
      const lane = new Map(workers.map((worker, k) => [worker, k]));
      const free = []; // of the trials of which only begin and end are known
      const time = timeUnit(all.reduce((most, bar) => Math.max(most, bar[2]), 0));
      const traces = new Map();
      for (const [worker, begin, end, i] of all) {
        let row = lane.get(worker);
        if (worker === null) {
          let k = free.findIndex((until) => until <= begin);
          if (k < 0) k = free.length;
          free[k] = end;
          row = workers.length + k;
        }
        const k = T().fate[i];
        if (!traces.has(k))
          traces.set(k, {
            type: "scatter",
            mode: "lines",
            name: FATES[k].word,
            x: [],
            y: [],
            customdata: [],
            text: [],
            hovertemplate: "%{text}<extra></extra>",
            line: { color: css(FATES[k].colour), width: 0 },
          });
        const trace = traces.get(k);
        const text = label(`${name(i)}, ${FATES[k].word}: ${duration(end - begin)}`);
        // a hair's breadth between two jobs of a worker
        const inset = Math.min((end - begin) * 0.04, 0.001 * time.unit);
        for (const x of [begin + inset, (begin + end) / 2, end - inset, null]) {
          trace.x.push(x === null ? null : x / time.unit);
          trace.y.push(row);
          trace.customdata.push(i);
          trace.text.push(text);
        }
      }
      const rows = workers.length + free.length;
      const height = Math.min(900, 90 + rows * 24);
      for (const trace of traces.values())
        trace.line.width = Math.max(1.5, Math.min(15, ((height - 90) / rows) * 0.62));
      const busy = all.reduce((sum, bar) => sum + (bar[0] === null ? 0 : bar[2] - bar[1]), 0);
      const rowName = (k) => (k < workers.length ? `worker ${workers[k]}` : `(${k - workers.length + 1})`);
      const every = Math.ceil(rows / 40);
      const named = Array.from({ length: rows }, (_, k) => k).filter((k) => k % every === 0);
      return {
        traces: [...traces.values()],
        layout: {
          height,
          xaxis: { title: { text: `${time.name} since the study began` }, rangemode: "tozero" },
          yaxis: {
            range: [rows - 0.4, -0.6],
            tickvals: named,
            ticktext: named.map(rowName),
            showgrid: false,
          },
        },
        note: [
          busy && shown.length === T().id.length
            ? `Workers were busy for ${duration(busy)} in all, ${Math.round((100 * busy) / (Math.max(S.workers, 1) * Math.max(S.seconds, 0.1)))}% of ${counted(S.workers, "worker")} over ${duration(S.seconds)}.`
            : "",
          free.length
            ? "Rows with a number in brackets: of these trials only begin and end are recorded."
            : "",
        ].join(" "),
        table: () => ({
          caption: "Who worked on what, in order of time",
          head: ["worker", "begin (s)", "seconds", "trial", "status"],
          rows: all.map(([worker, begin, end, i]) => [
            worker === null ? "not recorded" : worker,
            begin,
            Number((end - begin).toFixed(2)),
            T().id[i],
            fateOf(i).word,
          ]),
        }),
      };
    };
    return plotSection({
      id: "timeline",
      title: "Timeline of the workers",
      intro: "When each worker was at work on which trial.",
      draw,
    });
  }

  function costSection() {
    const draw = () => {
      const spent = FATES.map((_, k) =>
        T().epochs.reduce((sum, epochs, i) => sum + (T().fate[i] === k ? epochs : 0), 0),
      );
      const full = T().id.length * S.max;
      if (!full || !spent.some((epochs) => epochs)) return "Nothing was trained yet.";
      const told = spent.reduce((a, b) => a + b, 0);
      const again = Math.max(0, S.epochs - told);
      const part = (word, epochs, colour, row) => ({
        type: "bar",
        orientation: "h",
        name: word,
        x: [epochs],
        y: [row],
        marker: { color: colour },
        hovertemplate: `${word}: %{x} epochs<extra></extra>`,
      });
      const rows = [
        ...FATES.map((fate, k) => [`${fate.word} trials`, spent[k]]),
        ["trained again", again],
        ["full training of every trial", full],
        ["saved", Math.max(0, full - S.epochs)],
      ];
      return {
        traces: [
          ...FATES.map((fate, k) => part(fate.word, spent[k], css(fate.colour), "spent")).filter(
            (trace) => trace.x[0],
          ),
          ...(again ? [part("trained again", again, css("--best"), "spent")] : []),
          part("full training of every trial", full, css("--grid"), "in full"),
        ],
        layout: {
          barmode: "stack",
          height: 220,
          xaxis: { title: { text: "epochs" } },
          yaxis: { autorange: "reversed" },
          bargap: 0.35,
        },
        note: `${S.epochs.toLocaleString("en")} epochs instead of ${full.toLocaleString("en")} for full training of every trial: ${Math.round(100 * (1 - S.epochs / full))}% saved.`,
        table: () => ({ caption: "Epochs", head: ["", "epochs"], rows, numeric: true }),
      };
    };
    const section = plotSection({
      id: "cost",
      title: "Cost and savings",
      filtered: false,
      draw,
      intro: "What the study spent, and what it would have spent without stopping early.",
    });
    const rows = [
      ["epochs", number(S.epochs), S.budget.epochs],
      [
        "wall-clock time",
        duration(S.seconds),
        S.budget.hours === undefined ? undefined : `${S.budget.hours} hours`,
      ],
      ["GPU-hours", number(S.gpuHours, 3), S.budget.gpu_hours],
    ];
    const price = S.budget.price_per_gpu_hour;
    if (price !== undefined)
      rows.push([`cost at ${price} a GPU-hour`, (S.gpuHours * price).toFixed(2), S.budget.cost]);
    section.querySelector(".note").after(
      el(
        "table",
        {},
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            ["", "spent", "budget"].map((text) => el("th", { scope: "col" }, text)),
          ),
        ),
        el(
          "tbody",
          {},
          rows.map(([what, used, limit]) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, what),
              el("td", {}, used),
              el("td", {}, limit === undefined ? "no limit" : String(limit)),
            ),
          ),
        ),
      ),
    );
    return section;
  }

  // --- tables

  function simpleTable({ caption, head, rows, numeric = false }) {
    const kept = rows.slice(0, MOST.table);
    let page = 0;
    const box = el("div");
    const pages = Math.ceil(kept.length / PAGE);
    function fill() {
      const body = kept.slice(page * PAGE, (page + 1) * PAGE).map((row) =>
        el(
          "tr",
          {},
          row.map((cell) => {
            const isNumber = typeof cell === "number" || cell === null || cell === undefined;
            return el("td", { class: isNumber ? "number" : null }, isNumber ? number(cell) : said(cell, 80));
          }),
        ),
      );
      const table = el(
        "table",
        { class: "wide" },
        el(
          "caption",
          {},
          caption +
            (rows.length > kept.length
              ? `: the first ${kept.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`
              : ""),
        ),
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            head.map((text) =>
              el(
                "th",
                { scope: "col", class: numeric ? "number" : null },
                text === "" ? el("span", { class: "hidden" }, "what") : said(text, 40),
              ),
            ),
          ),
        ),
        el("tbody", {}, body),
      );
      box.replaceChildren(
        el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": plain(caption) }, table),
        pages > 1
          ? pager(page, pages, (to) => {
              page = to;
              fill();
            })
          : "",
      );
    }
    fill();
    return box;
  }
  function pager(page, pages, go) {
    const to = (place, word) =>
      el(
        "button",
        { type: "button", disabled: place < 0 || place >= pages || place === page, onclick: () => go(place) },
        word,
      );
    return el(
      "div",
      { class: "pager" },
      to(0, "First"),
      to(page - 1, "Previous"),
      el("span", {}, `page ${(page + 1).toLocaleString("en")} of ${pages.toLocaleString("en")}`),
      to(page + 1, "Next"),
      to(pages - 1, "Last"),
    );
  }
  function fateCell(i) {
    const cell = el("span", { class: "fate" }, fateOf(i).word);
    cell.style.setProperty("--fate", `var(${fateOf(i).colour})`);
    return cell;
  }
  function trialsSection() {
    const columns = [
      {
        name: "trial",
        of: (i) => T().id[i],
        cell: (i) =>
          el(
            "button",
            {
              class: "plain",
              type: "button",
              "aria-label": `all of ${name(i)}`,
              onclick: () => showTrial(i),
            },
            String(T().id[i]),
          ),
        number: true,
      },
      { name: "status", of: (i) => fateOf(i).word, cell: fateCell },
      { name: `best ${S.metric}`, of: (i) => T().best[i], number: true },
      { name: "epochs", of: (i) => T().epochs[i], number: true },
      { name: "seconds", of: (i) => T().seconds[i], number: true },
      ...S.space.map((about, p) => ({
        name: about.name,
        of: (i) => (about.labels ? paramText(p, i) : S.params[p][i]),
        number: !about.labels,
        cell: about.labels ? (i) => el("bdi", {}, cut(paramText(p, i), 40)) : null,
      })),
      { name: "why it ended", of: reasonOf, cell: (i) => said(reasonOf(i), 90), long: true },
    ];
    let [by, down, page] = [2, S.mode === "max", 0];
    const box = el("div");
    let rows = [];
    function sort() {
      const of = columns[by].of;
      const keyed = shown.map((i) => [of(i), i]);
      const missing = (value) => value === null || value === undefined || value === "";
      keyed.sort(([a, i], [b, k]) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b) || i - k;
        return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) || i - k;
      });
      rows = keyed.map(([, i]) => i);
    }
    function head(column, k) {
      const order = k !== by ? "none" : down ? "descending" : "ascending";
      return el(
        "th",
        { scope: "col", "aria-sort": order, class: column.number ? "number" : null },
        el(
          "button",
          {
            type: "button",
            title: plain(column.name),
            "data-sort": String(k),
            onclick: () => {
              down = k === by ? !down : false;
              [by, page] = [k, 0];
              sort();
              fill();
              box.querySelector(`[data-sort="${k}"]`).focus();
              announce(`sorted by ${cut(column.name, 40)}, ${down ? "descending" : "ascending"}`);
            },
          },
          el("bdi", {}, cut(column.name, 30)),
        ),
      );
    }
    function fill() {
      const body = rows.slice(page * PAGE, (page + 1) * PAGE).map((i) =>
        el(
          "tr",
          {},
          columns.map((column) =>
            el(
              "td",
              { class: column.number ? "number" : column.long ? "long" : null },
              column.cell ? column.cell(i) : number(column.of(i)),
            ),
          ),
        ),
      );
      const pages = Math.max(1, Math.ceil(rows.length / PAGE));
      box.replaceChildren(
        el(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Trials" },
          el(
            "table",
            { class: "wide", id: "trials-table" },
            el("thead", {}, el("tr", {}, columns.map(head))),
            el("tbody", {}, body),
          ),
        ),
        rows.length
          ? pager(page, pages, (to) => {
              page = to;
              fill();
            })
          : el("p", { class: "message" }, "No trial passes the filters."),
      );
    }
    onFilter.push(() => {
      page = 0;
      sort();
      fill();
    });
    return el(
      "section",
      { id: "trials", "aria-labelledby": "trials-title" },
      el("h2", { id: "trials-title" }, "Trials"),
      el(
        "p",
        { class: "intro" },
        "Those that pass the filters. A trial's number shows all of it; headings sort.",
      ),
      box,
    );
  }

  const pairs = (rows) =>
    el(
      "dl",
      { class: "pairs" },
      rows
        .filter((row) => row)
        .flatMap(([key, value]) => [
          el("dt", {}, el("bdi", {}, plain(key))),
          el("dd", {}, value instanceof Node ? value : plain(value)),
        ]),
    );
  const configuration = (i) =>
    pairs(
      S.space.map((about, p) =>
        S.params[p][i] === null || S.params[p][i] === undefined
          ? null
          : [about.name, said(paramText(p, i), 300)],
      ),
    );
  function runId(run) {
    if (!S.link) return el("code", {}, run);
    return el(
      "a",
      { href: `${S.link}${encodeURIComponent(run)}`, target: "_blank", rel: "noopener noreferrer" },
      el("code", {}, run),
    );
  }
  function showTrial(i) {
    const dialog = document.getElementById("trial");
    const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
    const reason = reasonOf(i);
    dialog.replaceChildren(
      el("header", {}, el("h2", { id: "trial-title" }, `Trial ${T().id[i]}`), close),
      pairs([
        ["status", fateCell(i)],
        ["run", runId(T().run[i])],
        [
          `best ${S.metric}`,
          `${number(T().best[i], 10)}${T().best[i] === null ? "" : ` at epoch ${T().bestEpoch[i]}`}`,
        ],
        ["last value", number(T().value[i], 10)],
        ["trained", `${counted(T().epochs[i], "epoch")}, ${duration(T().seconds[i])}`],
        ["bracket, rung", `${T().bracket[i]}, ${T().rung[i]}`],
        T().attempt[i] > 1 ? ["attempts", String(T().attempt[i])] : null,
        reason ? ["why it ended", said(reason, 600)] : null,
        T().origin[i] ? ["taken from", said(S.texts[T().origin[i]], 300)] : null,
      ]),
      el("h3", {}, "Configuration"),
      configuration(i),
    );
    dialog.showModal();
    close.focus();
  }

  // --- what is no plot

  function cards() {
    const counts = FATES.map((_, k) => T().fate.filter((fate) => fate === k).length);
    const full = T().id.length * S.max;
    const best = S.best;
    const meter = el(
      "div",
      { class: "meter", "aria-hidden": "true" },
      [2, 3, 1, 0, 4]
        .map((k) => [counts[k], k])
        .map(([count, k]) => {
          const bar = el("i");
          bar.style.width = `${(100 * count) / Math.max(1, T().id.length)}%`;
          bar.style.background = `var(${FATES[k].colour})`;
          return bar;
        }),
    );
    const card = (term, big, ...small) =>
      el(
        "div",
        { class: "card" },
        el("dt", {}, term),
        el(
          "dd",
          {},
          el("div", { class: "big" }, big),
          small.map((line) => (line instanceof Node ? line : el("div", { class: "small" }, line))),
        ),
      );
    const infeasible = T().infeasible.filter((text, i) => text && T().fate[i] !== 4).length;
    const made = [
      card(
        el("bdi", {}, `Best ${cut(S.metric, 40)} (${S.mode})`),
        best === null ? "–" : number(T().best[best]),
        best === null ? "no trial has a value yet" : `trial ${T().id[best]}, epoch ${T().bestEpoch[best]}`,
      ),
      card(
        "Trials",
        `${T().id.length.toLocaleString("en")} of ${S.planned.toLocaleString("en")}`,
        meter,
        [2, 3, 1, 0, 4]
          .map((k) => (counts[k] ? `${counts[k].toLocaleString("en")} ${FATES[k].word}` : ""))
          .filter(Boolean)
          .join(", ") + (infeasible ? `; ${infeasible.toLocaleString("en")} infeasible` : ""),
      ),
      card(
        "Epochs",
        S.epochs.toLocaleString("en"),
        full && S.epochs
          ? `${Math.round(100 * (1 - S.epochs / full))}% saved of ${full.toLocaleString("en")}`
          : "nothing was trained yet",
      ),
      card("Time", duration(S.seconds), `began ${date(S.started)}`),
    ];
    if (S.gpuHours > 0)
      made.push(
        card(
          "GPU-hours",
          number(S.gpuHours, 3),
          S.budget.price_per_gpu_hour === undefined
            ? ""
            : `cost ${(S.gpuHours * S.budget.price_per_gpu_hour).toFixed(2)}`,
        ),
      );
    made.push(
      card(
        "Search",
        el("bdi", {}, cut(S.searcher, 30)),
        el(
          "div",
          { class: "small" },
          el("bdi", {}, `${cut(S.scheduler, 40)}, ${counted(S.workers, "worker")}`),
        ),
      ),
    );
    return el("dl", { class: "cards", id: "summary" }, made);
  }
  function bestSection() {
    const best = S.best;
    if (best === null) return null;
    return el(
      "section",
      { id: "best", "aria-labelledby": "best-title" },
      el("h2", { id: "best-title" }, "Best trial"),
      pairs([
        [
          "trial",
          el("button", { class: "plain", type: "button", onclick: () => showTrial(best) }, `${T().id[best]}`),
        ],
        ["run", runId(T().run[best])],
        [S.metric, `${number(T().best[best], 10)} at epoch ${T().bestEpoch[best]}`],
        S.model ? ["model is of", said(S.model)] : null,
      ]),
      el("h3", {}, "Configuration"),
      configuration(best),
    );
  }
  function aboutSection() {
    return el(
      "section",
      { id: "about", "aria-labelledby": "about-title" },
      el("h2", { id: "about-title" }, "The study"),
      pairs([
        ["run", runId(S.run)],
        ["experiment", said(S.experiment, 100)],
        ["task", said(S.task, 200)],
        S.reason ? ["ended because", said(S.reason, 300)] : null,
        ["began", date(S.started)],
        ["ended", S.ended === null ? "it runs, or its driver was killed" : date(S.ended)],
        ["read", date(S.read)],
      ]),
      el(
        "details",
        {},
        el("summary", {}, "All settings"),
        pairs(Object.entries(S.settings).map(([key, value]) => [key, said(value, 300)])),
      ),
    );
  }
  function warmSection() {
    const warm = S.warmStart;
    if (!warm) return null;
    const configurationsKnown = Array.isArray(warm.configurations) ? warm.configurations : [];
    const tasks = Array.isArray(warm.tasks) ? warm.tasks : [];
    const taken = T()
      .id.map((_, i) => i)
      .filter((i) => T().origin[i]);
    const good = valued(taken).reduce(
      (a, b) => (a === null || better(T().best[b], T().best[a]) < 0 ? b : a),
      null,
    );
    const words =
      good === null
        ? ""
        : ` The best of those reached ${number(T().best[good])} (trial ${T().id[good]}); the study's best is ${number(T().best[S.best])} (trial ${T().id[S.best]}).`;
    const names = [...new Set(configurationsKnown.flatMap((each) => Object.keys(each.config ?? {})))];
    return el(
      "section",
      { id: "warm", "aria-labelledby": "warm-title" },
      el("h2", { id: "warm-title" }, "Warm start"),
      el("p", { class: "intro" }, said(S.settings.warm_start ?? "", 300)),
      el("p", {}, `${counted(taken.length, "trial")} took a configuration that was good before.${words}`),
      tasks.length
        ? simpleTable({
            caption: "Earlier tasks, and how much each counted",
            head: ["task", "weight", "trials"],
            rows: tasks.map((task) => [task.task, task.weight, task.trials]),
          })
        : null,
      configurationsKnown.length
        ? simpleTable({
            caption: "What was to be tried first",
            head: ["from task", "expected", ...names],
            rows: configurationsKnown.map((each) => [
              String(each.task),
              each.expected,
              ...names.map((key) =>
                Object.hasOwn(each.config, key)
                  ? typeof each.config[key] === "number"
                    ? each.config[key]
                    : String(each.config[key])
                  : "",
              ),
            ]),
          })
        : null,
    );
  }
  function failuresSection() {
    if (!S.failures.length) return null;
    const total = S.failures.reduce((sum, group) => sum + group.count, 0);
    return el(
      "section",
      { id: "failures", "aria-labelledby": "failures-title" },
      el("h2", { id: "failures-title" }, "Failures"),
      el(
        "p",
        { class: "intro" },
        `${counted(total, "trial")} failed, for ${counted(S.failures.length, "reason")}; reasons that differ in numbers only stand together.`,
      ),
      el(
        "div",
        { class: "scroll" },
        el(
          "table",
          {},
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              ["trials", "reason, as the first one had it", "which"].map((text) =>
                el("th", { scope: "col" }, text),
              ),
            ),
          ),
          el(
            "tbody",
            {},
            S.failures.map((group) =>
              el(
                "tr",
                {},
                el("td", { class: "number" }, group.count.toLocaleString("en")),
                el(
                  "td",
                  {},
                  said(group.reason || "no reason is recorded", 300),
                  group.traceback
                    ? el(
                        "details",
                        {},
                        el("summary", {}, "Traceback"),
                        el("pre", { tabindex: "0" }, lines(group.traceback)),
                      )
                    : null,
                ),
                el(
                  "td",
                  {},
                  group.trials
                    .slice(0, 12)
                    .map((id) => [
                      el(
                        "button",
                        {
                          class: "plain",
                          type: "button",
                          "aria-label": `all of trial ${id}`,
                          onclick: () => showTrial(T().id.indexOf(id)),
                        },
                        String(id),
                      ),
                      " ",
                    ]),
                  group.count > 12 ? "…" : null,
                ),
              ),
            ),
          ),
        ),
      ),
    );
  }
  function comparisonSection() {
    chosen.compare = "trials";
    const same = STUDIES.filter(
      (study) => study.metric === STUDIES[0].metric && study.mode === STUDIES[0].mode,
    );
    const draw = () => {
      const column = { trials: 0, epochs: 1, time: 2 }[chosen.compare];
      const time = timeUnit(same.reduce((most, study) => Math.max(most, study.seconds), 0));
      const scale = column === 2 ? 1 / time.unit : 1;
      const drawn = same.filter((study) => study.incumbent.length);
      if (!drawn.length) return "No study has a value yet.";
      const worst = drawn.map((study) => study.incumbent[0][3]);
      return {
        traces: drawn.map((study, k) => ({
          type: "scatter",
          mode: "lines+markers",
          name: label(study.name, 30),
          x: study.incumbent.map((step) => step[column] * scale),
          y: study.incumbent.map((step) => step[3]),
          line: {
            shape: "hv",
            width: 2.2,
            color: SERIES[k % SERIES.length],
            dash: DASHES[Math.floor(k / SERIES.length) % DASHES.length],
          },
          marker: { size: 5 },
          text: study.incumbent.map(() => label(study.name, 40)),
          hovertemplate: "%{text}: %{y}<extra></extra>",
        })),
        layout: {
          xaxis: {
            title: {
              text: {
                trials: "trials",
                epochs: "epochs spent in all",
                time: `${time.name} since the study began`,
              }[chosen.compare],
            },
            rangemode: "tozero",
          },
          yaxis: { title: { text: label(STUDIES[0].metric, 40) } },
          height: 400,
        },
        note:
          same.length < STUDIES.length
            ? "Only the studies with the first one's metric and mode are drawn."
            : worst.length < same.length
              ? "Studies without a value are left out."
              : "",
        table: () => ({
          caption: "Best values, where they became better",
          head: ["study", "trials", "epochs", "seconds", "best"],
          rows: drawn.flatMap((study) => study.incumbent.map((step) => [study.name, ...step])),
        }),
      };
    };
    const by = select(
      "compare-by",
      "over",
      [
        ["trials", "trials"],
        ["epochs", "epochs"],
        ["time", "time"],
      ],
      (value) => {
        chosen.compare = value;
        redraw("comparison");
      },
    );
    const section = plotSection({
      id: "comparison",
      title: "Comparison of the studies",
      intro: "The best value so far of each study.",
      controls: [by],
      draw,
      filtered: false,
    });
    const rows = STUDIES.map((study) => [
      study.name,
      study.status.toLowerCase(),
      `${study.metric} (${study.mode})`,
      study.best === null ? null : study.trials.best[study.best],
      study.trials.id.length,
      study.epochs,
      Math.round(100 * (1 - study.epochs / Math.max(1, study.trials.id.length * study.max))),
      Math.round(study.seconds),
      study.trials.fate.filter((fate) => fate === 4).length,
      study.searcher,
      study.scheduler,
    ]);
    section
      .querySelector(".note")
      .after(
        simpleTable({
          caption: "The studies",
          head: [
            "study",
            "status",
            "metric",
            "best",
            "trials",
            "epochs",
            "saved (%)",
            "seconds",
            "failed",
            "searcher",
            "scheduler",
          ],
          rows,
        }),
      );
    return section;
  }

  // --- the page

  function heading() {
    const status = el("span", { class: "badge" }, S.status.toLowerCase());
    status.style.color = `var(${{ FINISHED: "--running", RUNNING: "--accent", KILLED: "--paused", FAILED: "--failed" }[S.status] ?? "--soft"})`;
    document
      .getElementById("heading")
      .replaceChildren(
        el("h1", {}, said(S.name || S.run, 120), status),
        el(
          "p",
          { class: "sub" },
          el("bdi", {}, cut(S.task, 80)),
          " · ",
          el("bdi", {}, cut(S.experiment, 60)),
          ` · ${counted(T().id.length, "trial")} · ${date(S.started)}`,
        ),
      );
  }
  function tools() {
    const kept = (value) => {
      try {
        if (value === undefined) return localStorage.getItem("mlflow-hpo-theme");
        localStorage.setItem("mlflow-hpo-theme", value);
      } catch {
        /* not here */
      }
      return null;
    };
    const theme = (value) => {
      if (value === "light" || value === "dark") document.documentElement.dataset.theme = value;
      else delete document.documentElement.dataset.theme;
      for (const plot of plots) plot.stale = true;
      drawVisible();
    };
    const start = kept() ?? "auto";
    theme(start);
    const parts = [
      select(
        "theme",
        "Colours",
        [
          ["auto", "as the system"],
          ["light", "light"],
          ["dark", "dark"],
        ],
        (value) => {
          kept(value);
          theme(value);
        },
        start,
      ),
    ];
    if (STUDIES.length > 1)
      parts.unshift(
        select(
          "study",
          "Study",
          STUDIES.map((study, k) => [String(k), cut(study.name || study.run, 40)]),
          (value) => {
            S = STUDIES[Number(value)];
            build();
          },
        ),
      );
    document.getElementById("tools").replaceChildren(...parts);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      theme(document.documentElement.dataset.theme),
    );
  }
  const WORDS = {
    comparison: "Comparison",
    best: "Best",
    about: "Study",
    filter: "Filter",
    incumbent: "Incumbent",
    curves: "Curves",
    rungs: "Rungs",
    importance: "Importance",
    parallel: "Parallel",
    slices: "Slices",
    contour: "Contour",
    timeline: "Timeline",
    cost: "Cost",
    warm: "Warm start",
    failures: "Failures",
    trials: "Trials",
  };
  function build() {
    for (const plot of plots) {
      observer.unobserve(plot.div);
      Plotly.purge(plot.div);
    }
    [plots, onFilter, haystacks] = [[], [], null];
    clearFilters();
    compareBy("best");
    heading();
    const two = (...parts) => {
      const there = parts.filter((part) => part);
      return there.length > 1 ? el("div", { class: "columns" }, there) : there[0];
    };
    document
      .getElementById("main")
      .replaceChildren(
        ...[
          cards(),
          STUDIES.length > 1 ? comparisonSection() : null,
          two(bestSection(), aboutSection()),
          filterSection(),
          incumbentSection(),
          curvesSection(),
          two(rungsSection(), importanceSection()),
          parallelSection(),
          slicesSection(),
          contourSection(),
          timelineSection(),
          costSection(),
          warmSection(),
          failuresSection(),
          trialsSection(),
        ].filter((part) => part),
      );
    const links = [...document.querySelectorAll("main section")].map((section) =>
      el("a", { href: `#${section.id}` }, WORDS[section.id]),
    );
    document.getElementById("sections").replaceChildren(...links);
    applyFilters();
  }
  new IntersectionObserver(() => {}, {}); // fails here, and not later, in a browser that is too old
  addEventListener("beforeprint", () => {
    for (const plot of plots) if (plot.stale) plot.paint();
  });
  document.getElementById("trial").addEventListener("click", (event) => {
    if (event.target === event.currentTarget) event.target.close();
  });
  tools();
  build();
})();
