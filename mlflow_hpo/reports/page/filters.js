// Filters: which trials the plots and the table show.

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
