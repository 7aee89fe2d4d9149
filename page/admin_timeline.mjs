/** What happened to a session, a sentence for each entry. Nothing here touches the page. */

import { counted } from "./admin_units.mjs";

const LEVELS = { fenced: "warning", cancelled: "warning", retry: "note", resumed: "note", lapsed: "warning", deleted: "warning" };

const who = ({ producer }, otherwise = "its producer") => producer ?? otherwise;
const told = (value) => (value === undefined || value === null ? "" : String(value));

const SENTENCES = {
  sent: (entry) => `${told(entry.detail?.author) || who(entry, "somebody")} sent a complete message`,
  opened: (entry) => `${who(entry)} opened the message${epoch(entry)}`,
  claimed: (entry) => `${who(entry)} took the message over${epoch(entry)}${base(entry)}`,
  cancelled: (entry) => `cancelled${epoch(entry)}: nothing more is taken of it, and what was there stays`,
  ended: (entry) => `the message ended${outcome(entry)}`,
  fenced: (entry) => `${who(entry, "an older producer")} was refused${epoch(entry)}: another one has taken the message over`,
  retry: (entry) => `${who(entry)} repeated ${items(entry)} that ${entry.detail?.items === 1 ? "was" : "were"} there already: nothing was doubled`,
  resumed: (entry) => `${told(entry.detail?.member) || told(entry.detail?.subject) || "a reader"} resumed here${told(entry.detail?.from) && `, after reading at ${entry.detail.from}`}`,
  deleted: () => "deleted for good",
  lapsed: (entry) => `the lease of ${who(entry, "its worker")} ran out: somebody else may go on with the run`,
  step: (entry) => `the run took a step${told(entry.detail?.state) && `: ${entry.detail.state}`}`,
  requested: (entry) => `a run was asked for${told(entry.detail?.agent) && ` of ${entry.detail.agent}`}${told(entry.detail?.by) && ` by ${entry.detail.by}`}`,
};

function epoch({ epoch: value }) {
  // Its number; the rest of its name is in the details.
  return value === undefined || value === null ? "" : `, epoch ${String(value).split("-")[0]}`;
}

function base({ detail }) {
  if (typeof detail?.base !== "number") return "";
  return detail.base === 0 ? ", from its beginning" : `, behind ${counted(detail.base, "item")}`;
}

function items({ detail }) {
  return typeof detail?.items === "number" ? counted(detail.items, "item") : "what it had sent";
}

function outcome({ detail }) {
  const how = told(detail?.status);
  const size = typeof detail?.length === "number" ? `, ${counted(detail.length, "item")}` : "";
  return `${how && `: ${how}`}${size}`;
}

/** An entry in words. */
export function sentence(entry) {
  const said = SENTENCES[entry.kind]?.(entry) ?? entry.kind;
  return entry.detail?.times > 1 ? `${said} (${entry.detail.times} times)` : said;
}

/** How much an entry wants to be seen; null: it is as usual. */
export function entryLevel({ kind }) {
  return LEVELS[kind] ?? null;
}

/** What else was told of it, for who looks closer. */
export function details({ epoch: name, producer, detail }) {
  return Object.entries({ epoch: name, producer, ...detail })
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`)
    .join("\n");
}
