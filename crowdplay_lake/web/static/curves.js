// Curves under a film: staircases of what changes with the steps, and where the film stands on them.
import { agentName, getJSON, h, shown } from "./common.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 100;

function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** The points as a path: level until the next one; a gap where there is no value. */
function staircase({ steps, values }, end, y) {
  let path = "";
  let pen = false;
  steps.forEach((step, i) => {
    if (values[i] === null) {
      if (pen) path += `H${step}`;
      pen = false;
      return;
    }
    path += pen ? `H${step}V${y(values[i])}` : `M${step} ${y(values[i])}`;
    pen = true;
  });
  return pen ? `${path}H${end}` : path;
}

/** The value that holds at `step`: that of the last point at or before it. */
function valueAt({ steps, values }, step) {
  let low = 0;
  let high = steps.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle + 1;
    else high = middle;
  }
  return low ? values[low - 1] : null;
}

export class Curves {
  /** `seek` is told the step that is pointed at, `changed` that the choice is another. */
  constructor(place, episode, { seek, changed, failed }) {
    Object.assign(this, { place, episode, seek, changed, failed });
    this.drawn = new Map();
    this.step = 0;
  }

  get names() {
    return [...this.drawn.keys()];
  }

  async add(names) {
    const missing = names.filter((name) => !this.drawn.has(name));
    const offered = (name) => this.episode.curves.some((curve) => curve.name === name) || /^ram_[0-7][0-9a-f]$/.test(name);
    await this.#ask(missing.filter(offered));
    // What there is not is asked for all the same: the server knows the nearest names.
    for (const name of missing) if (!offered(name)) await this.#ask([name]);
  }

  async #ask(missing) {
    if (!missing.length) return;
    try {
      const { id, commit } = this.episode;
      const { curves } = await getJSON("/api/curves", { id, commit, names: missing.join(",") });
      for (const curve of curves) this.#draw(curve);
      this.changed();
    } catch (error) {
      this.failed(error);
    }
  }

  remove(name) {
    this.drawn.get(name)?.figure.remove();
    this.drawn.delete(name);
    this.changed();
  }

  #draw(curve) {
    const entries = Object.entries(curve.agents);
    const all = entries.flatMap(([, { values }]) => values.filter((value) => value !== null));
    const [low, high] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 0];
    const y = (value) => (high > low ? HEIGHT - 4 - ((value - low) / (high - low)) * (HEIGHT - 8) : HEIGHT / 2);
    const end = Math.max(this.episode.steps - 1, 1);
    const view = svg("svg", { viewBox: `0 0 ${end} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    const ids = this.episode.agents.map(({ id }) => id);
    const legend = entries.map(([agent, points]) => {
      const series = Math.max(ids.indexOf(agent), 0);
      view.append(svg("path", { d: staircase(points, end, y), class: `curve series-${series}` }));
      const value = h("output", { class: "number" }, "–");
      const approximate = points.exact ? null : h("span", { class: "soft", title: "It changes too often to draw every change: least and greatest values of stretches are drawn" }, " ≈");
      return { points, value, item: h("span", { class: `legend series-${series}` }, h("span", { class: "dot", "aria-hidden": "true" }), agent === "all" ? "all" : agentName(agent), " ", value, approximate) };
    });
    const cursor = svg("line", { y1: 0, y2: HEIGHT, class: "cursor" });
    view.append(cursor);
    view.addEventListener("pointerdown", (event) => {
      const point = (at) => {
        const box = view.getBoundingClientRect();
        this.seek(Math.round(((at.clientX - box.left) / box.width) * end));
      };
      point(event);
      view.setPointerCapture(event.pointerId);
      view.onpointermove = point;
      view.onpointerup = () => (view.onpointermove = null);
    });
    const close = h("button", { type: "button", class: "small", "aria-label": `Remove the curve of ${curve.name}`, onclick: () => this.remove(curve.name) }, "×");
    const range = curve.error ? h("span", { class: "soft" }, curve.error) : h("span", { class: "soft" }, all.length ? `${shown(low)} to ${shown(high)}` : "no values");
    const figure = h("figure", { class: "plot", "data-curve": curve.name },
      h("figcaption", {}, h("strong", {}, curve.name), legend.map(({ item }) => item), range, close), view);
    this.place.append(figure);
    this.drawn.set(curve.name, { figure, cursor, legend });
    this.#point(curve.name);
  }

  #point(name) {
    const { cursor, legend } = this.drawn.get(name);
    cursor.setAttribute("x1", this.step);
    cursor.setAttribute("x2", this.step);
    for (const { points, value } of legend) {
      const text = shown(valueAt(points, this.step)) || "–";
      if (value.textContent !== text) value.textContent = text;
    }
  }

  show(step) {
    this.step = step;
    for (const name of this.drawn.keys()) this.#point(name);
  }
}
