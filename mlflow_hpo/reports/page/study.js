// The studies of this page, the one that is shown, and what its trials are compared by.

const STUDIES = JSON.parse(document.getElementById("data").textContent).studies;
const FATES = [
  { word: "running", colour: "--running", symbol: "diamond" },
  { word: "paused", colour: "--paused", symbol: "square" },
  { word: "fully trained", colour: "--finished", symbol: "circle" },
  { word: "stopped early", colour: "--stopped", symbol: "circle" },
  { word: "failed", colour: "--failed", symbol: "x" },
];
const ORDER = [3, 4, 1, 0, 2]; // in which they are drawn, the last on top
const MOST = {
  curves: 500,
  points: 2500,
  curvePoints: 12000,
  lines: 400,
  axes: 12,
  slices: 12,
  table: 2000,
  kernel: 1500,
};
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
  if (about.log) return Math.exp(Math.log(about.low) + place * (Math.log(about.high) - Math.log(about.low)));
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
    ? `${number(drawn)} of ${counted(all, what)} are drawn: the best, and an even choice of the others.`
    : "";
function robust(values, reach = 2.5) {
  // the range of an axis that a few far-off values do not squeeze: it begins where the best are told apart
  const sorted = values.filter((v) => v !== null).sort(better);
  if (sorted.length < 8) return null;
  const [best, middle, worst] = [sorted[0], sorted[Math.floor(sorted.length / 2)], sorted[sorted.length - 1]];
  const far = middle + reach * (middle - best);
  if (best === middle || better(worst, far) <= 0) return null;
  const pad = Math.abs(far - best) * 0.05;
  return best < far ? [best - pad, far] : [far, best + pad];
}
