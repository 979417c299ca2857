// What is no plot: the study in short, its best trial, warm start and failures, and all of one trial.

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
      T().id.length === S.planned ? number(S.planned) : `${number(T().id.length)} of ${number(S.planned)}`,
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
      : ` The best of those reached ${number(T().best[good])} (trial ${T().id[good]}); ` +
        `the study's best is ${number(T().best[S.best])} (trial ${T().id[S.best]}).`;
  const names = [...new Set(configurationsKnown.flatMap((each) => Object.keys(each.config ?? {})))];
  return el(
    "section",
    { id: "warm", "aria-labelledby": "warm-title" },
    el("h2", { id: "warm-title" }, "Warm start"),
    el("p", { class: "intro" }, said(S.settings.warm_start ?? "", 300)),
    S.misled ? el("p", {}, said(S.misled, 300)) : null,
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
      `${counted(total, "trial")} failed, for ${counted(S.failures.length, "reason")}; ` +
        "reasons that differ in numbers only stand together.",
    ),
    el(
      "div",
      { class: "scroll" },
      el(
        "table",
        {},
        headed(["trials", "reason of the first one"]),
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
                el(
                  "div",
                  { class: "small" },
                  group.count === 1 ? "trial " : "trials ",
                  group.trials.slice(0, 12).map((id) => [
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
    ),
  );
}
