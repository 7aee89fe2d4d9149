/** The view of rates and latencies over the last minutes. */

import { element } from "./admin_elements.mjs";
import { Plot } from "./admin_plot.mjs";
import { count, duration, milliseconds, rate } from "./admin_units.mjs";

const MINUTES = 15;
const SAMPLES_MAX = 5_000;
const one = (name, label = "") => ({ name, label });

const PLOTS = [
  ["Tokens", [one("tokens_per_s")], rate],
  ["Events to readers", [one("events_per_s")], rate],
  ["Commit to disk", [one("commit_p50_ms", "p50"), one("commit_p99_ms", "p99")], milliseconds],
  ["Append, until it is answered", [one("append_p50_ms", "p50"), one("append_p99_ms", "p99")], milliseconds],
  ["Delivery to a reader", [one("delivery_p50_ms", "p50"), one("delivery_p99_ms", "p99")], milliseconds],
  ["Behind other regions", [one("gossip_lag_ms")], milliseconds],
  ["Readers", [one("readers")], count],
  ["Errors", [one("errors_per_s")], rate],
];

/** Samples as they come, bounded; a later one for a time that is known is the same one. */
export class Samples {
  #history = { step_s: 2, names: [], samples: [] };

  get all() {
    return this.#history;
  }

  /** The newest, by the clock of the region: that of this browser may be minutes off. */
  get nowMs() {
    return this.#history.samples.at(-1)?.[0] ?? Date.now();
  }

  set(history) {
    this.#history = { ...history, samples: history.samples.slice(-SAMPLES_MAX) };
  }

  /** Those that come over the stream: as a history of the newest. */
  add({ names, step_s: stepS, samples }) {
    const lastMs = this.#history.samples.at(-1)?.[0] ?? -Infinity;
    const all = [...this.#history.samples, ...samples.filter(([at]) => at > lastMs)];
    this.#history = { step_s: stepS, names, samples: all.slice(-SAMPLES_MAX) };
  }
}

export class RatesView {
  title = "Rates";
  /** The whole again from time to time: what came while the stream was broken. */
  everyMs = 30_000;
  #calls;
  #samples;
  #plots = [];
  #place = element("div", { className: "plots" });

  constructor({ calls, samples, region }) {
    [this.#calls, this.#samples] = [calls, samples];
    const text = `The last ${duration(MINUTES * 60_000)} at ${region}. Each scale begins at 0; where a line is interrupted, nothing was measured. p99: 99 of 100 took less.`;
    this.element = element("div", {}, element("h2", { textContent: `Rates and latencies at ${region}` }), element("p", { className: "said", textContent: text }), this.#place);
  }

  async load(signal) {
    this.#samples.set(await this.#calls.get("history", { minutes: MINUTES }, signal));
    this.history();
  }

  history() {
    const history = this.#samples.all;
    if (history.names.length === 0) return;
    if (this.#plots.length === 0) this.#build(history.names);
    for (const plot of this.#plots) plot.draw(history, MINUTES, this.#samples.nowMs);
  }

  /** Those that this region measures. */
  #build(names) {
    for (const [title, lines, format] of PLOTS) {
      const measured = lines.filter(({ name }) => names.includes(name));
      if (measured.length > 0) this.#plots.push(new Plot(title, measured, format));
    }
    this.#place.replaceChildren(...this.#plots.map(({ element: figure }) => figure));
  }
}
