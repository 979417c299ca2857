// What all plots share: they are drawn when they come into view, and stand as tables, too.

const NOTHING = "No trial that is shown has what this plot needs.";
const CUT_OFF = "Values that are far worse lie outside the axis; double-click the plot to see them all.";
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
