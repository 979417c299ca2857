// The page.

const STATUS = { FINISHED: "--running", RUNNING: "--accent", KILLED: "--paused", FAILED: "--failed" };

function heading() {
  const status = el("span", { class: "badge" }, S.status.toLowerCase());
  status.style.color = `var(${STATUS[S.status] ?? "--soft"})`;
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
addEventListener("beforeprint", () => {
  for (const plot of plots) if (plot.stale) plot.paint();
});
document.getElementById("trial").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.target.close();
});
tools();
build();
