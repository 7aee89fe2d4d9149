/** The view of what this region refused, and what went wrong, by code. */

import { element, setText, Table } from "./admin_elements.mjs";
import { clock, count, utc } from "./admin_units.mjs";

/** These are faults of the service; the others are answers to what was asked. */
const OWN_FAULTS = new Set(["internal", "storage_failed", "storage_full"]);

const COLUMNS = [
  { name: "Code", kind: "main", text: ({ code }) => code, level: ({ code }) => (OWN_FAULTS.has(code) ? "trouble" : "note") },
  { name: "How often", kind: "number", text: (error) => count(error.count) },
  { name: "Last", time: true, text: ({ last_ms: last }) => last },
  { name: "Last words", text: ({ last_text: text }) => text ?? "–" },
];

export class ErrorsView {
  title = "Errors";
  everyMs = 3_000;
  #calls;
  #since = element("p", { className: "said" });
  #table = new Table("Errors by code", COLUMNS, "Nothing was refused, and nothing went wrong.");

  constructor({ calls, region }) {
    this.#calls = calls;
    this.element = element("div", {}, element("h2", { textContent: `Errors at ${region}` }), this.#since, this.#table.element);
  }

  async load(signal) {
    const { since_ms: since, codes, links = [] } = await this.#calls.get("errors", {}, signal);
    setText(this.#since, `Since ${clock(since)}. Marked with ✕: faults of the region. The others are answers to clients that asked for what cannot be.`);
    this.#since.title = utc(since);
    this.#table.draw([...codes, ...links].sort((one, other) => other.count - one.count), ({ code }) => code);
  }
}
