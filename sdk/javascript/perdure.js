/**
 * perdure: the JavaScript client, for browsers and Node (18 or newer). One module, no dependencies.
 *
 * It reads a session at the nearest region that answers, goes on at the next by itself, and always
 * gives the assembled session. What crosses the wire is described in docs/PROTOCOL.md, part A.
 *
 * From top to bottom: events from bytes, the reducer, the regions, the client, documents, reading, writing,
 * working.
 */

const CONNECT_MS_MAX = 4_000;
const ANSWER_MS_MAX = 15_000;
/** Keep-alives come every 10 s: silence for longer than two of them means that nobody is there. */
const SILENCE_MS_MAX = 25_000;
const FIRST_RETRY_MS_MAX = 50;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 5_000;
/** The first events of a subscription come at once: what has not come by then is held back. */
const FIRST_MS_MAX = 5_000;
/** When a transport that did not get through to a region is tried again, and a poll for as long as at first. */
const FORGET_MS = 600_000;
const TRANSPORTS = ["websocket", "sse", "poll"];
/** Behind these a region has told everything that it has at once; `runs` is an agent's feed's. */
/** A grant is followed by the next when so much of what is left of it is over. */
const RENEWED_AT = 0.75;
const RENEW_MS_MIN = 1_000;
const CAUGHT_UP = new Set(["ready", "stale", "deleted", "reconnect", "runs"]);
/** A poll that is cut on the way is asked for less time, down to this. */
const WAIT_MS_MAX = 20_000;
const WAIT_MS_MIN = 500;
/** What fails sooner was not cut for being idle. */
const CUT_MS_MIN = 100;
/** A connection that held for so long was a good one: the next failure is the first of a new series. */
const STEADY_MS = 5_000;
const AVOID_MS = 5_000;
const GIVE_UP_MS = 60_000;
const RECONNECT_MS_MAX = 60_000;
/** A snapshot is one event: as large as 200 messages may be. */
const EVENT_CHARS_MAX = 268_435_456;
const APPEND_ITEMS_MAX = 1_024;
const APPEND_BYTES_MAX = 1_048_576;
const TOKEN_BYTES_MAX = 1_048_576;
const MARK_BYTES_MAX = 262_144;
const BUFFER_BYTES_MAX = 8_388_608;
const POLL_MS_MIN = 50;
const POLL_MS_MAX = 1_000;
const NEW_ID_BYTES = 12;
const ID = /^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}$/;
const LEASE_S = 15;
const CONCURRENCY = 8;
/** When a claim is tried again where a region could not say: it has not been told of the run yet. */
const CLAIM_AGAIN_MS = 1_000;
// So long a turn waits for the message that it answers, where only another region has it so far.
const INPUT_WAIT_MS = 10_000;
const INPUT_AGAIN_MS = 200;
const RETRY_AFTER_S_MAX = 60;
/** Somebody else's doing: no fault of who has a run in hand. */
const TAKEN_AWAY = new Set(["cancelled", "deleted", "ended", "fenced"]);
const OVER = ["complete", "failed", "cancelled"];
const RETRY_STATUSES = new Set([408, 429, 500, 502, 503, 504, 507]);

/** A region refused. `code` is stable (PROTOCOL A.1), `status` the HTTP status, `problem` the whole. */
export class PerdureError extends Error {
  constructor(problem) {
    super(`${problem.code ?? "internal"}: ${problem.detail ?? ""}`);
    this.name = "PerdureError";
    this.code = problem.code ?? "internal";
    this.status = problem.status ?? 500;
    this.problem = problem;
  }
}

/** An event does not fit what the reader holds; the reader resumes without a cursor. */
export class OutOfStep extends Error {
  constructor(text) {
    super(text);
    this.name = "OutOfStep";
  }
}

/** The other side is gone, silent, or says what no region says: try elsewhere. */
class Lost extends Error {}

/** Nothing came in time. */
class Late extends Lost {}

/** It answers that it cannot now. */
class Refused extends Lost {}

/** The region may well be there, but this transport does not get through to it. */
class HeldBack extends Lost {
  constructor(error) {
    super(error.message);
    /** Nothing comes: it is held back, or the region itself says nothing to anybody. */
    this.isSilent = error instanceof Late;
  }
}

// Server-sent events

/** Events from bytes (WHATWG HTML, 9.2.6), incrementally and bounded. */
export class EventParser {
  #decoder = new TextDecoder("utf-8");
  #pieces = [];
  #piecesChars = 0;
  #afterCr = false;
  #lastId = "";
  #event = "";
  #data = [];
  #dataChars = 0;

  /** The events that these bytes complete; throws `RangeError` for an event without end. */
  feed(chunk) {
    let text = this.#decoder.decode(chunk, { stream: true });
    if (text === "") return [];
    // A line has ended at its CR already; the LF after it may come with the next bytes.
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    const rest = lines.pop();
    const events = [];
    for (const line of lines) {
      const event = this.#line(this.#pieces.join("") + line);
      this.#pieces = [];
      this.#piecesChars = 0;
      if (event !== null) events.push(event);
    }
    if (rest !== "") this.#pieces.push(rest);
    this.#piecesChars += rest.length;
    this.#checkSize();
    return events;
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "event") this.#event = value;
    else if (name === "id" && !value.includes("\0")) this.#lastId = value;
    else if (name === "data") {
      this.#data.push(value);
      // One more for the newline, so that empty lines count too.
      this.#dataChars += value.length + 1;
      this.#checkSize();
    }
    return null;
  }

  #dispatch() {
    const event = { event: this.#event || "message", id: this.#lastId, data: this.#data.join("\n") };
    const isWhole = this.#data.length > 0;
    this.#event = "";
    this.#data = [];
    this.#dataChars = 0;
    return isWhole ? event : null;
  }

  #checkSize() {
    if (this.#piecesChars + this.#dataChars > EVENT_CHARS_MAX) throw new RangeError("an event is too long");
  }
}

// The reducer

/** A session of which nothing has been told yet. It is plain data: save it, and read on from it. */
export function newView(id) {
  return {
    id,
    messages: [],
    metadata: {},
    presence: [],
    runs: [],
    documents: {},
    cursor: null,
    region: null,
    ready: false,
    deleted: false,
    more: false,
  };
}

/**
 * The view after one more event. The given view is not changed, and what the event does not touch is
 * the same object in both. Unknown events change nothing. Throws `OutOfStep` for an event that does
 * not fit what is held: it is never glued on.
 */
export function apply(view, name, data) {
  switch (name) {
    case "snapshot":
      return {
        ...view,
        messages: data.messages.map(received),
        metadata: data.metadata,
        presence: data.presence ?? [],
        runs: data.runs ?? [],
        documents: versions(data.documents ?? []),
        more: data.more,
      };
    case "message":
      return { ...view, messages: placed(view.messages, received(data)) };
    case "append":
      return changed(view, data, appended);
    case "replace":
      return changed(view, data, replaced);
    case "end":
      return changed(view, data, ended);
    case "delete":
      return { ...view, messages: view.messages.filter((message) => message.id !== data.message) };
    case "metadata":
      return { ...view, metadata: data.metadata };
    case "presence":
      return { ...view, presence: present(view.presence ?? [], data) };
    case "run":
      return { ...view, runs: ran(view.runs ?? [], data) };
    case "document":
      return { ...view, documents: edited(view.documents ?? {}, data) };
    case "signal":
      return view;
    case "stale":
      return { ...view, messages: view.messages.map((message) => withHeld(message, data)) };
    case "ready":
      return { ...view, ready: true };
    case "deleted":
      return { ...view, deleted: true, messages: [], metadata: {}, presence: [], runs: [], documents: {}, more: false };
    default:
      return view;
  }
}

/**
 * The status of a message of this view: its own, or `interrupted` for one whose run waits for an agent
 * that goes on with it.
 */
export function statusOf(view, message) {
  if (message.status !== "streaming") return message.status;
  const run = (view.runs ?? []).find(({ id }) => id === message.id);
  return run?.status === "interrupted" ? "interrupted" : "streaming";
}

/**
 * The messages that still stand, of some in their order: what another one `replaces` is gone, with all
 * that followed it up to there, as in a chat whose message was edited, or whose answer was asked for anew.
 */
export function standing(messages) {
  const stands = [];
  // Where each one stood, also what does not any more: an edited message may be edited again.
  const places = new Map();
  for (const message of messages) {
    const at = places.get(message.replaces);
    if (at !== undefined) stands.length = Math.min(stands.length, at);
    places.set(message.id, stands.push(message) - 1);
  }
  return stands;
}

/** The runs that are not over, in the order in which they came to be known. */
function ran(runs, { all, run }) {
  if (all) return all;
  const isOver = OVER.includes(run.status);
  const at = runs.findIndex(({ id }) => id === run.id);
  const before = at < 0 ? runs : runs.slice(0, at);
  const after = at < 0 ? [] : runs.slice(at + 1);
  return [...before, ...(isOver ? [] : [run]), ...after];
}

/** What the shared documents are, by id. */
function versions(documents) {
  return Object.fromEntries(documents.map(({ id, version }) => [id, version]));
}

function edited(documents, { all, document, version, deleted }) {
  if (all) return versions(all);
  const { [document]: _, ...others } = documents;
  return deleted ? others : { ...others, [document]: version };
}

/** Who is here, in the order in which they came to be known. */
function present(members, { all, joined = [], updated = [], left = [] }) {
  if (all) return all;
  const changed = new Map([...joined, ...updated].map((member) => [member.member, member]));
  const gone = new Set(left.map((member) => member.member));
  const kept = members.filter(({ member }) => !gone.has(member)).map((old) => {
    const now = changed.get(old.member) ?? old;
    changed.delete(old.member);
    return now;
  });
  return [...kept, ...changed.values()];
}

function received({ reason, ...message }) {
  return { ...message, text: textOf(message.parts), held: false };
}

function textOf(parts) {
  // Added up and not joined: a long text that grows at its end is then not copied every time.
  let text = "";
  for (const part of parts) if (part.type === "text") text += part.text;
  return text;
}

function placed(messages, message) {
  const others = messages.filter((other) => other.id !== message.id);
  const before = others.findLastIndex((other) => other.serial <= message.serial);
  others.splice(before + 1, 0, message);
  return others;
}

