// Quick charts of a query's rows, drawn as SVG.
import { h, shown } from "./common.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 860;
const HEIGHT = 320;
const EDGE = { left: 64, right: 16, top: 30, bottom: 44 };
const MOST_BARS = 60;
const BINS = 30;

function svg(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

const number = (value) => (value === null ? NaN : Number(value));
const moment = (value) => (value === null ? NaN : Date.parse(value.includes("T") ? `${value}Z` : value));

/** Round numbers from `low` to `high`, about five of them. */
function ticks(low, high) {
  const raw = (high - low || Math.abs(high) || 1) / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  return found;
}

function range(values, withZero) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (withZero) [low, high] = [Math.min(low, 0), Math.max(high, 0)];
  return high > low ? [low, high] : [low - (low ? Math.abs(low) / 2 : 1), high + (high ? Math.abs(high) / 2 : 1)];
}

function canvas(label) {
  return svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": label });
}

const across = ([low, high]) => (value) => EDGE.left + ((value - low) / (high - low)) * (WIDTH - EDGE.left - EDGE.right);
const up = ([low, high]) => (value) => HEIGHT - EDGE.bottom - ((value - low) / (high - low)) * (HEIGHT - EDGE.top - EDGE.bottom);

function grid(view, yRange, y) {
  for (const tick of ticks(...yRange)) {
    view.append(svg("line", { x1: EDGE.left, x2: WIDTH - EDGE.right, y1: y(tick), y2: y(tick), class: "grid" }),
      svg("text", { x: EDGE.left - 8, y: y(tick) + 4, class: "end" }, shown(tick)));
  }
}

function bottom(view, places, x) {
  for (const [value, text] of places) view.append(svg("text", { x: x(value), y: HEIGHT - EDGE.bottom + 18, class: "middle" }, text));
}

function named(view, x, y) {
  view.append(svg("text", { x: (WIDTH + EDGE.left) / 2, y: HEIGHT - 6, class: "middle title" }, x),
    svg("text", { x: 4, y: 14, class: "title" }, y));
}

function bars(labels, values, xName, yName) {
  const view = canvas(`${yName} by ${xName}: ${values.length} bars`);
  const yRange = range(values.filter(Number.isFinite), true);
  const y = up(yRange);
  grid(view, yRange, y);
  const width = (WIDTH - EDGE.left - EDGE.right) / values.length;
  const every = Math.ceil((values.length * 70) / (WIDTH - EDGE.left));
  values.forEach((value, i) => {
    const left = EDGE.left + i * width;
    if (Number.isFinite(value)) {
      const bar = svg("rect", { x: left + width * 0.1, width: Math.max(width * 0.8, 1), y: Math.min(y(value), y(0)), height: Math.abs(y(value) - y(0)), class: "bar" });
      bar.append(svg("title", {}, `${labels[i]}: ${shown(value)}`));
      view.append(bar);
    }
    const label = String(labels[i]);
    const most = Math.max(4, Math.floor((width * every) / 9));
    if (i % every === 0) view.append(svg("text", { x: left + width / 2, y: HEIGHT - EDGE.bottom + 18, class: "middle" }, label.length > most ? `${label.slice(0, most - 1)}…` : label));
  });
  named(view, xName, yName);
  return view;
}

function points(kind, xs, ys, xKind, xName, yName) {
  const both = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
  if (kind === "line") both.sort(([a], [b]) => a - b);
  const view = canvas(`${yName} over ${xName}: ${both.length} points`);
  const xRange = range(both.map(([x]) => x));
  const yRange = range(both.map(([, y]) => y));
  const [x, y] = [across(xRange), up(yRange)];
  grid(view, yRange, y);
  bottom(view, ticks(...xRange).map((tick) => [tick, xKind === "time" ? new Date(tick).toISOString().slice(0, 10) : shown(tick)]), x);
  if (kind === "line") view.append(svg("path", { d: both.map(([px, py], i) => `${i ? "L" : "M"}${x(px)} ${y(py)}`).join(""), class: "line" }));
  else for (const [px, py] of both) view.append(svg("circle", { cx: x(px), cy: y(py), r: 3, class: "point" }));
  named(view, xName, yName);
  return view;
}

function histogram(values, name) {
  const finite = values.filter(Number.isFinite);
  const [low, high] = range(finite);
  // Of few whole numbers each has a bar of its own.
  const whole = finite.every(Number.isInteger) && high - low < BINS;
  const count = whole ? high - low + 1 : BINS;
  const width = whole ? 1 : (high - low) / BINS;
  const counts = Array(count).fill(0);
  for (const value of finite) counts[Math.min(Math.floor((value - low) / width), count - 1)] += 1;
  const labels = counts.map((_, i) => (whole ? shown(low + i) : `${shown(low + i * width)} to ${shown(low + (i + 1) * width)}`));
  return bars(labels, counts, name, "rows");
}

/** What can be drawn of these columns, the likeliest first. */
export function kinds(columns) {
  const numbers = columns.filter(({ kind }) => kind === "number");
  if (!numbers.length) return [];
  const found = [];
  if (columns.some(({ kind }) => kind === "text")) found.push("bar");
  if (columns.some(({ kind }) => kind === "time") || numbers.length > 1) found.push("line", "points");
  return [...found, "histogram", ...(found.includes("bar") ? [] : ["bar"])];
}

/** The column that goes along: of a bar chart the first text, else the first time or number. */
export function along(kind, columns) {
  const wanted = kind === "bar" ? ["text", "time", "number"] : ["time", "number"];
  for (const one of wanted) {
    const index = columns.findIndex((column) => column.kind === one);
    if (index >= 0) return index;
  }
  return 0;
}

export function chart(kind, columns, rows, x, y) {
  const values = rows.map((row) => number(row[y]));
  if (!values.some(Number.isFinite)) return h("p", { class: "soft" }, `there are no numbers in ${columns[y].name}`);
  if (kind === "histogram") return histogram(values, columns[y].name);
  if (kind === "bar") {
    const shownRows = rows.slice(0, MOST_BARS);
    const view = bars(shownRows.map((row) => shown(row[x])), shownRows.map((row) => number(row[y])), columns[x].name, columns[y].name);
    return rows.length > MOST_BARS ? h("div", {}, h("p", { class: "soft" }, `the first ${MOST_BARS} of ${rows.length} rows`), view) : view;
  }
  const read = columns[x].kind === "time" ? moment : number;
  const places = rows.map((row) => read(row[x]));
  if (!places.some(Number.isFinite)) return h("p", { class: "soft" }, `${columns[x].name} is neither a number nor a time: choose another column`);
  return points(kind, places, values, columns[x].kind, columns[x].name, columns[y].name);
}
