// Several studies side by side.

const SERIES = ["#0072b2", "#d1450c", "#00896a", "#a855a0", "#c47a00", "#3b9bd6", "#7a6a4f", "#777f8c"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
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
  section.querySelector(".note").after(
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