function changed(view, data, change) {
  const at = view.messages.findLastIndex((message) => message.id === data.message);
  if (at < 0) {
    // A snapshot holds the newest messages only. What happens to an older one is not shown here.
    if (view.more) return view;
    throw new OutOfStep(`an event of ${data.message}, which is not held`);
  }
  const messages = view.messages.slice();
  messages[at] = change(messages[at], data);
  return { ...view, messages };
}

function appended(message, data) {
  if (data.from !== message.length) {
    throw new OutOfStep(`${message.id} goes on at ${data.from}, ${message.length} are held`);
  }
  const parts = message.parts.slice();
  if (data.items === undefined) {
    const part = openPart(message.id, parts, data.part);
    parts[data.part] = { ...part, text: part.text + data.text };
  } else {
    for (const item of data.items) mark(message.id, parts, data.part, item);
  }
  return { ...message, parts, text: textOf(parts), length: data.to };
}

function mark(id, parts, number, item) {
  if (item.part === undefined) {
    parts[number] = { ...openPart(id, parts, number), ...item.set };
  } else if (number === parts.length) {
    parts.push({ ...item.part, text: "" });
  } else {
    throw new OutOfStep(`${id} opens part ${number}, ${parts.length} are held`);
  }
}

/** The part that is open: always the last one. Where there is none, part 0 is a text. */
function openPart(id, parts, number) {
  if (number === 0 && parts.length === 0) return { type: "text", text: "" };
  if (number !== parts.length - 1) throw new OutOfStep(`part ${number} of ${id} is not the open one`);
  return parts[number];
}

function replaced(message, { to: length, parts, status }) {
  return { ...message, length, parts, text: textOf(parts), status, held: false };
}

function ended(message, { length, status }) {
  if (length !== message.length) {
    throw new OutOfStep(`${message.id} ends at ${length}, ${message.length} are held`);
  }
  return { ...message, status };
}

function withHeld(message, { message: id, held }) {
  const isMeant = id === null || id === message.id;
  return isMeant && message.held !== held ? { ...message, held } : message;
}

// Regions

/** How long to wait before the next try: at once elsewhere, then longer and longer. */
class Pause {
  #tries = 0;
  #regions;
  #random;

  constructor(regions, random) {
    this.#regions = regions;
    this.#random = random;
  }

