/** Small plots over time, drawn as SVG. What has no data is a gap and not a line. */

import { element, setAttribute, setText } from "./admin_elements.mjs";
import { clock, duration } from "./admin_units.mjs";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, TOP, BOTTOM, LEFT] = [320, 96, 6, 14, 2];

/** `[[t, value]…]` in pieces: a value that is missing, or a pause of more than two steps and a half, ends one. */
export function pieces(samples, index, stepMs) {
  const found = [];
  let [piece, before] = [[], null];
  for (const sample of samples) {
    const [at, value] = [sample[0], sample[index]];
    const isMissing = typeof value !== "number" || !Number.isFinite(value);
    if (piece.length > 0 && (isMissing || at - before > stepMs * 2.5)) {
      found.push(piece);
      piece = [];
    }
    if (isMissing) continue;
    piece.push([at, value]);
    before = at;
  }
  return piece.length > 0 ? [...found, piece] : found;
}

/** The least of 1, 2, 5 · 10ⁿ that is not below the value: the top of the scale, which then seldom jumps. */
export function scaleTop(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= value * (1 - 1e-9));
  return step * power;
}

/** The `d` of a path; a piece of one sample is a short stroke, so that it can be seen. */
export function path(found, { fromMs, toMs, top }) {
  const x = (at) => LEFT + ((at - fromMs) / (toMs - fromMs)) * (WIDTH - 2 * LEFT);
  const y = (value) => HEIGHT - BOTTOM - (Math.max(0, Math.min(value, top)) / top) * (HEIGHT - TOP - BOTTOM);
  const point = ([at, value]) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
  return found.map((piece) => (piece.length === 1 ? `M${point(piece[0])}h1` : `M${piece.map(point).join("L")}`)).join("");
}

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** One plot: a title, up to two lines, and what they are now. `lines`: `[{name, label, kind}]`; `format` says a value. */
export class Plot {
  #lines;
  #format;
  #title;
  #drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #paths;
  #now = element("p", { className: "now" });
  #top = element("span", { className: "top" });
  #from = element("span");
  #to = element("span");

  constructor(title, lines, format) {
    [this.#title, this.#lines, this.#format] = [title, lines, format];
    this.#drawing.append(svg("line", { class: "ground", x1: 0, x2: WIDTH, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }), svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: TOP, y2: TOP }));
    this.#paths = lines.map((_, index) => svg("path", { class: `line line-${index}`, "vector-effect": "non-scaling-stroke" }));
    this.#drawing.append(...this.#paths);
    const values = lines.map(({ label }, index) => element("span", { className: `value value-${index}` }, element("b"), label === "" ? "" : ` ${label}`));
    this.#now.append(...values);
    const times = element("p", { className: "times", "aria-hidden": "true" }, this.#from, this.#to);
    this.element = element("figure", { className: "plot" }, element("figcaption", { textContent: title }), this.#now, element("div", { className: "drawing" }, this.#drawing, this.#top), times);
  }

  draw({ names, samples, step_s: stepS }, minutes, nowMs) {
    const [fromMs, toMs] = [nowMs - minutes * 60_000, nowMs];
    const shown = samples.filter(([at]) => at >= fromMs && at <= toMs);
    const columns = this.#lines.map(({ name }) => names.indexOf(name) + 1);
    const found = columns.map((column) => (column === 0 ? [] : pieces(shown, column, stepS * 1000)));
    const highest = Math.max(0, ...found.flat(2).map(([, value]) => value));
    const top = scaleTop(highest);
    const last = shown.at(-1);
    const told = columns.map((column) => (last === undefined || column === 0 ? "–" : this.#format(last[column])));
    found.forEach((each, index) => this.#paths[index].setAttribute("d", path(each, { fromMs, toMs, top })));
    told.forEach((text, index) => setText(this.#now.children[index].firstChild, text));
    setText(this.#top, this.#format(top));
    setText(this.#from, `${duration(minutes * 60_000)} ago`);
    setText(this.#to, clock(toMs).slice(-8));
    const each = this.#lines.map(({ label }, index) => `${label} ${told[index]}`.trim()).join(", ");
    setAttribute(this.#drawing, "aria-label", `${this.#title}: now ${each}; the highest of the last ${minutes} minutes ${this.#format(highest)}`);
  }
}
