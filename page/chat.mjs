/**
 * The page of `perdure demo chat`: this window's session with everybody else. What is read comes from one
 * region, and from the next one when that is gone; what is shown is in `show.mjs`.
 */

import { Draft } from "./draft.mjs";
import { Grant } from "./grant.mjs";
import { Client, OutOfStep, apply, newView } from "./perdure.js";
import { Messages, Regions, Typing, drawPeople } from "./show.mjs";

const AGENT = "bot";
const TYPING_EVERY_MS = 2_000;
const TYPING_FOR_MS = 4_000;
const ANEW_AFTER_MS = 500;
const NAME_CHARS_MAX = 40;

const at = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);
const sessionId = /^[A-Za-z0-9_-]{1,128}$/.test(asked.get("session") ?? "") ? asked.get("session") : "chat";
const name = (asked.get("name") ?? "").slice(0, NAME_CHARS_MAX).trim() || "Somebody";
const me = memberOf(name);
const { region: served, regions } = await (await fetch("regions")).json();

const grant = new Grant(regions.map(({ url }) => url));
await grant.start();

const messages = new Messages(at("messages"), me);
const typing = new Typing(at("typing"));
const choice = new Regions(at("where"), at("regions"), regions, pick);
const draft = new Draft(at("draft"), {
  session: sessionId,
  document: "draft",
  grant: () => grant.now,
  onState: drawDraftState,
});
let view = newView(sessionId);
let session = null;
let reading = null;
let readAt = null;
let typedMs = 0;

/** The same person after a refresh of this window; another one in each window. */
function memberOf(name) {
  const key = `perdure-member-${name}`;
  const id = name.replace(/[^A-Za-z0-9_-]+/g, "-").slice(0, NAME_CHARS_MAX);
  const member = sessionStorage.getItem(key) ?? `${id}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(16)}`;
  sessionStorage.setItem(key, member);
  return member;
}

const nameOf = (url) => regions.find((region) => region.url === url)?.name ?? url;

// Reading

/** A socket that says when it is gone: the client goes on by itself, and people like to know. */
class WatchedSocket extends WebSocket {
  constructor(url, ...more) {
    super(url, ...more);
    this.addEventListener("close", () => {
      if (readAt !== null && new URL(url).host === new URL(readAt).host) lost();
    });
  }
}

function lost() {
  choice.lost(readAt && nameOf(readAt));
  readAt = null;
}

/** Read from this region, or from the next ones when it does not answer. */
function pick(url) {
  const urls = [url, ...regions.map((region) => region.url).filter((other) => other !== url)];
  reading?.abort();
  reading = new AbortController();
  readAt = null;
  session = new Client(urls, { WebSocket: WatchedSocket, grant: () => grant.now }).session(sessionId);
  draft.follow(urls);
  follow(session, reading.signal).catch((error) => !isOver(error) && complain(error));
}

function isOver(error) {
  return error?.name === "AbortError";
}

async function follow(session, signal) {
  const onRegion = (url) => {
    if (signal.aborted) return;
    // What one region said of its holds is void at another, which says its own.
    view = apply(view, "stale", { message: null, held: false });
    readAt = url;
    choice.open(nameOf(url));
  };
  while (!signal.aborted) {
    try {
      const options = { cursor: view.cursor, signal, onRegion, presence: me, presenceData: { name } };
      for await (const event of session.events(options)) {
        if (signal.aborted) return;
        take(event);
      }
      return;
    } catch (error) {
      if (!(error instanceof OutOfStep)) throw error;
      view = { ...view, cursor: null };
      await new Promise((resolve) => setTimeout(resolve, ANEW_AFTER_MS));
    }
  }
}

function take({ event, id, data }) {
  if (event === "signal") {
    if (data.signal === "typing" && data.from !== me) typing.hear(data.from, String(data.data?.name), data.data?.where, TYPING_FOR_MS);
    return;
  }
  view = { ...apply(view, event, data), cursor: id || view.cursor };
  if (event === "message") typing.drop(data.author);
  messages.draw(view);
  if (["snapshot", "presence"].includes(event)) drawPeople(at("people"), view.presence, me, regions);
  at("stop").hidden = openRuns().length === 0;
}

/** A region that was away may still tell of a run as open whose answer is known to be over. */
function openRuns() {
  const over = new Set(view.messages.filter(({ status }) => status !== "streaming").map(({ id }) => id));
  return view.runs.filter(({ agent, id }) => agent === AGENT && !over.has(id));
}

function drawDraftState(state, detail) {
  // Whoever is away may write on: it is told to the next region.
  if (state === "open") at("draft").disabled = false;
  const said = { open: `in step with ${nameOf(detail)}`, lost: "looking for another region… you can write on", refused: `not taken: ${detail}` };
  at("draft-state").textContent = said[state];
}

// Writing

function complain(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
}

async function send(text) {
  at("problem").hidden = true;
  const after = view.messages.at(-1)?.serial;
  const said = await session.send("user", text, { author: me, metadata: { name }, ...(after && { after }) });
  await session.requestRun(AGENT, { input: said.id, by: me, after: said.serial });
}

function tellTyping(where) {
  const now = performance.now();
  if (now - typedMs < TYPING_EVERY_MS && typedMs !== 0) return;
  typedMs = now;
  session.signal("typing", { name, where }, { from: me }).catch(() => {});
}

at("send").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("message").value.trim();
  if (text === "") return;
  at("message").value = "";
  typedMs = 0;
  // What could not be sent is there again, to be sent once more.
  send(text).catch((error) => {
    at("message").value ||= text;
    complain(error);
  });
});

at("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at("send").requestSubmit();
});

at("message").addEventListener("input", () => at("message").value !== "" && tellTyping("message"));
at("draft").addEventListener("input", () => tellTyping("draft"));

at("stop").addEventListener("click", () => {
  for (const { id } of openRuns()) session.cancelRun(id).catch(complain);
});

document.title = `${name} · perdure chat`;
pick(regions.find((region) => region.name === served)?.url ?? regions[0].url);
