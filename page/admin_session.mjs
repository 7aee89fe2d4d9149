/** The view of one session: its runs, who is here, all that happened, and its newest text. */

import { button, element, setFacts, setText, Table } from "./admin_elements.mjs";
import { millisecondsOf, positions, positionsLevel } from "./admin_sessions.mjs";
import { LiveText } from "./admin_text.mjs";
import { details, entryLevel, sentence } from "./admin_timeline.mjs";
import { bytes, count, listed, rate } from "./admin_units.mjs";

const LIMIT = 100;
/** No more of it is kept in the page: what is older is asked for again. */
const ENTRIES_MAX = 2_000;
const OVER = new Set(["complete", "failed", "cancelled", "ended"]);

const TIMELINE_COLUMNS = [
  { name: "When", time: true, text: ({ at_ms: at }) => at },
  { name: "At", text: ({ region }) => region ?? "everywhere" },
  { name: "What", kind: "main", text: sentence, title: details, level: entryLevel },
  { name: "Message or run", kind: "id", text: ({ message, run }) => message ?? run ?? "–" },
];
const PRESENCE_COLUMNS = [
  { name: "Member", kind: "main", text: ({ member }) => member },
  { name: "At", text: ({ regions }) => listed(regions) },
  { name: "Connections", kind: "number", text: ({ connections }) => count(Array.isArray(connections) ? connections.length : connections) },
];

export class SessionView {
  title = "Session";
  everyMs = 2_000;
  #session;
  #calls;
  #again;
  #facts = element("dl", { className: "facts" });
  #runs;
  #presence = new Table("Who is here", PRESENCE_COLUMNS, "Nobody is here.");
  #timeline = new Table("Timeline, the newest first", TIMELINE_COLUMNS, "Nothing is known to have happened.");
  #older = button("Older", () => this.#more());
  #missing = element("p", { className: "said" });
  #text;
  #entries = [];
  #before = null;
  #isRead = false;

  constructor({ calls, actions, again }, session) {
    [this.#session, this.#calls, this.#again] = [session, calls, again];
    this.#runs = new Table("Runs", runColumns((message) => actions.cancel(session, message, again)), "There are no runs.");
    this.#text = new LiveText(session, calls);
    const verify = button("Verify now…", () => actions.verify(session));
    const save = button("Export", () => actions.save(session));
    this.element = element(
      "div",
      {},
      element("p", {}, element("a", { href: "#sessions", textContent: "‹ All sessions" })),
      element("div", { className: "heading" }, element("h2", { className: "id", textContent: session }), verify, save),
      this.#facts,
      element("h3", { textContent: "Runs" }),
      this.#runs.element,
      element("h3", { textContent: "Who is here" }),
      this.#presence.element,
      element("h3", { textContent: "Newest text, as it comes" }),
      this.#text.element,
      element("h3", { textContent: "What happened, the newest first" }),
      this.#missing,
      this.#timeline.element,
      element("p", { className: "actions" }, this.#older),
    );
    this.title = session;
  }

  async load(signal) {
    const found = await this.#calls.get(`sessions/${encodeURIComponent(this.#session)}`, {}, signal);
    setFacts(this.#facts, facts(found));
    this.#runs.draw(found.runs, (run) => run.id ?? run.run ?? run.message);
    this.#presence.draw(found.presence, ({ member }) => member);
    this.#take(found.timeline, found.next);
    const silent = Object.keys(found.positions ?? {}).filter((region) => found.asked !== undefined && !found.asked.includes(region));
    setText(this.#missing, silent.length === 0 ? "" : `${listed(silent.sort())} did not answer: what was seen only there is missing below.`);
    this.#text.start();
  }

  close() {
    this.#text.stop();
  }

  /** The newest entries come again and again; those that were fetched before stand behind them. */
  #take(entries, next) {
    const known = new Set(entries.map(keyOf));
    this.#entries = [...entries, ...this.#entries.filter((entry) => !known.has(keyOf(entry)))].slice(0, ENTRIES_MAX);
    if (!this.#isRead) this.#before = next ?? null;
    this.#isRead = true;
    this.#draw();
  }

  async #more() {
    this.#older.disabled = true;
    try {
      const { entries, next } = await this.#calls.get(`sessions/${encodeURIComponent(this.#session)}/timeline`, { before: this.#before, limit: LIMIT });
      const known = new Set(this.#entries.map(keyOf));
      this.#entries = [...this.#entries, ...entries.filter((entry) => !known.has(keyOf(entry)))].slice(0, ENTRIES_MAX);
      this.#before = next ?? null;
      this.#draw();
    } finally {
      this.#older.disabled = false;
      this.#again();
    }
  }

  #draw() {
    this.#timeline.draw(this.#entries, keyOf);
    this.#older.hidden = this.#before === null;
    if (this.#entries.length >= ENTRIES_MAX) setText(this.#older, "No more is shown");
    this.#older.disabled = this.#entries.length >= ENTRIES_MAX;
  }
}

/** Entries have no id of their own; equal ones are one. */
function keyOf(entry) {
  return JSON.stringify([entry.at_ms, entry.region, entry.kind, entry.message, entry.run, entry.epoch, entry.producer, entry.detail]);
}

function facts(found) {
  const level = { well: "✓ ", warning: "! ", unknown: "? ", note: "" }[positionsLevel(found)];
  return [
    ...(found.tenant ? [["Tenant", found.tenant]] : []),
    ["Messages", count(found.messages)],
    ["Size", bytes(found.bytes)],
    ["Readers", count(found.readers)],
    ["Active runs", count(found.active_runs)],
    ["Tokens", rate(found.tokens_per_s)],
    ["In each region", `${level}${positions(found.positions)}`],
  ];
}

function runColumns(cancel) {
  return [
    { name: "Run", kind: "main id", text: (run) => run.id ?? run.run ?? run.message },
    { name: "Agent", text: ({ agent }) => agent ?? "–" },
    { name: "State", text: (run) => run.status ?? run.state ?? "–", level: runLevel },
    { name: "Attempt", kind: "number", text: ({ attempt }) => count(attempt) },
    { name: "Asked for", time: true, text: (run) => millisecondsOf(run.at_ms ?? run.requested_ms ?? run.created ?? null) },
    {
      name: "Action",
      kind: "act",
      text: () => "",
      node: (run) => button("Cancel…", () => cancel(run.message ?? run.id ?? run.run)),
      update: (made, run) => {
        made.hidden = OVER.has(run.status ?? run.state);
      },
    },
  ];
}

function runLevel(run) {
  const state = run.status ?? run.state;
  return { failed: "trouble", interrupted: "warning", cancelled: "note", requested: "note" }[state] ?? "well";
}

