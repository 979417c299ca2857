// Who worked when, and what it cost.

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
          line: { color: css(FATES[k].colour), width: 0, simplify: false },
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
    const share = Math.round((100 * busy) / (Math.max(S.workers, 1) * Math.max(S.seconds, 0.1)));
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
          ? `Workers were busy for ${duration(busy)}: ${share}% of ${counted(S.workers, "worker")} over ${duration(S.seconds)}.`
          : "",
        free.length ? "Rows with a number in brackets: of these trials only begin and end are recorded." : "",
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
      note:
        `${number(S.epochs)} epochs instead of ${number(full)} for full training of every trial: ` +
        `${Math.round(100 * (1 - S.epochs / full))}% saved.`,
      table: () => ({ caption: "Epochs", head: ["", "epochs"], rows }),
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
      headed(["", "spent", "budget"]),
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
