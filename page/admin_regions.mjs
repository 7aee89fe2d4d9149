/** The view of all regions: who sees whom, each region, each link. */

import { button, element, mark, setAttribute, setFacts, setMark, setText, Table, WORDS } from "./admin_elements.mjs";
import { BEHIND_S_MAX, found, levelOf, silentFor } from "./admin_headline.mjs";
import { bytes, clock, count, counted, duration, listed, milliseconds, offset, rate, utc } from "./admin_units.mjs";

const STATES = { up: "well", suspect: "warning", down: "trouble" };
const DIGESTS = { equal: "equal", different: "different", unknown: "not known" };
/** What is under way for less than this is no delay. */
const IN_STEP_S = 1;
/** What a cell needs at least. */
const CELL_REM = 3.6;

/** What a cell of the matrix says: `{level, text, step, title}`. `see` undefined: nothing is known. */
export function cell(by, seen, see) {
  if (by.region === seen.region) return { level: null, text: "itself", step: "", title: `${by.region} itself` };
  if (see === undefined) return { level: "unknown", text: "unknown", step: "", title: `what ${by.region} sees of ${seen.region} is not known` };
  if (!by.reachable) return { level: "unknown", text: "not told", step: "", title: `${by.region} does not answer: how it sees ${seen.region} is not known` };
  const heard = see.last_seen_ms === null ? "never" : duration(see.last_seen_ms);
  if (see.state !== "up") {
    const text = see.last_seen_ms === null ? "not heard" : `${heard} silent`;
    return { level: STATES[see.state], text, step: see.state === "down" ? "down" : "may be down", title: `${by.region} sees ${seen.region} as ${see.state}: ${heard === "never" ? "it was never heard" : `last heard ${heard} ago`}` };
  }
  const isInStep = see.behind_operations === 0 || (typeof see.behind_s === "number" && see.behind_s < IN_STEP_S);
  const step = isInStep ? "in step" : behind(see);
  const level = see.behind_s > BEHIND_S_MAX ? "warning" : "well";
  return { level, text: see.rtt_ms === null ? "up" : milliseconds(see.rtt_ms), step, title: `${by.region} sees ${seen.region}: up, round trip ${milliseconds(see.rtt_ms)}, ${isInStep ? step : `${seen.region} has not confirmed ${count(see.behind_operations)} operations`}` };
}

function behind(see) {
  return typeof see.behind_s === "number" ? `${duration(see.behind_s * 1000)} behind` : `${count(see.behind_operations)} behind`;
}

/** The square of all regions. Rows see, columns are seen. */
class Matrix {
  #table = element("table", { className: "matrix" });
  #names = "";
  element = element("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "How each region sees the others" }, this.#table);

  draw(regions) {
    const names = regions.map(({ region }) => region).join("\n");
    if (names !== this.#names) this.#build(regions);
    this.#names = names;
    regions.forEach((by, row) =>
      regions.forEach((seen, column) => {
        const { level, text, step, title } = cell(by, seen, by.sees.find(({ region }) => region === seen.region));
        const place = this.#table.tBodies[0].rows[row].cells[column + 1];
        const [sign, words, more] = place.firstChild.children;
        sign.hidden = level === null;
        if (level !== null) setMark(sign, level);
        setText(words, text);
        setText(more, step);
        setAttribute(place, "title", title);
        setAttribute(place, "data-level", level ?? "own");
      }),
    );
  }

  #build(regions) {
    const head = element("tr", {}, element("td", { className: "corner" }), ...regions.map(({ region }) => element("th", { scope: "col", textContent: region })));
    const rows = regions.map(({ region }) => {
      const cells = regions.map(() => element("td", {}, element("div", { className: "cell" }, mark(), element("span", { className: "words" }), element("small"))));
      return element("tr", {}, element("th", { scope: "row" }, region, element("span", { className: "sees", textContent: " sees" })), ...cells);
    });
    // Many regions do not fit a phone: their square, and not the page, is wider then.
    this.#table.style.minWidth = `${(regions.length + 1) * CELL_REM}rem`;
    this.#table.replaceChildren(element("caption", { textContent: "A row says how a region sees each of the others: the round trip, and whether they are in step." }), element("thead", {}, head), element("tbody", {}, ...rows));
  }
}

/** One region: how it is, what it has, and what can be done. */
class Card {
  #mark = mark();
  #state = element("span", { className: "state" });
  #facts = element("dl", { className: "facts" });
  #drain;
  #forget;
  #open;
  #view = null;
  #silentMs = null;

