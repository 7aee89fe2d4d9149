/** The view of all sessions: searched, sorted, a page at a time. */

import { button, element, setText, Table } from "./admin_elements.mjs";
import { bytes, count, listed, rate } from "./admin_units.mjs";

const LIMIT = 50;
const SORTS = [["recent", "latest first"], ["readers", "most readers first"], ["size", "largest first"], ["id", "by name"]];
const TYPED_MS = 300;

export const addressOf = (session) => `#session/${encodeURIComponent(session)}`;

/** In words where else a session is, as far as the regions tell. */
export function positions(found) {
  const named = (state) => Object.entries(found ?? {}).filter(([, value]) => value === state).map(([region]) => region).sort();
  const parts = [["equal", "equal at"], ["behind", "behind at"], ["unknown", "not known of"]].map(([state, text]) => (named(state).length > 0 ? `${text} ${listed(named(state))}` : ""));
  return parts.filter((text) => text !== "").join("; ") || "–";
}

/** While a session is being written it is always behind somewhere, and nothing is wrong. */
export function positionsLevel({ positions: found, tokens_per_s: tokens }) {
  const states = Object.values(found ?? {});
  return states.includes("behind") ? (tokens > 0 ? "note" : "warning") : states.includes("unknown") ? "unknown" : "well";
}

const COLUMNS = [
  {
    name: "Session",
    kind: "main",
    text: () => "",
    node: ({ session }) => element("a", { textContent: session, href: addressOf(session) }),
  },
  { name: "Messages", kind: "number", text: ({ messages }) => count(messages) },
  { name: "Size", kind: "number", text: (row) => bytes(row.bytes) },
  { name: "Here now", kind: "number", text: ({ members }) => count(Array.isArray(members) ? members.length : members) },
  { name: "Readers", kind: "number", text: ({ readers }) => count(readers) },
  { name: "Active runs", kind: "number", text: ({ active_runs: runs }) => count(runs) },
  { name: "Tokens", kind: "number", text: ({ tokens_per_s: tokens }) => rate(tokens) },
  { name: "Changed", kind: "number", time: true, text: ({ updated }) => millisecondsOf(updated) },
  { name: "In each region", text: ({ positions: found }) => positions(found), level: positionsLevel },
];

/** A time as milliseconds, or as text. */
export function millisecondsOf(time) {
  return typeof time === "string" ? Date.parse(time) : time;
}

export class SessionsView {
  title = "Sessions";
  everyMs = 3_000;
  #calls;
  #again;
  #table = new Table("Sessions", COLUMNS, "No session is found.");
  #search = element("input", { type: "search", id: "session-search", maxLength: 200, placeholder: "part of a name", autocomplete: "off", spellcheck: false });
  #sort = element("select", { id: "session-sort" }, ...SORTS.map(([value, text]) => element("option", { value, textContent: text })));
  #own = element("input", { type: "checkbox", id: "session-own" });
  #next = button("Next page", () => this.#turn());
  #first = button("First page", () => this.#restart());
  #said = element("p", { className: "said", role: "status" });
  #after = null;
  #following = null;
  #timer = null;

  constructor({ calls, again }) {
    [this.#calls, this.#again] = [calls, again];
    this.#search.addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#restart(), TYPED_MS);
    });
    for (const choice of [this.#sort, this.#own]) choice.addEventListener("change", () => this.#restart());
    const form = element(
      "form",
      { className: "filter", role: "search" },
      element("label", { textContent: "Search ", htmlFor: this.#search.id }, this.#search),
      element("label", { textContent: "Sort ", htmlFor: this.#sort.id }, this.#sort),
      element("label", { className: "check" }, this.#own, " the regions' own too"),
    );
    form.addEventListener("submit", (event) => event.preventDefault());
    this.element = element("div", {}, element("h2", { textContent: "Sessions" }), form, this.#said, this.#table.element, element("p", { className: "actions" }, this.#first, this.#next));
  }

  async load(signal) {
    const query = { search: this.#search.value.trim(), sort: this.#sort.value, after: this.#after, limit: LIMIT, own: this.#own.checked ? "true" : null };
    const { sessions, next, complete = true } = await this.#calls.get("sessions", query, signal);
    this.#following = next ?? null;
    this.#table.draw(sessions, ({ session }) => session);
    this.#next.hidden = this.#following === null;
    this.#first.hidden = this.#after === null;
    const shown = sessions.length === 0 ? "" : `${sessions.length} shown${this.#following === null ? "" : ", and there are more"}. `;
    setText(this.#said, `${shown}${complete ? "" : "Not all sessions could be looked through in time: search for more of the name."}`);
  }

  #turn() {
    this.#after = this.#following;
    this.#again();
    this.#search.scrollIntoView({ block: "nearest" });
  }

  #restart() {
    this.#after = null;
    this.#again();
  }
}
