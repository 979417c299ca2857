// Text and elements: what others wrote is only ever shown as text.

const LONG = 160; // characters of a text that are shown at once
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

function headed(texts) {
  return el("thead", {}, el("tr", {}, texts.map((text) => el("th", { scope: "col" }, text))));
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
        button.textContent = open ? "show less" : `show all ${whole.length.toLocaleString("en")} characters`;
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