  constructor(region, acts) {
    this.#drain = button("Drain…", () => acts.drain(this.#view));
    this.#forget = button("Forget for good…", () => acts.forget(this.#view, this.#silentMs), { className: "danger" });
    this.#open = button(`Open this page at ${region}`, () => acts.open(this.#view));
    const title = element("h3", {}, this.#mark, ` ${region} `, this.#state);
    this.element = element("section", { className: "card", "aria-label": `Region ${region}` }, title, this.#facts, element("p", { className: "actions" }, this.#drain, this.#open, this.#forget));
  }

  draw(view, overview, findings) {
    this.#view = view;
    this.#silentMs = view.reachable ? null : silentFor(view.region, overview.regions);
    const isSelf = view.region === overview.region;
    const level = view.is_gone ? "note" : levelOf(findings, view.region);
    setMark(this.#mark, level);
    setText(this.#state, stateText(view, level, isSelf));
    setFacts(this.#facts, facts(view));
    setAttribute(this.element, "data-stale", view.reachable ? null : "true");
    this.#drain.hidden = !isSelf;
    setText(this.#drain, view.state === "draining" ? "End the drain…" : "Drain…");
    this.#open.hidden = isSelf || !view.url || !view.reachable;
    setAttribute(this.#open, "title", view.url);
    // Whoever is at work is drained first.
    this.#forget.hidden = isSelf || view.is_gone || (view.reachable && view.state !== "draining");
  }
}

function stateText(view, level, isSelf) {
  if (view.is_gone) return "forgotten for good";
  if (!view.reachable) return `no answer${typeof view.age_ms === "number" ? `; figures are ${duration(view.age_ms)} old` : " yet"}`;
  return `${view.state ? view.state.replaceAll("_", " ") : WORDS[level]}${isSelf ? " · this page comes from here" : ""}`;
}

function facts(view) {
  const known = (value, as) => (value === undefined || value === null ? "–" : as(value));
  return [
    ["Version", known(view.version, String)],
    ["This start", known(view.incarnation, (id) => String(id).slice(0, 8)), view.incarnation && `incarnation ${view.incarnation}`],
    ["Running for", known(view.uptime_s, (s) => duration(s * 1000))],
    ["Sessions", `${known(view.sessions, count)} (${known(view.in_memory, count)} in memory)`],
    ["Readers", `${known(view.readers, count)} on ${known(view.connections, (found) => counted(found, "connection"))}`],
    ["Open runs", known(view.open_runs, count)],
    ["Present", known(view.present, count)],
    ["Tokens", known(view.tokens_per_s, rate)],
    ["Logged, ever", known(view.log_bytes, bytes)],
    ["Disk free", known(view.disk_free_bytes, bytes)],
  ];
}

/** What a region that does not answer saw before is no state of a link now. */
const now = (text) => (link) => (link.by.reachable ? text(link.see) : "–");

const LINK_COLUMNS = [
  { name: "Link", kind: "main", text: ({ by, see }) => `${by.region} → ${see.region}`, level: ({ by, see }) => (by.reachable ? STATES[see.state] : "unknown") },
  { name: "State", text: ({ by, see }) => (by.reachable ? see.state : "not told") },
  { name: "Round trip", kind: "number", text: now(({ rtt_ms: rtt }) => milliseconds(rtt)) },
  { name: "Not confirmed", kind: "number", text: now(notConfirmed) },
  { name: "Clock", kind: "number", text: now(({ clock_offset_ms: ahead }) => offset(ahead)), title: () => "how far its clock is ahead" },
  { name: "Last compared", kind: "number", text: now(({ last_anti_entropy_ms: age }) => (age === null ? "–" : `${duration(age)} ago`)) },
  { name: "Digests", text: now(({ digests }) => DIGESTS[digests] ?? digests) },
  { name: "Last heard", kind: "number", text: now(({ last_seen_ms: age }) => (age === null ? "never" : `${duration(age)} ago`)) },
  { name: "Wire", kind: "number", text: now(({ wire }) => (wire === null ? "–" : `version ${wire}`)) },
];

function notConfirmed({ behind_operations: operations, behind_bytes: size, behind_s: seconds }) {
  if (operations === 0) return "nothing";
  const more = [typeof size === "number" ? bytes(size) : "", typeof seconds === "number" ? duration(seconds * 1000) : ""].filter((text) => text !== "");
  return [`${count(operations)} operations`, ...more].join(", ");
}

export class RegionsView {
  title = "Regions";
  #matrix = new Matrix();
  #cards = new Map();
  #list = element("div", { className: "cards" });
  #links = new Table("Links between regions", LINK_COLUMNS, "There is no other region.");
  #acts;

  constructor({ actions, grant }) {
    this.#acts = { ...regionActs(actions), open: ({ url }) => leaveFor(grant, url) };
    const verify = button("Verify all now…", () => actions.verify(null));
    this.element = element("div", {}, element("h2", { textContent: "Who sees whom" }), this.#matrix.element, element("div", { className: "heading" }, element("h2", { textContent: "Each region" }), verify), this.#list, element("h2", { textContent: "Each link" }), this.#links.element);
  }

  overview(overview) {
    const present = overview.regions.filter(({ is_gone: isGone }) => !isGone);
    const findings = found(overview);
    this.#matrix.draw(present);
    for (const [name, card] of this.#cards)
      if (!overview.regions.some(({ region }) => region === name)) {
        card.element.remove();
        this.#cards.delete(name);
      }
    for (const view of overview.regions) {
      if (!this.#cards.has(view.region)) {
        this.#cards.set(view.region, new Card(view.region, this.#acts));
        this.#list.append(this.#cards.get(view.region).element);
      }
      this.#cards.get(view.region).draw(view, overview, findings);
    }
    const links = present.flatMap((by) => by.sees.filter(({ region }) => present.some((seen) => seen.region === region)).map((see) => ({ by, see })));
    this.#links.draw(links, ({ by, see }) => `${by.region} ${see.region}`);
  }
}

/** The other region's own page, with this tab's grant. */
export function leaveFor(grant, url) {
  if (/^https?:\/\//.test(url)) location.assign(grant.addressAt(url));
}

function regionActs(actions) {
  return {
    drain: ({ region, state }) => actions.drain(region, state === "draining"),
    forget: ({ region }, silentMs) => actions.forget(region, silentMs),
  };
}

/** What all regions do together: `[[name, text]]`. */
export function totals(overview) {
  const there = overview.regions.filter(({ is_gone: isGone, reachable }) => !isGone && reachable);
  const sum = (name) => there.reduce((total, view) => total + (view[name] ?? 0), 0);
  return [
    ["Tokens", rate(sum("tokens_per_s"))],
    ["Sessions", count(Math.max(0, ...there.map(({ sessions }) => sessions ?? 0)))],
    ["Open runs", count(Math.max(0, ...there.map(({ open_runs: runs }) => runs ?? 0)))],
    ["Readers", count(sum("readers"))],
    ["As of", clock(overview.now_ms), `${utc(overview.now_ms)}, by the clock of ${overview.region}; told by ${listed(there.map(({ region }) => region))}`],
  ];
}