  /** Milliseconds before the next try; every region is tried once before it really waits. */
  nextMs() {
    this.#tries += 1;
    if (this.#tries < this.#regions) return this.#random() * FIRST_RETRY_MS_MAX;
    const doubled = BACKOFF_MS_MIN * 2 ** Math.min(this.#tries - this.#regions, 10);
    return Math.min(BACKOFF_MS_MAX, doubled) * (0.5 + this.#random() / 2);
  }

  /** It worked. */
  reset() {
    this.#tries = 0;
  }
}

/** The regions of a client, in the order of preference. */
export class Regions {
  #avoid = new Map();
  #fetch;
  #grant;
  #random;
  #WebSocket;
  #lastFailure = "";

  constructor(urls, options = {}) {
    const { grant, giveUpMs = GIVE_UP_MS, transport = "auto", fetch, sleep, random, now } = options;
    const list = typeof urls === "string" ? [urls] : [...(urls ?? [])];
    if (list.length === 0) throw new TypeError("a client needs the URL of at least one region");
    this.urls = list.map(checkedUrl);
    // Called without a receiver: a browser's fetch refuses any other than the window.
    this.#fetch = fetch ?? ((...request) => globalThis.fetch(...request));
    this.#grant = grant;
    this.#random = random ?? Math.random;
    this.giveUpMs = giveUpMs;
    this.sleep = sleep ?? sleepMs;
    // Monotonic: setting the clock must not make a region avoided for hours.
    this.now = now ?? (() => performance.now());
    this.#WebSocket = options.WebSocket ?? (fetch === undefined ? globalThis.WebSocket : undefined);
    this.transports = new Transports(transport, this.#WebSocket !== undefined, this.now);
    // An agent's feed comes as server-sent events or by long poll.
    this.feeds = new Transports(transport === "websocket" ? "auto" : transport, false, this.now);
  }

  /** A fresh series of tries. */
  pause() {
    return new Pause(this.urls.length, this.#random);
  }

  /** A random share of so many milliseconds, so that readers who are sent away come back spread. */
  shareOf(ms) {
    return this.#random() * Math.min(Math.max(0, Number(ms) || 0), RECONNECT_MS_MAX);
  }

  /** The first region that has not failed lately, never `after` if there is another. */
  pick(after = null) {
    const others = this.urls.filter((url) => url !== after);
    const list = others.length > 0 ? others : this.urls;
    const soonest = (one, other) => (this.#avoidedUntil(other) < this.#avoidedUntil(one) ? other : one);
    return list.find((url) => this.#avoidedUntil(url) <= this.now()) ?? list.reduce(soonest);
  }

  #avoidedUntil(url) {
    return this.#avoid.get(url) ?? -Infinity;
  }

  /** Avoid a region for a while. */
  failed(url, ms = AVOID_MS) {
    this.#avoid.set(url, this.now() + ms);
  }

  /** A region answers. */
  worked(url) {
    this.#avoid.delete(url);
  }

  /**
   * A request that is the same at every region, tried until one answers: `{value, region}`. Throws
   * `PerdureError` for a refusal that every region would give, and with code `unavailable` when none
   * answers within `giveUpMs`; the signal's reason when it aborts. `first`: where to try it first.
   */
  async request(method, path, { body, headers, first, signal } = {}) {
    const pause = this.pause();
    const deadline = this.now() + this.giveUpMs;
    let region = null;
    do {
      region = region === null && first ? first : this.pick(region);
      const value = await this.once(region, method, path, { body, headers, signal });
      if (value !== undefined) return { value, region };
      await this.sleep(pause.nextMs(), signal);
    } while (this.now() < deadline);
    const detail = `no region answers; the last that was tried: ${this.#lastFailure}`;
    throw new PerdureError({ code: "unavailable", status: 503, detail });
  }

  /** The answer of one region; undefined when it must be tried elsewhere. Throws as `request` does. */
  async once(region, method, path, { body, headers, signal } = {}) {
    const content = body === undefined ? undefined : JSON.stringify(body);
    const type = body === undefined ? {} : { "content-type": "application/json" };
    const request = { method, headers: { ...type, ...headers }, body: content };
    const connection = new Connection(this.sleep, signal);
    try {
      const take = (answer) => jsonOf(connection, answer);
      return await this.ask(connection, region, path, request, ANSWER_MS_MAX, take);
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      this.failed(region);
      this.#lastFailure = `${region}: ${error.message}`;
      return undefined;
    } finally {
      connection.close();
    }
  }

  /**
   * What `take` makes of a good answer. Throws `Lost` when it must be tried elsewhere, `PerdureError`
   * when every region would refuse.
   */
  async ask(connection, region, path, request, msMax, take) {
    const grant = await this.granted();
    const headers = { ...request.headers, ...(grant ? { authorization: `Bearer ${grant}` } : {}) };
    const asking = this.#fetch(region + path, { ...request, headers, signal: connection.signal });
    const answer = await connection.within(msMax, asking);
    if (RETRY_STATUSES.has(answer.status)) throw new Refused(`status ${answer.status}`);
    const value = answer.ok ? await take(answer) : await jsonOf(connection, answer);
    this.worked(region);
    if (!answer.ok) throw new PerdureError({ status: answer.status, ...retryAfter(answer), ...value });
    return value;
  }

  /** Whether the region that is asked now took it: one try. One that is away is avoided by the next. */
  async told(path, body, signal) {
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", headers, body: JSON.stringify(body) };
    const connection = new Connection(this.sleep, signal);
    const region = this.pick();
    try {
      await this.ask(connection, region, path, request, ANSWER_MS_MAX, (answer) => jsonOf(connection, answer));
      return true;
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      // That it has enough of signals says nothing of the rest.
      if (!(error instanceof Refused)) this.failed(region);
      return false;
    } finally {
      connection.close();
    }
  }

  /** Whether anything is answered there to a plain question. */
  async answers(region, signal) {
    const connection = new Connection(this.sleep, signal);
    const request = { method: "GET", headers: {}, cache: "no-store", signal: connection.signal };
    try {
      await connection.within(FIRST_MS_MAX, this.#fetch(`${region}/v1/transports`, request));
      return true;
    } catch (error) {
      if (error instanceof Lost) return false;
      throw error;
    } finally {
      connection.close();
    }
  }

  /** A WebSocket to a region. A browser cannot send it headers: the grant goes among the protocols. */
  async socket(region, path) {
    const grant = await this.granted();
    const protocols = ["perdure.v1", ...(grant ? [`bearer.${grant}`] : [])];
    return new this.#WebSocket(region.replace(/^http/, "ws") + path, protocols);
  }

  /**
   * Let what goes on in a region under a grant go on under those that follow it, until there is no next
   * one. What comes of it in any case: a stream that ends goes on where it was.
   */
  async keep(region, held, signal) {
    try {
      for (let leftMs = leftOf(held); leftMs > 0; leftMs = leftOf(held)) {
        await this.sleep(Math.max(leftMs * RENEWED_AT, RENEW_MS_MIN), signal);
        const next = await this.granted();
        if (next && next !== held) {
          await this.#renew(region, held, signal);
          held = next;
        }
      }
    } catch {
      // It ends with its grant, and the next connection brings another.
    }
  }

  async #renew(region, held, signal) {
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", headers, body: JSON.stringify({ grant: held }) };
    const connection = new Connection(this.sleep, signal);
    try {
      await this.ask(connection, region, "/v1/grants/renew", request, ANSWER_MS_MAX, (answer) => jsonOf(connection, answer));
    } finally {
      connection.close();
    }
  }

  /** The grant for a request that is made now; undefined: there is none. */
  async granted() {
    return typeof this.#grant === "function" ? this.#grant() : this.#grant;
  }
}

/** What a grant says, unchecked, for that is up to the regions; nothing where it cannot be read. */
function claimsOf(grant) {
  try {
    const [, payload] = grant.split(".");
    return JSON.parse(atob(payload.replace(/-/g, "+").replace(/_/g, "/"))) ?? {};
  } catch {
    return {};
  }
}

/** For how long a grant is good; NaN where it does not say so. */
function leftOf(grant) {
  return claimsOf(grant).exp * 1_000 - Date.now();
}

/**
 * A producer that nobody else is, as far as the grant allows that: below one of its names, or one of
 * them. Without a grant, or where it allows none: one that the regions decide about.
 */
function newProducer(grant) {
  const random = `p-${newId()}`;
  const { as: names, sub } = claimsOf(grant);
  if (!Array.isArray(names)) return sub && isId(`${sub}~${random}`) ? `${sub}~${random}` : random;
  const texts = names.filter((name) => typeof name === "string");
  const beginnings = texts.filter((name) => name.endsWith("*")).map((name) => name.slice(0, -1));
  if (beginnings.some((beginning) => random.startsWith(beginning))) return random;
  const below = beginnings.map((beginning) => beginning + random);
  return [...below, ...texts].find(isId) ?? random;
}

/**
 * A producer that nobody else is: two workers of one name would take runs from each other, for a producer is
 * not kept from what it holds itself. Throws where the grant allows none.
 */
function newWorker(grant) {
  const name = newProducer(grant);
  const { as: names } = claimsOf(grant);
  if (!Array.isArray(names) || !names.includes(name)) return name;
  throw new TypeError(`this grant has every worker be ${name}, and each needs a name of its own: list ${name}~* in its as, or name the workers`);
}

/**
 * Which transport reaches which region. All bring the same events with the same cursors; what lies
 * between may forbid one and hold back another. What gets through is remembered for a while.
 */
class Transports {
  #order;
  #now;
  #found = new Map();
  // What is tried after another was held back, until it is known to work.
  #trying = new Map();
  // For how long a poll waits since one was cut, and until when.
  #cut = { waitMs: WAIT_MS_MAX, until: -Infinity };

  constructor(transport, hasSockets, now) {
    if (transport !== "auto" && !TRANSPORTS.includes(transport))
      throw new TypeError(`${transport} must be one of auto, ${TRANSPORTS.join(", ")}`);
    if (transport === "websocket" && !hasSockets) throw new TypeError("there are no WebSockets here");
    const every = hasSockets ? TRANSPORTS : TRANSPORTS.slice(1);
    this.#order = transport === "auto" ? every : [transport];
    this.#now = now;
  }

  /** Whether there is another to go over to. */
  get chooses() {
    return this.#order.length > 1;
  }

  /** The transport to be used now. */
  of(region) {
    const found = this.#found.get(region);
    const known = found !== undefined && this.#now() < found.until ? found.at : 0;
    return this.#order[this.#trying.get(region) ?? known];
  }

  /** One does not get through; false: there is no other. */
  heldBack(region, name) {
    const at = this.#order.indexOf(name) + 1;
    if (at === this.#order.length) return false;
    this.#trying.set(region, Math.max(at, this.#trying.get(region) ?? 0));
    return true;
  }

  /** One gets through. */
  worked(region, name) {
    const at = this.#trying.get(region);
    if (at === undefined || this.#order[at] !== name) return;
    this.#trying.delete(region);
    this.#found.set(region, { at, until: this.#now() + FORGET_MS });
  }

  /** It was the region and not the transport: nothing is known of what gets through. */
  failed(region) {
    this.#trying.delete(region);
  }

  /** For how long a poll is to wait for something to tell. */
  get waitMs() {
    return this.#now() < this.#cut.until ? this.#cut.waitMs : WAIT_MS_MAX;
  }

  /** A poll was cut while it waited, by what lies between or with its region: the next waits for less, for a time. */
  cut(waitMs) {
    this.#cut = { waitMs: Math.max(WAIT_MS_MIN, Math.floor(waitMs / 2)), until: this.#now() + FORGET_MS };
  }
}

/** When a refusal says to come back; a date needs a clock that agrees with the region's. */
function retryAfter(answer) {
  const said = answer.headers.get("retry-after") ?? "";
  return /^\d{1,9}$/.test(said) ? { retry_after_s: Math.min(Number(said), RETRY_AFTER_S_MAX) } : {};
}

function checkedUrl(url) {
  if (!/^https?:\/\/[^/]/.test(url)) throw new TypeError(`${url} must be a URL like http://127.0.0.1:7101`);
  return url.replace(/\/+$/, "");
}

function sleepMs(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** One request and its answer: it ends with the caller's signal, by `close`, or when it is late. */
class Connection {
  #closing = new AbortController();
  #outer;
  #sleep;
  #follow = () => this.#closing.abort(this.#outer.reason);

  constructor(sleep, outer) {
    outer?.throwIfAborted();
    this.#sleep = sleep;
    this.#outer = outer;
    outer?.addEventListener("abort", this.#follow);
  }

  get signal() {
    return this.#closing.signal;
  }

  /** What the promise gives; `Lost` when it fails, or gives nothing in time. */
  async within(ms, promise) {
    const timer = new AbortController();
    const late = this.#sleep(ms, timer.signal).then(() => Promise.reject(new Late(`nothing for ${ms} ms`)));
    try {
      return await Promise.race([promise, late]);
    } catch (error) {
      this.#outer?.throwIfAborted();
      throw error instanceof Lost ? error : new Lost(String(error));
    } finally {
      timer.abort();
    }
  }

  close() {
    this.#outer?.removeEventListener("abort", this.#follow);
    this.#closing.abort();
  }
}

async function jsonOf(connection, answer) {
  const text = await connection.within(ANSWER_MS_MAX, answer.text());
  return text === "" ? {} : parsed(text);
}

/** An object from its JSON; anything else was not said by a region. */
function parsed(text) {
  let value = null;
  try {
    value = JSON.parse(text);
  } catch {
    // A proxy's page, perhaps.
  }
  if (typeof value !== "object" || value === null) throw new Lost("that is no JSON object");
  return value;
}

// The client

/**
 * Talks to the first region that answers. `urls`: the regions in the order of preference.
 *
 * Options: `grant`, a JWT where the regions ask for one, or a function that gives one for each
 * request; `giveUpMs`, for how long a request is tried at one region after the other; `transport`,
 * how events come: `websocket`, `sse` or `poll`, or `auto` for the first that gets through. `fetch`,
 * `WebSocket`, `sleep`, `random` and `now` are for tests.
 */
export class Client {
  constructor(urls, options = {}) {
    this.regions = new Regions(urls, options);
  }

  /** A session of this id; nothing is sent yet. `TypeError` for what cannot be an id. */
  session(id) {
    return new Session(this.regions, id);
  }

  /**
   * A worker of the agent of this name; nothing is sent yet. `mode`: whether an interrupted run is
   * continued, or started over (`restart`). `lease_s`: for so long a worker that says nothing is taken
   * to be at work; it says something three times as often. `worker`: a name of this process alone, drawn
   * anew at each start; with it the feed renews all leases too, so a turn that is let go is another's
   * only when the feed has ended.
   */
  agent(name, options = {}) {
    return new Agent(this.regions, (id) => this.session(id), name, options);
  }

  /** A page of sessions: `{sessions, next}`. */
  async sessions({ after, limit, signal } = {}) {
    return (await this.regions.request("GET", `/v1/sessions${query({ after, limit })}`, { signal })).value;
  }
}

/**
 * One session. Every operation is tried at other regions until one answers, and repeating it changes
 * nothing. Operations take a `signal`, and throw its reason when it aborts.
 */
export class Session {
  #path;
  #following;

  constructor(regions, id) {
    this.id = checkedId(id);
    /** How often an event did not fit, so that reading began anew. */
    this.stepsLost = 0;
    this.regions = regions;
    this.#path = `/v1/sessions/${id}`;
    this.#following = new Following(regions, regions.transports, this.#path, EVENTS);
  }

  /** Create the session; an existing one is not changed. */
  create(metadata = {}, { signal } = {}) {
    return this.#ask("PUT", "", { body: { metadata }, signal });
  }

  /**
   * Send a complete message: `send("user", "Hello")`; the message as the region holds it. `run`: the
   * run that it is an input for.
   */
  send(role, text, { id = newId(), author, after, metadata, replaces, run, signal } = {}) {
    const body = { id, role, text, ...given({ author, after, metadata, replaces, run }) };
    return this.#ask("POST", "/messages", { body, signal });
  }

  /** The session with its newest 200 messages. */
  snapshot({ signal } = {}) {
    return this.#ask("GET", "", { signal });
  }

  /** A page of messages, the newest before a serial: `{messages, more}`. */
  messages({ before, limit, signal } = {}) {
    return this.#ask("GET", `/messages${query({ before, limit })}`, { signal });
  }

  /** One message. */
  message(id, { signal } = {}) {
    return this.#ask("GET", `/messages/${checkedId(id)}`, { signal });
  }

  /**
   * Ask an agent for a turn: the run, whose message is there from now on. `input`: the message that it
   * answers; `by`: who asks; `replaces`: the message that the answer stands for, such as an earlier one.
   */
  requestRun(agent, { id = newId(), input, by, role, metadata, after, replaces, signal } = {}) {
    const body = { id, agent: checkedId(agent), ...given({ input, by, role, metadata, after, replaces }) };
    return this.#ask("POST", "/runs", { body, signal });
  }

  /** A run as it stands, also one that is over. */
  run(id, { signal } = {}) {
    return this.#ask("GET", `/runs/${checkedId(id)}`, { signal });
  }

  /** The runs of a page of messages, also those that are over: `{runs, more}`. */
  runs({ before, limit, signal } = {}) {
    return this.#ask("GET", `/runs${query({ before, limit })}`, { signal });
  }

  /** Stop a run, also one that nobody has claimed; what was written stays. The run. */
  cancelRun(run, { signal } = {}) {
    return this.#ask("POST", `/runs/${checkedId(run)}/cancel`, { signal });
  }

  /**
   * Show something to who reads now, such as `typing`; `from`: who it comes from. It is sent once, to
   * one region, for it is told at most once: false when that did not take it.
   */
  signal(name, data, { from, signal } = {}) {
    return this.regions.told(`${this.#path}/signals`, given({ signal: name, data, from }), signal);
  }

  /** The metadata; with `patch`, after setting its keys (null deletes). */
  async metadata(patch, { signal } = {}) {
    const method = patch === undefined ? "GET" : "PATCH";
    return (await this.#ask(method, "/metadata", { body: patch, signal })).metadata;
  }

  /** Be here for `ttl_s` seconds; call it again in time to stay. The member as it is shown. */
  join(member, data, { ttl_s, signal } = {}) {
    return this.#ask("PUT", `/presence/${checkedId(member)}`, { body: given({ data, ttl_s }), signal });
  }

  /** Leave, through everything that is known of the member. */
  async leave(member, { signal } = {}) {
    await this.#ask("DELETE", `/presence/${checkedId(member)}`, { signal });
  }

  /** Who is here now; `[]` for a session of which nothing is known. */
  async presence({ signal } = {}) {
    try {
      return (await this.#ask("GET", "/presence", { signal })).presence;
    } catch (error) {
      if (error.code === "not_found") return [];
      throw error;
    }
  }

  /** Stop a message's producer; what was written stays. The status of the message. */
  async cancel(message, { signal } = {}) {
    return (await this.#ask("POST", `/messages/${checkedId(message)}/cancel`, { signal })).status;
  }

  /** Delete the session, or one of its messages, for ever; again: nothing. */
  async delete(message, { signal } = {}) {
    const path = message === undefined ? "" : `/messages/${checkedId(message)}`;
    try {
      await this.#ask("DELETE", path, { signal });
    } catch (error) {
      if (error.code !== "deleted") throw error;
    }
  }

  /** The shared documents, by id, as `{id, version}`; `[]` for a session of which nothing is known. */
  async documents({ signal } = {}) {
    try {
      return (await this.#ask("GET", "/documents", { signal })).documents;
    } catch (error) {
      if (error.code === "not_found") return [];
      throw error;
    }
  }

  /** A shared document of this id; nothing is sent yet. `TypeError` for what cannot be an id. */
  document(id) {
    return new Document(this, id);
  }

  /** Open a streaming message: a `Writer`. */
  async open(role = "assistant", options = {}) {
    const { id = newId(), author, after, metadata, replaces } = options;
    const producer = options.producer ?? newProducer(await this.regions.granted());
    const optional = given({ author, after, metadata, replaces });
    const body = { id, role, producer, claim_id: newId(), ...optional };
    return this.#write("/messages", body, id, options);
  }

  /** Take a message over: a `Writer`, whose `text` and `parts` are what it continues. */
  async claim(message, options = {}) {
    const { mode = "continue" } = options;
    const producer = options.producer ?? newProducer(await this.regions.granted());
    const body = { producer, claim_id: newId(), mode };
    return this.#write(`/messages/${checkedId(message)}/claim`, body, message, options);
  }

  async #write(path, body, message, { signal, onFull, bufferBytesMax }) {
    const opened = await this.regions.request("POST", this.#path + path, { body, signal });
    const { producer } = body;
    const place = { path: `${this.#path}/messages`, message, producer };
    return new Writer(this.regions, opened, place, given({ onFull, bufferBytesMax }));
  }

  async #ask(method, path, request) {
    return (await this.regions.request(method, this.#path + path, request)).value;
  }

  // Reading

  /**
   * Every event from the cursor on, across regions, as `{event, id, data, region}`, until the session
   * is deleted, `signal` aborts, or you leave the loop. `onRegion` is called with each region that is
   * connected to. `presence`: a member that is here as long as this goes on, with `presenceData`.
   * Throws `PerdureError` for what every region would refuse, so with code `deleted` for a session
   * that was deleted before.
   */
  events({ cursor = null, signal, onRegion, presence, presenceData } = {}) {
    const bound = boundOf(presence, presenceData);
    return closable(signal, (closing) => this.#following.events(cursor, closing, onRegion, bound));
  }

  /**
   * The assembled session after each event: `for await (const view of session.read())`. A view is
   * plain data and never changes: each is a new one. `view`: go on from one that was saved, perhaps
   * as JSON. `presence`: a member that is here as long as this goes on, with `presenceData`. Ends when
   * the session is deleted, `signal` aborts, or you leave the loop.
   */
  read({ view = newView(this.id), signal, onRegion, presence, presenceData } = {}) {
    if (view.id !== this.id) throw new TypeError(`a view of ${view.id} is none of ${this.id}`);
    const bound = boundOf(presence, presenceData);
    return closable(signal, (closing) => this.#read(view, closing, onRegion, bound));
  }

  async *#read(view, signal, onRegion, bound) {
    const pause = this.regions.pause();
    while (!view.deleted) {
      const since = this.regions.now();
      const onConnected = (region) => {
        // What one region said of its holds is void at another, which says its own.
        view = apply(view, "stale", { message: null, held: false });
        onRegion?.(region);
      };
      try {
        for await (const event of this.#following.events(view.cursor, signal, onConnected, bound)) {
          view = told(view, event);
          yield view;
        }
        return;
      } catch (error) {
        if (error.code === "deleted") {
          view = apply(view, "deleted", {});
          yield view;
          return;
        }
        if (!(error instanceof OutOfStep)) throw error;
        this.stepsLost += 1;
        view = { ...view, cursor: null };
      }
      // A region that goes on telling what does not fit must not be asked in a tight loop.
      if (this.regions.now() - since >= STEADY_MS) pause.reset();
      await this.regions.sleep(pause.nextMs(), signal);
    }
  }
}

// Documents

/**
 * One shared document of a session, which need not be there yet. Edits of others at the same time, in any
 * region, merge. How it is edited live, with Yjs: `yjs.js`.
 */
export class Document {
  constructor(session, id) {
    this.session = session;
    this.id = checkedId(id);
    this.path = `/v1/sessions/${session.id}/documents/${id}`;
  }

  /** The document: `{id, text, json, version}`. `first`: the URL of the region to ask first. */
  read({ first, signal } = {}) {
    return this.#ask("GET", "", { first, signal });
  }

  /**
   * Make the text this one, where it differs, or patch the map with `json` (RFC 7396: null deletes), or
   * both; the document as it is then. Makes the document where there is none.
   */
  write({ text, json }, { signal } = {}) {
    return this.#ask("PATCH", "", { body: given({ text, json }), signal });
  }

  /** Add to the end of the text, once, whichever regions it is tried at; the document as it is then. */
  append(text, { signal } = {}) {
    // One key for all tries: a region that has it adds nothing.
    const headers = { "idempotency-key": newId() };
    return this.#ask("POST", "/append", { body: { text }, headers, signal });
  }

  /** Delete it, for ever; again: nothing. */
  async delete({ signal } = {}) {
    try {
      await this.#ask("DELETE", "", { signal });
    } catch (error) {
      if (error.code !== "deleted") throw error;
    }
  }

  /**
   * The document as it is now, once it is there, and each time that it has changed, across regions, until
   * it or its session is deleted, `signal` aborts, or you leave the loop. States that follow one another
   * quickly may come as one.
   */
  follow({ signal } = {}) {
    return closable(signal, (closing) => this.#follow(closing));
  }

  async *#follow(signal) {
    let version = "";
    try {
      for await (const { event, data, region } of this.session.events({ signal })) {
        const told = versionTold(event, data, this.id);
        if (told === null || told === version) continue;
        const value = await this.#seen(region, signal);
        if (value === null || value.version === version) continue;
        version = value.version;
        yield value;
      }
    } catch (error) {
      if (error.code !== "deleted") throw error;
    }
  }

  /** It at the region that told of it, or elsewhere, however long that takes; null: it is not there yet. */
  async #seen(region, signal) {
    while (true) {
      try {
        return await this.read({ first: region, signal });
      } catch (error) {
        if (error.code === "not_found") return null;
        if (error.code !== "unavailable") throw error;
      }
    }
  }

  async #ask(method, path, request) {
    return (await this.session.regions.request(method, this.path + path, request)).value;
  }
}

/**
 * The version of a document that an event tells of; null where it tells of none, and "" where it tells of
 * all and this is not among them, perhaps no more. Throws `deleted` where it tells that it is gone.
 */
function versionTold(event, { all, documents, document, version, deleted }, id) {
  if (event !== "snapshot" && event !== "document") return null;
  const every = event === "snapshot" ? (documents ?? []) : all;
  if (every) return every.find((one) => one.id === id)?.version ?? "";
  if (document !== id) return null;
  if (deleted) throw new PerdureError({ code: "deleted", status: 410, detail: `document ${id} was deleted` });
  return version;
}

// Following

/** Where a session's events are asked for, and what an answer to a poll has. */
const EVENTS = { streamedAt: "/events", polledAt: "/poll", has: "events" };
const FEED = { streamedAt: "", polledAt: "", has: "runs" };

/** What one path of the regions tells, from one region after the other. */
class Following {
  constructor(regions, transports, path, ways) {
    this.regions = regions;
    this.transports = transports;
    this.path = path;
    this.ways = ways;
  }

  /** Events from the cursor on, until `deleted`. Throws `PerdureError` for what every region would refuse. */
  async *events(cursor, signal, onRegion, bound) {
    const { transports } = this;
    const pause = this.regions.pause();
    let region = null;
    let again = null;
    while (true) {
      region = again ?? this.regions.pick(region);
      again = null;
      const since = this.regions.now();
      const transport = transports.of(region);
      let waitMs = null;
      try {
        for await (const event of this.connected(transport, region, cursor, bound, signal, onRegion)) {
          cursor = event.id || cursor;
          if (event.event === "reconnect") {
            waitMs = this.regions.shareOf(event.data.retry_ms);
            break;
          }
          if (event.event === "expired") {
            // The next request brings another grant, or is refused.
            again = region;
            break;
          }
          yield event;
          if (event.event === "deleted") return;
        }
        if (again !== null) {
          // Not in a tight loop, where each next grant is over as well.
          if (this.regions.now() - since < STEADY_MS) await this.regions.sleep(pause.nextMs(), signal);
          continue;
        }
        this.regions.failed(region);
      } catch (error) {
        if (error instanceof HeldBack && (await this.#isThere(region, error, signal)) && transports.heldBack(region, transport)) {
          again = region;
          continue;
        }
        if (error.code === "invalid_cursor" && cursor !== null) cursor = null;
        else if (error instanceof Lost) this.regions.failed(region);
        else throw error;
      }
      transports.failed(region);
      // Not at the first event already: what cuts every connection early must not be asked in a tight loop.
      if (this.regions.now() - since >= STEADY_MS) pause.reset();
      await this.regions.sleep(waitMs ?? pause.nextMs(), signal);
    }
  }

  /** Whether another transport may do better: a region that hangs must not cost the time of every one. */
  async #isThere(region, { isSilent }, signal) {
    return !isSilent || this.regions.answers(region, signal);
  }

  /**
   * The events of one connection; throws `Lost` when it fails or falls silent, and `HeldBack` when
   * another transport may do better.
   */
  async *connected(name, region, cursor, bound, signal, onRegion) {
    const { transports } = this;
    const ways = {
      websocket: () => this.overSocket(region, cursor, bound, signal),
      sse: () => this.streamed(region, cursor, bound, signal),
      poll: () => this.polled(region, cursor, bound, signal),
    };
    const held = await this.regions.granted();
    const renewing = new AbortController();
    let isFirst = true;
    try {
      for await (const event of ways[name]()) {
        if (isFirst) {
          isFirst = false;
          transports.worked(region, name);
          // A poll brings the grant of its moment.
          if (name !== "poll" && held) this.regions.keep(region, held, renewing.signal);
          onRegion?.(region);
        }
        yield { ...event, region };
      }
    } finally {
      renewing.abort();
    }
  }

  async *streamed(region, cursor, bound, signal) {
    const headers = { accept: "text/event-stream", ...(cursor ? { "last-event-id": cursor } : {}) };
    const request = { method: "GET", headers, cache: "no-store" };
    const connection = new Connection(this.regions.sleep, signal);
    const { chooses } = this.transports;
    let caughtUp = false;
    let isLive = false;
    try {
      const path = `${this.path}${this.ways.streamedAt}${query(inQuery(bound))}`;
      const body = await this.regions.ask(connection, region, path, request, CONNECT_MS_MAX, bodyOf);
      const parser = new EventParser();
      while (true) {
        // Only this wait counts as silence, not the time for which the caller keeps an event.
        const limitMs = caughtUp || !chooses ? SILENCE_MS_MAX : FIRST_MS_MAX;
        const { done, value } = await connection.within(limitMs, body.read());
        if (done) return;
        isLive = caughtUp;
        for (const { event, id, data } of fed(parser, value)) {
          yield { event, id, data: parsed(data) };
          caughtUp ||= CAUGHT_UP.has(event);
        }
      }
    } catch (error) {
      // Something on the way keeps it for itself: not even a keep-alive has come.
      if (error instanceof Late && chooses && !isLive) throw new HeldBack(error);
      throw error;
    } finally {
      connection.close();
    }
  }

  async *overSocket(region, cursor, bound, signal) {
    const connection = new Connection(this.regions.sleep, signal);
    let frames = null;
    let caughtUp = false;
    try {
      frames = new Frames(await connection.within(FIRST_MS_MAX, this.regions.socket(region, `${this.path}/ws`)));
      connection.signal.addEventListener("abort", () => frames.close());
      await connection.within(FIRST_MS_MAX, frames.opened);
      frames.send({ do: "subscribe", number: 1, ...bound, ...(cursor ? { cursor } : {}) });
      while (true) {
        const text = await connection.within(caughtUp ? SILENCE_MS_MAX : FIRST_MS_MAX, frames.next());
        const { event, id, data, over, reply, status, body } = parsed(text);
        if (event !== undefined) {
          yield { event, id, data: checkedData(data) };
          caughtUp ||= CAUGHT_UP.has(event);
        } else if (over) {
          return;
        } else if (reply === 1 && status >= 400) {
          if (RETRY_STATUSES.has(status)) throw new Lost(`status ${status}`);
          throw new PerdureError({ status, ...body });
        } else if (reply === 1) {
          this.regions.worked(region);
        }
      }
    } catch (error) {
      // Why a handshake was refused, and by whom, a browser does not say.
      if (error instanceof Lost && !caughtUp) throw new HeldBack(error);
      throw error;
    } finally {
      frames?.close();
      connection.close();
    }
  }

  async *polled(region, cursor, bound, signal) {
    const { transports } = this;
    let handle;
    while (true) {
      // The first, and one after a subscription was lost, wait for nothing: the answer says at once
      // how things are, and a region that gives none is left the sooner.
      const waitMs = handle !== undefined ? transports.waitMs : 0;
      const values = { cursor: cursor || undefined, poll: handle, wait_ms: waitMs, ...inQuery(bound) };
      const answer = await this.poll(region, values, signal);
      if (answer === null) continue;
      for (const { event, id, data } of answer.events) yield { event, id, data: checkedData(data) };
      cursor = answer.cursor;
      handle = answer.poll;
    }
  }

  /** One answer; null: it was cut on the way while it waited, and is to be asked again. */
  async poll(region, values, signal) {
    const since = this.regions.now();
    const waitMs = values.wait_ms;
    const connection = new Connection(this.regions.sleep, signal);
    const request = { method: "GET", headers: {}, cache: "no-store" };
    const take = async (answer) => {
      const value = await jsonOf(connection, answer);
      if (!Array.isArray(value[this.ways.has])) throw new Lost("that is no answer to a poll");
      return value;
    };
    try {
      const path = `${this.path}${this.ways.polledAt}${query(values)}`;
      return await this.regions.ask(connection, region, path, request, ANSWER_MS_MAX + waitMs, take);
    } catch (error) {
      const isCut = error instanceof Lost && !(error instanceof Late) && waitMs > WAIT_MS_MIN;
      if (!isCut || this.regions.now() - since < CUT_MS_MIN) throw error;
      this.transports.cut(waitMs);
      return null;
    } finally {
      connection.close();
    }
  }
}

/** An agent's feed. A connection begins with everything, so none goes on with another's cursor. */
class Feed extends Following {
  constructor(regions, agent) {
    super(regions, regions.feeds, `/v1/agents/${agent}/runs`, FEED);
  }

  streamed(region, _, bound, signal) {
    return super.streamed(region, null, bound, signal);
  }

  async *polled(region, _, bound, signal) {
    let cursor;
    while (true) {
      const waitMs = cursor === undefined ? 0 : this.transports.waitMs;
      const answer = await this.poll(region, { cursor, wait_ms: waitMs, ...bound }, signal);
      if (answer === null) continue;
      if (answer.cursor !== cursor) yield { event: "runs", id: answer.cursor, data: { all: answer.runs } };
      cursor = answer.cursor;
    }
  }
}

/** What comes over a WebSocket, one text after the other. */
class Frames {
  #socket;
  #texts = [];
  #waiting = null;
  #closed = null;
  #end;

  constructor(socket) {
    this.#socket = socket;
    this.opened = new Promise((resolve, reject) => {
      socket.onopen = resolve;
      this.#end = (why) => {
        this.#closed ??= new Lost(why);
        reject(this.#closed);
        this.#waiting?.reject(this.#closed);
      };
    });
    socket.onclose = ({ code }) => this.#end(`its socket has closed: ${code}`);
    this.opened.catch(() => {});
    // The close that always follows says more.
    socket.onerror = () => {};
    socket.onmessage = ({ data }) => {
      if (this.#waiting === null) this.#texts.push(data);
      else this.#waiting.resolve(data);
      this.#waiting = null;
    };
  }

  send(value) {
    this.#socket.send(JSON.stringify(value));
  }

  /** The next text; throws `Lost` when the socket has closed and nothing is left. */
  next() {
    if (this.#texts.length > 0) return Promise.resolve(this.#texts.shift());
    if (this.#closed !== null) return Promise.reject(this.#closed);
    return new Promise((resolve, reject) => (this.#waiting = { resolve, reject }));
  }

  close() {
    this.#socket.close();
    // Its close event may come much later: the other side is to answer first.
    this.#end("it was left");
  }
}

/** What a connection brings: the member that is here through it. */
function boundOf(presence, presenceData) {
  if (presence === undefined) return {};
  return { presence: checkedId(presence), ...given({ presence_data: presenceData }) };
}

function inQuery({ presence_data: data, ...others }) {
  return { ...others, ...given({ presence_data: data === undefined ? undefined : JSON.stringify(data) }) };
}

function checkedData(data) {
  if (typeof data !== "object" || data === null) throw new Lost("the data of an event is no object");
  return data;
}

function told(view, { event, id, data, region }) {
  return { ...apply(view, event, data), cursor: id || view.cursor, region };
}

function bodyOf(answer) {
  const type = answer.headers.get("content-type") ?? "";
  if (answer.status !== 200 || !type.startsWith("text/event-stream"))
    throw new Lost("that is no stream of events");
  return answer.body.getReader();
}

function fed(parser, chunk) {
  try {
    return parser.feed(chunk);
  } catch (error) {
    throw new Lost(String(error));
  }
}

/**
 * The generator that `make` gives, as an iterator that `return` and the signal end also while it
 * waits for the next value: a generator alone would wait on.
 */
function closable(signal, make) {
  const closing = new AbortController();
  const follow = () => closing.abort(signal.reason);
  if (signal?.aborted) closing.abort(signal.reason);
  signal?.addEventListener("abort", follow);
  const generator = make(closing.signal);
  const over = { done: true, value: undefined };
  const settled = async (step) => {
    try {
      const result = await step;
      if (result.done) signal?.removeEventListener("abort", follow);
      return result;
    } catch (error) {
      signal?.removeEventListener("abort", follow);
      if (closing.signal.aborted) return over;
      throw error;
    }
  };
  const end = (value) => {
    closing.abort();
    return settled(generator.return(value));
  };
  return {
    next: () => (closing.signal.aborted ? end() : settled(generator.next())),
    return: end,
    throw: (error) => {
      closing.abort();
      return end().then(() => Promise.reject(error));
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}

// Writing

/** Wakes everybody who waits. */
class Bell {
  #ring;
  #rung;

  constructor() {
    this.#hang();
  }

  #hang() {
    this.#rung = new Promise((resolve) => (this.#ring = resolve));
  }

  /** Until the next `ring`. */
  wait() {
    return this.#rung;
  }

  ring() {
    this.#ring();
    this.#hang();
  }
}

/**
 * Appends to one message: keeps what is not stable, and repeats it elsewhere when a region dies.
 * The regions know a token by (producer, epoch, seq), so sending it again changes nothing.
 *
 * Every method throws the `PerdureError` of the regions once they refuse for good: `fenced`,
 * `cancelled`, `conflict`, `ended`, `deleted`; and `buffer_lost` when a region lacks tokens that this
 * writer no longer holds, and they did not arrive within a minute.
 */
export class Writer {
  #regions;
  #path;
  #header;
  #onFull;
  #bufferBytesMax;
  // Items from seq `#first` on that may have to be sent again; `#sent`: the next to send.
  #buffer = [];
  #bytes = 0;
  #first;
  #sent;
  #surrogate = "";
  #end = null;
  #ended = null;
  #isAlone = false;
  #lackingSince = null;
  #error = null;
  #wake = new Bell();
  #changed = new Bell();
  #closing = new AbortController();
  #isRunning = true;
  #running;

  constructor(regions, { value, region }, { path, message, producer }, options = {}) {
    const { onFull = "block", bufferBytesMax = BUFFER_BYTES_MAX, stopped } = options;
    this.message = message;
    this.producer = producer;
    this.epoch = value.epoch;
    this.region = region;
    this.text = value.text ?? "";
    this.parts = value.parts ?? [];
    this.accepted = value.next;
    this.stableCount = value.next;
    this.moves = 0;
    this.#regions = regions;
    this.#path = path;
    this.#header = value.header;
    this.#onFull = onFull;
    this.#bufferBytesMax = bufferBytesMax;
    this.#first = this.#sent = value.next;
    this.#running = this.#run();
    stopped?.addEventListener("abort", () => this.#stop(stopped.reason), { once: true });
  }

  // For the producer

  /** The seq of the next item. */
  get next() {
    return this.#first + this.#buffer.length;
  }

  /** Whether the message was ended by this writer. */
  get hasEnd() {
    return this.#end !== null;
  }

  /**
   * Add a token. Waits only while 8 MiB are not stable and `onFull` is `block`. Throws `RangeError` for
   * more than 1 MiB; the message goes on.
   */
  async write(token) {
    if (typeof token !== "string") throw new TypeError("a token is a string");
    // Half of a surrogate pair is no text: it goes with the token that brings the other half.
    const text = this.#surrogate + token;
    checkBytes("token", text, TOKEN_BYTES_MAX);
    const isCut = /[\uD800-\uDBFF]$/.test(text);
    this.#push(isCut ? text.slice(0, -1) : text);
    this.#surrogate = isCut ? text.at(-1) : "";
    await this.#until(() => this.#hasRoom());
  }

  /** Add a mark: `{part: {…}}` opens a part, `{set: {…}}` adds fields to it. It may have 256 KiB. */
  async mark(mark) {
    if (!isObject(mark?.part) && !isObject(mark?.set)) throw new TypeError("a mark is {part: {…}} or {set: {…}}");
    const text = JSON.stringify(mark);
    checkBytes("mark", text, MARK_BYTES_MAX);
    this.#pushSurrogate();
    // A copy: what is sent again must be what was sent, whatever the caller does to it since.
    this.#push(JSON.parse(text, (_, value) => (typeof value === "string" ? wellFormed(value) : value)));
    await this.#until(() => this.#hasRoom());
  }

  /** Until everything that was written is accepted (on disk in a region). */
  flush() {
    return this.#until(() => this.accepted >= this.next);
  }

  /** End the message: `complete`, `failed` or `cancelled`; returns when the end is accepted. */
  async end(status = "complete") {
    this.#check();
    this.#pushSurrogate();
    this.#end ??= status;
    this.#wake.ring();
    await this.#until(() => this.#ended !== null);
  }

  /**
   * Until everything that was written, and the end if there is one, is in two regions (or accepted,
   * where no other region is configured).
   */
  stable() {
    return this.#until(() => this.#isStable());
  }

  /**
   * Write every token and mark of an (async) iterable, end the message, and wait until all of it is
   * stable. When the iterable throws, the message ends as failed, and the error is thrown on.
   */
  async pipe(tokens) {
    try {
      for await (const token of tokens)
        await (typeof token === "string" ? this.write(token) : this.mark(token));
    } catch (error) {
      // What went wrong first is what the caller must hear.
      await this.end("failed").catch(() => {});
      await this.close();
      throw error;
    }
    await this.end();
    await this.stable();
  }

  /** Stop, without an end: another producer may claim the message. */
  async close() {
    this.#closing.abort(new Error("the writer is closed"));
    this.#wake.ring();
    await this.#running;
  }

  /** It became known elsewhere that the message takes nothing more. What stopped it before stands. */
  #stop(error) {
    if (!this.#isRunning) return;
    this.#error ??= error;
    this.#closing.abort(this.#error);
    this.#wake.ring();
    this.#changed.ring();
  }

  /** Taken at once, whether or not the caller then waits: so the order is that of the calls. */
  #push(item) {
    this.#check();
    if (item === "") return;
    if (this.#end !== null) throw new Error("the message has been ended");
    this.#buffer.push(typeof item === "string" ? wellFormed(item) : item);
    this.#bytes += bytesMaxOf(item);
    this.#wake.ring();
  }

  #pushSurrogate() {
    this.#push(this.#surrogate);
    this.#surrogate = "";
  }

  #hasRoom() {
    if (this.#bytes > this.#bufferBytesMax && this.#onFull === "release") this.#release(this.accepted);
    return this.#bytes <= this.#bufferBytesMax;
  }

  #check() {
    if (this.#error !== null) throw this.#error;
  }

  async #until(isReached) {
    while (true) {
      this.#check();
      if (isReached()) return;
      await this.#changed.wait();
    }
  }

  // The sending: one request at a time, with what has gathered

  #isStable() {
    const isEndSafe =
      this.#end === null || this.#ended === "stable" || (this.#isAlone && this.#ended !== null);
    return isEndSafe && this.#first === this.next && this.accepted >= this.next;
  }

  async #run() {
    const pause = this.#regions.pause();
    const { signal } = this.#closing;
    let pollMs = POLL_MS_MIN;
    try {
      while (this.#end === null || !this.#isStable()) {
        signal.throwIfAborted();
        if (this.#hasWork()) {
          pollMs = POLL_MS_MIN;
        } else {
          if (await this.#idle(this.#isStable() ? null : pollMs)) continue;
          // Nothing new to send, but something is not stable: ask, so that a region that died with
          // it is noticed now and not with the next token.
          pollMs = Math.min(pollMs * 2, POLL_MS_MAX);
        }
        if (await this.#send()) pause.reset();
        else await this.#regions.sleep(pause.nextMs(), signal);
      }
    } catch (error) {
      this.#error ??= error;
    } finally {
      this.#isRunning = false;
      this.#changed.ring();
    }
  }

  #hasWork() {
    return this.#sent < this.next || (this.#end !== null && this.#ended === null);
  }

  /** Wait for something to do; false when the time was over. */
  async #idle(waitMs) {
    const woken = this.#wake.wait().then(() => true);
    if (waitMs === null) return woken;
    const timer = new AbortController();
    const late = this.#regions.sleep(waitMs, timer.signal).then(() => false);
    try {
      return await Promise.race([woken, late]);
    } finally {
      timer.abort();
      // Lets go of `woken`: nobody waits any more.
      this.#wake.ring();
    }
  }

  /** One append of what has gathered; false when it must be tried again. */
  async #send() {
    const seq = this.#sent;
    const tokens = this.#gathered();
    const isWhole = seq + tokens.length === this.next;
    const body = this.#end !== null && isWhole ? { tokens, end: this.#end } : { tokens };
    const headers = {
      "producer-id": this.producer,
      "producer-epoch": this.epoch,
      "producer-seq": String(seq),
    };
    try {
      const answer = await this.#ask(`${this.#path}/${this.message}/tokens`, body, headers);
      if (answer === undefined) return this.#move();
      this.#acknowledged(answer);
      return true;
    } catch (error) {
      if (error.code === "unknown_epoch") return this.#reopen();
      if (error.code === "gap") return this.#lacking(error);
      throw error;
    }
  }

  #ask(path, body, headers) {
    return this.#regions.once(this.region, "POST", path, { body, headers, signal: this.#closing.signal });
  }

  #gathered() {
    const items = [];
    let bytes = 0;
    for (let index = this.#sent - this.#first; index < this.#buffer.length; index += 1) {
      bytes += bytesMaxOf(this.#buffer[index]);
      if (items.length > 0 && (bytes > APPEND_BYTES_MAX || items.length >= APPEND_ITEMS_MAX)) break;
      items.push(this.#buffer[index]);
    }
    return items;
  }

  #acknowledged(answer) {
    this.#lackingSince = null;
    this.accepted = Math.max(this.accepted, answer.accepted);
    this.#sent = Math.max(this.#sent, Math.min(answer.next, this.next));
    this.#ended = answer.ended;
    // `stable` null: the region has no others, and accepted is all there is.
    this.#isAlone = answer.stable === null;
    this.stableCount = Math.max(this.stableCount, this.#isAlone ? answer.accepted : answer.stable);
    this.#release(Math.min(this.stableCount, this.next));
    this.#changed.ring();
  }

  #release(seq) {
    const gone = this.#buffer.splice(0, Math.max(0, seq - this.#first));
    this.#first += gone.length;
    for (const item of gone) this.#bytes -= bytesMaxOf(item);
  }

  /** Go to another region, and send it everything that may be in the old one alone. */
  #move() {
    this.region = this.#regions.pick(this.region);
    this.moves += 1;
    this.#sent = this.#first;
    this.#ended = null;
    return false;
  }

  /** Make the region know the message and the epoch. */
  async #reopen() {
    const answer = await this.#ask(this.#path, { header: this.#header });
    if (answer === undefined) return this.#move();
    this.#sent = Math.max(this.#first, Math.min(answer.next, this.next));
    return true;
  }

  #lacking(error) {
    const { expected } = error.problem;
    if (expected >= this.#first) {
      this.#sent = expected;
      return true;
    }
    // The region lacks what two others have and this writer no longer holds: it will come.
    this.#lackingSince ??= this.#regions.now();
    if (this.#regions.now() - this.#lackingSince > GIVE_UP_MS) {
      const detail = "the region lacks stable tokens";
      throw new PerdureError({ code: "buffer_lost", status: 409, detail });
    }
    return this.#move();
  }
}

/** No fewer than the bytes of an item in UTF-8. */
function bytesMaxOf(item) {
  return (typeof item === "string" ? item : JSON.stringify(item)).length * 3;
}

/** Throws `RangeError` for what no region would take: the message goes on without it. */
function checkBytes(what, text, bytesMax) {
  if (text.length * 3 > bytesMax && new TextEncoder().encode(text).length > bytesMax)
    throw new RangeError(`a ${what} has ${bytesMax} bytes at most`);
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function wellFormed(text) {
  return text.replace(/\p{Surrogate}/gu, "\uFFFD");
}

// Working

/**
 * What an agent's feed tells a worker: which runs wait to be claimed, the oldest first, and what becomes of
 * those that it holds. One that could not be claimed is put off, and comes again at once when something
 * else is told of it.
 */
class WaitingRuns {
  #regions;
  #waiting = new Map();
  #putOff = new Map();
  #held = new Map();
  // Of runs that were held here: the inputs that were seen.
  #seen = new Map();
  #error = null;
  #changed = new Bell();

  constructor(regions, signal) {
    this.#regions = regions;
    signal.addEventListener("abort", () => this.fail(signal.reason), { once: true });
  }

  /** The next run to claim; throws what the feed has failed with. */
  async next() {
    while (true) {
      if (this.#error !== null) throw this.#error;
      const now = this.#regions.now();
      let soonest = Infinity;
      for (const [key, run] of this.#waiting) {
        const at = this.#putOff.get(key) ?? now;
        if (at <= now) return run;
        soonest = Math.min(soonest, at);
      }
      await rung(this.#regions, this.#changed, soonest - now);
    }
  }

  /** An event of the feed. */
  heard({ event, data }) {
    if (event === "runs") {
      const told = new Set(data.all.map(keyOf));
      for (const key of [...this.#waiting.keys(), ...this.#seen.keys()]) {
        if (told.has(key) || this.#turn(key) !== undefined) continue;
        this.forget(key);
        this.#seen.delete(key);
      }
      for (const run of data.all) this.#note(run);
    } else if (event === "run") {
      this.#note(data.run);
    }
    this.#changed.ring();
  }

  /** The feed has failed. */
  fail(error) {
    this.#error ??= error;
    this.#changed.ring();
  }

  /** This worker has won it. */
  hold(key, turn) {
    this.forget(key);
    this.#held.set(key, turn);
    this.#seen.set(key, new Set(turn.inputs.map(({ id }) => id)));
  }

  /** It could not be claimed now. */
  putOff(key, ms) {
    this.#putOff.set(key, this.#regions.now() + ms);
  }

  /** It waits no more. */
  forget(key) {
    this.#waiting.delete(key);
    this.#putOff.delete(key);
  }

  #note(run) {
    const key = keyOf(run);
    const turn = this.#turn(key);
    turn?.heard(run);
    if (OVER.includes(run.status)) {
      this.#held.delete(key);
      this.#seen.delete(key);
    }
    if (turn !== undefined || !this.#isClaimable(key, run)) {
      this.forget(key);
    } else if (JSON.stringify(this.#waiting.get(key)) !== JSON.stringify(run)) {
      this.#waiting.set(key, run);
      this.#putOff.delete(key);
    }
  }

  /** The turn that is held here, if one is. */
  #turn(key) {
    const turn = this.#held.get(key);
    if (turn === undefined || !turn.isOver) return turn;
    const seen = this.#seen.get(key) ?? new Set();
    this.#seen.set(key, new Set([...seen, ...turn.run.inputs]));
    this.#held.delete(key);
    return undefined;
  }

  #isClaimable(key, { status, inputs }) {
    if (status === "suspended") return !inputs.every((id) => this.#seen.get(key)?.has(id));
    return status === "requested" || status === "interrupted";
  }
}

/** A run's id is its own in its session only. */
function keyOf({ session, id }) {
  return `${session}/${id}`;
}

/** Until the bell is rung, or so many milliseconds are over. */
async function rung(regions, bell, ms) {
  if (ms === Infinity) return bell.wait();
  const timer = new AbortController();
  try {
    await Promise.race([bell.wait(), regions.sleep(ms, timer.signal)]);
  } finally {
    timer.abort();
    // Lets go of the wait for it: nobody waits any more.
    bell.ring();
  }
}

/**
 * A worker of an agent. Any number of them, anywhere, share its runs: each run is one's at a time, and
 * another's when its worker is gone. From `client.agent(name)`.
 */
export class Agent {
  #regions;
  #session;
  #mode;
  #leaseS;
  #feed;

  constructor(regions, session, name, { worker, mode = "continue", lease_s = LEASE_S } = {}) {
    this.name = checkedId(name);
    this.worker = worker === undefined ? undefined : checkedId(worker);
    this.#regions = regions;
    this.#session = session;
    this.#mode = mode;
    this.#leaseS = lease_s;
    this.#feed = new Feed(regions, name);
  }

  /** The agent's runs that are not over, in all sessions, the oldest first. */
  async runs({ signal } = {}) {
    return (await this.#regions.request("GET", this.#feed.path, { signal })).value.runs;
  }

  /**
   * The agent's feed, across regions, for ever: `runs` with `all` runs that are not over, and `run` for
   * each that has changed. A new connection begins with all.
   */
  events({ signal } = {}) {
    return closable(signal, (closing) =>
      this.#feed.events(null, closing, undefined, given({ worker: this.worker })),
    );
  }

  /**
   * Each run that this worker wins, as a `Turn`, for ever; the next is claimed when it is asked for. Turns
   * of before may still be held: they hear of what happens to them for as long as this goes on, and learn
   * it from their leases otherwise.
   */
  turns({ signal } = {}) {
    return closable(signal, (closing) => this.#turns(closing));
  }

  /**
   * Have the handler carry out each turn, `concurrency` (8) of them at once, until `signal` aborts. A turn
   * that the handler has not ended is complete when it returns, and failed when it throws; `onError(turn,
   * error)` is called with what it threw, which is logged otherwise. When a run is cancelled or taken over,
   * `turn.signal` aborts, whatever the handler does with the turn throws, and nothing waits for it.
   * Aborted itself, this lets go of every turn, to be claimed.
   */
  async work(handler, { concurrency = CONCURRENCY, onError = logged, signal } = {}) {
    const turns = this.turns({ signal });
    const held = new Map();
    const letGo = () => Promise.all([...held.values()].map((turn) => turn.close()));
    signal?.addEventListener("abort", letGo, { once: true });
    try {
      while (true) {
        if (held.size >= concurrency) {
          await Promise.race(held.keys());
          continue;
        }
        const { done, value: turn } = await turns.next();
        if (done) return;
        const task = handled(turn, handler, onError, signal).finally(() => held.delete(task));
        held.set(task, turn);
      }
    } finally {
      signal?.removeEventListener("abort", letGo);
      const tasks = [...held.keys()];
      await letGo();
      await turns.return();
      await Promise.all(tasks);
    }
  }

  async *#turns(signal) {
    const over = new AbortController();
    const stop = () => over.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    const waiting = new WaitingRuns(this.#regions, over.signal);
    const following = this.#follow(waiting, over.signal);
    try {
      while (true) {
        const turn = await this.#claim(await waiting.next(), waiting, over.signal);
        if (turn !== null) yield turn;
      }
    } finally {
      over.abort(new Error("nobody asks for turns any more"));
      await following;
    }
  }

  async #follow(waiting, signal) {
    try {
      for await (const event of this.events({ signal })) waiting.heard(event);
    } catch (error) {
      waiting.fail(error);
    }
  }

  /** The turn, or null where somebody else has it, or nobody needs to. */
  async #claim(run, waiting, signal) {
    const key = keyOf(run);
    const session = this.#session(run.session);
    const producer = this.worker ?? newWorker(await this.#regions.granted());
    const body = { producer, claim_id: newId(), mode: this.#mode, lease_s: this.#leaseS };
    const path = `/v1/sessions/${session.id}/runs/${checkedId(run.id)}/claim`;
    let claimed;
    try {
      claimed = await this.#regions.request("POST", path, { body, signal });
    } catch (error) {
      const { code } = error;
      if (["ended", "cancelled", "deleted"].includes(code)) waiting.forget(key);
      else if (!(error instanceof PerdureError) || isCallersFault(code)) throw error;
      // Held; or the region cannot say; or there is something about this run alone, and others wait.
      else waiting.putOff(key, error.problem.retry_after_s * 1_000 || CLAIM_AGAIN_MS);
      return null;
    }
    if (claimed.value.run.epoch !== claimed.value.epoch) {
      // Another worker claimed it at the same time, and has it.
      waiting.putOff(key, CLAIM_AGAIN_MS);
      return null;
    }
    const turn = new Turn(this.#regions, session, claimed, producer, this.#leaseS * 1_000);
    waiting.hold(key, turn);
    return turn;
  }
}

function isCallersFault(code) {
  return code.startsWith("invalid_") || code === "too_large" || code === "unauthorized";
}

function logged(turn, error) {
  console.error(`run ${turn.id} of session ${turn.session.id}:`, error);
}

/** One turn, until the handler is done, or the turn was taken away or let go. */
async function handled(turn, handler, onError, signal) {
  const isLeft = () => turn.error !== null || signal?.aborted;
  const handling = (async () => {
    try {
      await handler(turn);
      if (!turn.isOver) await turn.end();
    } catch (error) {
      if (isLeft() || TAKEN_AWAY.has(error?.code)) return;
      // What went wrong first is what the caller must hear.
      if (!turn.isOver) await turn.writer.end("failed").catch(() => {});
      try {
        onError(turn, error);
      } catch (failed) {
        logged(turn, failed);
      }
    }
  })();
  try {
    await Promise.race([handling, turn.stopped().then(() => (isLeft() ? undefined : handling))]);
  } finally {
    await turn.close();
  }
}

/**
 * A run that this worker holds. `pipe` a model's tokens, or `write` with its `writer`.
 *
 * `session` and `run` are where and what it is; `inputs` the messages that were addressed to it so far, anew
 * in each attempt, so who acts on one outside of the session takes the run's id and `attempt` as the key;
 * `text` and `parts` what the message shows already, which is continued. `signal` aborts when it is held no
 * more; `isOver` says so, and `error` what took it away, if something did.
 *
 * Everything throws `cancelled` once the run was cancelled, and `fenced` once another worker has taken it
 * over. The lease is renewed in the background for as long as the turn is held.
 */
export class Turn {
  #regions;
  #region;
  #header;
  #path;
  #leaseMs;
  // Ids of inputs, in the order in which they came to be known.
  #inputs = new Set();
  #words = [];
  #speaking = Promise.resolve();
  #changed = new Bell();
  #renew = new Bell();
  #isRenewing = false;
  #stopping = new AbortController();
  // What has ended here is finished by its writer, whoever hears of the end meanwhile.
  #taken = new AbortController();

  constructor(regions, session, { value, region }, producer, leaseMs) {
    this.session = session;
    this.run = value.run;
    this.inputs = value.inputs;
    this.attempt = value.run.attempt;
    this.error = null;
    this.isOver = false;
    this.#regions = regions;
    this.#region = region;
    this.#header = value.header;
    this.#path = `/v1/sessions/${session.id}`;
    this.#leaseMs = leaseMs;
    const place = { path: `${this.#path}/messages`, message: value.run.id, producer };
    this.writer = new Writer(regions, { value, region }, place, { stopped: this.#taken.signal });
    this.#keep();
  }

  /** The run's id, which is its message's. */
  get id() {
    return this.run.id;
  }

  /** What the message showed when it was claimed. */
  get text() {
    return this.writer.text;
  }

  /** The parts that the message showed when it was claimed. */
  get parts() {
    return this.writer.parts;
  }

  /** Aborts when the turn is held no more. */
  get signal() {
    return this.#stopping.signal;
  }

  // For the agent

  /**
   * Write every token and mark of an (async) iterable, end the run, and wait until all of it is in two
   * regions. When the iterable throws, the run ends as failed, and the error is thrown on. The iterable is
   * closed at the end, also when the run was cancelled or taken over.
   */
  async pipe(tokens) {
    try {
      await this.writer.pipe(whileHeld(tokens, this.signal));
    } finally {
      await this.close();
    }
  }

  /** End the run, and wait until that is in two regions. */
  async end(status = "complete") {
    try {
      await this.writer.end(status);
      await this.writer.stable();
    } finally {
      await this.close();
    }
  }

  /**
   * The conversation that is to be answered, the oldest first, as a model is told it: of the `limit` (100)
   * messages before this one those that still stand (`standing`), and what the run answers. Waits for that
   * where the region has not heard of it yet; throws `not_found` when it does not come.
   */
  async history({ limit = 100 } = {}) {
    const signal = this.signal;
    const asked = await this.#asked(signal);
    const own = await this.session.message(this.id, { signal });
    const page = await this.session.messages({ before: own.serial, limit, signal });
    const messages = [...page.messages, own];
    const begins = page.more ? await this.#begins(messages, signal) : 0;
    const stand = standing(messages.slice(begins)).slice(0, -1);
    // Of a region whose clock is ahead of that of the one that was asked for the run.
    return asked !== null && asked.serial > own.serial ? standing([...stand, asked]) : stand;
  }

  /** Where what stands begins: what replaces an older message than these leaves out all that is before it here. */
  async #begins(messages, signal) {
    const ids = new Set(messages.map(({ id }) => id));
    for (const [at, { replaces }] of [...messages.entries()].reverse()) {
      if (replaces === undefined || ids.has(replaces)) continue;
      try {
        const there = await this.session.message(replaces, { signal });
        if (there.serial < messages[0].serial) return at;
      } catch (error) {
        if (error.code !== "not_found" && error.code !== "deleted") throw error;
      }
    }
    return 0;
  }

  /** What the run answers. Somebody may have sent it to one region, and asked another one for the run. */
  async #asked(signal) {
    const { input } = this.run;
    for (let waited = 0; input !== null; waited += INPUT_AGAIN_MS) {
      try {
        return await this.session.message(input, { signal });
      } catch (error) {
        // Nothing is answered then; where it is the session, who asks on is told.
        if (error.code === "deleted") return null;
        if (error.code !== "not_found" || waited >= INPUT_WAIT_MS) throw error;
      }
      await this.#regions.sleep(INPUT_AGAIN_MS, signal);
    }
    return null;
  }

  /**
   * Say that this waits for a person or a tool; `detail`, of 4 KiB at most, says for what. It is held on:
   * others leave it alone.
   */
  suspend(detail) {
    return this.#say("suspended", detail);
  }

  /** Say that this goes on after `suspend`. */
  resume(detail) {
    return this.#say("running", detail);
  }

  /**
   * Each message that is addressed to the run from now on, as it comes, until the run is over. Those that
   * were before are `inputs`.
   */
  newInputs() {
    return closable(undefined, (closing) => this.#newInputs(closing));
  }

  /** Until the run was cancelled or taken over, or is held no more. */
  async stopped() {
    while (!this.isOver) await this.#changed.wait();
  }

  /** Let go of it, without an end: when its lease is over, another may claim it. Never throws. */
  async close() {
    await this.writer.close();
    this.#finish(null);
  }

  // What is known of the run

  /** A region tells of the run as it knows it, which may be less than is known here. */
  heard(run) {
    for (const id of run.inputs ?? []) this.#inputs.add(id);
    if (run.status === "cancelled" && !this.writer.hasEnd) {
      this.#finish(new PerdureError({ code: "cancelled", status: 403, detail: "the run was cancelled" }));
    } else if (run.epoch !== this.writer.epoch || OVER.includes(run.status)) {
      // Whether that is newer than this turn, only a region can tell.
      this.#renewSoon();
    } else {
      this.run = run;
      // This worker was only slow.
      if (run.status === "interrupted") this.#renewSoon();
    }
    this.#changed.ring();
  }

  #renewSoon() {
    this.#isRenewing = true;
    this.#renew.ring();
  }

  /** It is over. What stopped it first stands. */
  #finish(error) {
    if (!this.isOver && error !== null) {
      this.error = error;
      this.#taken.abort(error);
    }
    this.isOver = true;
    this.#stopping.abort(error ?? new Error("the turn is held no more"));
    this.#renew.ring();
    this.#changed.ring();
  }

  #check() {
    if (this.error !== null) throw this.error;
  }

  async *#newInputs(signal) {
    const seen = new Set(this.inputs.map(({ id }) => id));
    signal.addEventListener("abort", () => this.#changed.ring(), { once: true });
    while (true) {
      for (const id of [...this.#inputs].filter((id) => !seen.has(id))) {
        seen.add(id);
        const message = await this.#input(id, signal);
        if (message !== null) yield message;
      }
      this.#check();
      if (this.isOver || signal.aborted) return;
      if ([...this.#inputs].every((id) => seen.has(id))) await this.#changed.wait();
    }
  }

  /** The message; null for one that was deleted, or when the run is over first. */
  async #input(id, signal) {
    const pause = this.#regions.pause();
    while (!this.isOver) {
      try {
        return await this.session.message(id, { signal });
      } catch (error) {
        if (error.code === "deleted") return null;
        if (error.code !== "not_found") throw error;
        // The region that answers has not been told of it yet.
        await this.#regions.sleep(pause.nextMs(), signal);
      }
    }
    return null;
  }

  // What is said of it

  /** Renew the lease, in time to try it at another region, until the run is over. */
  async #keep() {
    try {
      while (!this.isOver) {
        if (!this.#isRenewing) await rung(this.#regions, this.#renew, this.#leaseMs / 3);
        if (!this.isOver) await this.#renewed();
      }
    } catch (error) {
      // Where it has been ended here, the end is what there is to wait for.
      this.#finish(this.writer.hasEnd ? null : error);
    }
  }

  async #renewed() {
    this.#isRenewing = false;
    try {
      this.heard(await this.#ask("lease", this.#claim()));
      // That its lease was over is noted; a word takes that back.
      if (this.run.status === "interrupted") await this.#say("running", this.run.detail);
    } catch (error) {
      // An agent that was only slow goes on.
      if (error.code !== "unavailable") throw error;
    }
  }

  #claim() {
    return { producer: this.writer.producer, epoch: this.writer.epoch };
  }

  /** One word after the other. */
  #say(state, detail) {
    const saying = this.#speaking.then(() => this.#spoken(given({ state, detail: detail ?? undefined })));
    this.#speaking = saying.catch(() => {});
    return saying;
  }

  async #spoken(word) {
    this.#check();
    this.#words.push(word);
    let number = this.#words.length;
    try {
      while (number <= this.#words.length) number = await this.#said(number);
    } catch (error) {
      if (TAKEN_AWAY.has(error.code)) this.#finish(error);
      // It was refused, and nothing counts as said.
      else if (error.code !== "unavailable") this.#words.pop();
      throw error;
    }
  }

  /** Say one word; the number of the next. A region that lacks earlier ones is told them. */
  async #said(number) {
    try {
      this.heard(await this.#ask("state", { ...this.#claim(), n: number, ...this.#words[number - 1] }));
      return number + 1;
    } catch (error) {
      const { expected } = error.problem ?? {};
      if (error.code !== "gap" || !(expected > 0 && expected < number)) throw error;
      return expected;
    }
  }

  /** One request under this epoch, at the region that was asked last or elsewhere. */
  async #ask(what, body) {
    const { signal } = this;
    const pause = this.#regions.pause();
    const deadline = this.#regions.now() + this.#regions.giveUpMs;
    do {
      const answer = await this.#askAt(`${this.#path}/runs/${this.id}/${what}`, body);
      if (answer !== undefined) return answer;
      this.#region = this.#regions.pick(this.#region);
      await this.#regions.sleep(pause.nextMs(), signal);
    } while (this.#regions.now() < deadline);
    throw new PerdureError({ code: "unavailable", status: 503, detail: "no region answers" });
  }

  /** At one region, which is told of the epoch where it does not know it; undefined: elsewhere. */
  async #askAt(path, body) {
    const tell = (to, said) =>
      this.#regions.once(this.#region, "POST", to, { body: said, signal: this.signal });
    try {
      return await tell(path, body);
    } catch (error) {
      if (error.code !== "unknown_epoch" && error.code !== "not_found") throw error;
    }
    if ((await tell(`${this.#path}/messages`, { header: this.#header })) === undefined) return undefined;
    return tell(path, body);
  }
}

/** The tokens, until the signal aborts, also while the next is waited for; then they are closed. */
async function* whileHeld(tokens, signal) {
  const iterator = tokens[Symbol.asyncIterator]?.() ?? tokens[Symbol.iterator]();
  let stop;
  const stopped = new Promise((_, reject) => (stop = () => reject(signal.reason)));
  stopped.catch(() => {});
  signal.addEventListener("abort", stop, { once: true });
  let isOver = false;
  try {
    while (true) {
      signal.throwIfAborted();
      const { done, value } = await Promise.race([iterator.next(), stopped]);
      isOver = done;
      if (done) return;
      yield value;
    }
  } finally {
    signal.removeEventListener("abort", stop);
    // Not waited for: a generator that waits itself would answer when its wait is over.
    if (!isOver) Promise.resolve(iterator.return?.()).catch(() => {});
  }
}

// Names

function isId(id) {
  return ID.test(id);
}

function checkedId(id) {
  if (!isId(id)) throw new TypeError(`${id} is no id: 1 to 128 of A-Z a-z 0-9 . _ ~ -`);
  return id;
}

function newId() {
  // Node 18 has no global `crypto`. Ids must not collide; that nobody can guess them is not needed.
  const bytes = new Uint8Array(NEW_ID_BYTES).map(() => Math.random() * 256);
  globalThis.crypto?.getRandomValues(bytes);
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

function query(values) {
  const pairs = new URLSearchParams(given(values)).toString();
  return pairs === "" ? "" : `?${pairs}`;
}
