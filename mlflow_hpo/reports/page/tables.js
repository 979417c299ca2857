// Tables, page by page.

const PAGE = 50; // rows of a table that are shown at a time
function simpleTable({ caption, head, rows }) {
  const isNumber = (cell) => typeof cell === "number" || cell === null || cell === undefined;
  const numeric = head.map((_, k) => rows.length > 0 && rows.slice(0, PAGE).every((row) => isNumber(row[k])));
  const kept = rows.slice(0, MOST.table);
  let page = 0;
  const box = el("div");
  const pages = Math.ceil(kept.length / PAGE);
  function fill() {
    const body = kept.slice(page * PAGE, (page + 1) * PAGE).map((row) =>
      el(
        "tr",
        {},
        row.map((cell, k) =>
          el("td", { class: numeric[k] ? "number" : null }, isNumber(cell) ? number(cell) : said(cell, 80)),
        ),
      ),
    );
    const table = el(
      "table",
      { class: "wide data" },
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
          head.map((text, k) =>
            el(
              "th",
              { scope: "col", class: numeric[k] ? "number" : null },
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
        ? pager(box, page, pages, (to) => {
            page = to;
            fill();
          })
        : "",
    );
  }
  fill();
  return box;
}
function pager(box, page, pages, go) {
  function turn(place, word) {
    go(place); // makes other buttons: the keyboard stays where it was
    (box.querySelector(`[data-go="${word}"]:enabled`) ?? box.querySelector("[data-go]:enabled")).focus();
  }
  const to = (place, word) =>
    el(
      "button",
      {
        type: "button",
        "data-go": word,
        disabled: place < 0 || place >= pages || place === page,
        onclick: () => turn(place, word),
      },
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
        ? pager(box, page, pages, (to) => {
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
