// Rungs and promotions.

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
    const places = shown.filter((i) => chosen.bracket === "all" || T().bracket[i] === Number(chosen.bracket));
    const rows = rungRows(places);
    if (!rows.length) return NOTHING;
    const last = rows[rows.length - 1];
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
        ? `${counted(last.reached, "trial")} of ${number(places.length)} came to epoch ${last.level}.`
        : "",
      table: () => ({
        caption: "Trials by rung",
        head: ["epoch", "reached it", ...RUNG],
        rows: rows.map((row) => [row.level, row.reached, ...row.parts]),
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
