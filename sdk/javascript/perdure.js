/**
 * perdure: the JavaScript client, for browsers and Node (18 or newer). One module, no dependencies.
 *
 * It reads a session at the nearest region that answers, goes on at the next by itself, and always
 * gives the assembled session. What crosses the wire is described in docs/PROTOCOL.md, part A.
 */

const CONNECT_MS_MAX = 4_000;
const ANSWER_MS_MAX = 15_000;
/** Keep-alives come every 10 s: silence for longer than two of them means that nobody is there. */
const SILENCE_MS_MAX = 25_000;
const FIRST_RETRY_MS_MAX = 50;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 5_000;
const AVOID_MS = 5_000;
const GIVE_UP_MS = 60_000;
/** A snapshot is one event: as large as 200 messages may be. */
const EVENT_CHARS_MAX = 268_435_456;
const PROBLEM_CHARS_MAX = 65_536;
const ID_BYTES = 12;
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

// Server-sent events

/** Events from bytes (WHATWG HTML, 9.2.6), incrementally and bounded. */
export class EventParser {
  #decoder = new TextDecoder("utf-8");
  #pieces = [];
  #size = 0;
  #afterCr = false;
  #lastId = "";
  #event = "";
  #data = [];

  /** The events that these bytes complete; throws `RangeError` for an event without end. */
  feed(chunk) {
    let text = this.#decoder.decode(chunk, { stream: true });
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    if (text !== "") this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    const events = [];
    for (const line of lines.slice(0, -1)) {
      const event = this.#line(this.#pieces.join("") + line);
      this.#pieces = [];
      if (event !== null) events.push(event);
    }
    const rest = lines.at(-1);
    this.#pieces.push(rest);
    this.#size += rest.length;
    if (this.#size > EVENT_CHARS_MAX) throw new RangeError("an event is too long");
    return events;
  }

  #line(line) {
    if (line === "") {
      const event = { event: this.#event || "message", id: this.#lastId, data: this.#data.join("\n") };
      const whole = this.#data.length > 0;
      this.#event = "";
      this.#data = [];
      this.#size = 0;
      return whole ? event : null;
    }
    this.#size += line.length;
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id" && !value.includes("\0")) this.#lastId = value;
    return null;
  }
}

// The reducer

/** A session of which nothing has been told yet. It is plain data: save it, and read on from it. */
export function newView(id) {
  return {
    id,
    messages: [],
    metadata: {},
    cursor: null,
    region: null,
    ready: false,
    deleted: false,
    more: false,
  };
}

/**
 * Bring a view up to date with one event, in place. Unknown events are ignored. Throws `OutOfStep`
 * for an event that does not fit what is held: it is never glued on.
 */
export function apply(view, name, data) {
  switch (name) {
    case "snapshot":
      view.messages = data.messages.map(asHeld);
      view.metadata = data.metadata;
      view.more = data.more;
      break;
    case "message":
      place(view, asHeld(data));
      break;
    case "append":
      append(held(view, data), data);
      break;
    case "replace":
      replace(held(view, data), data);
      break;
    case "end":
      end(held(view, data), data);
      break;
    case "delete":
      view.messages = view.messages.filter((message) => message.id !== data.message);
      break;
    case "metadata":
      view.metadata = data.metadata;
      break;
    case "stale":
      for (const message of view.messages) {
        if (data.message === null || data.message === message.id) message.held = data.held;
      }
      break;
    case "ready":
      view.ready = true;
      break;
    case "deleted":
      Object.assign(view, { deleted: true, messages: [], metadata: {}, more: false });
      break;
  }
}

function asHeld(value) {
  const message = { ...value, parts: value.parts.map((part) => ({ ...part })), held: false };
  delete message.reason;
  message.text = textOf(message);
  return message;
}

function textOf(message) {
  return message.parts
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");
}

function place(view, message) {
  const others = view.messages.filter((other) => other.id !== message.id);
  let at = others.length;
  while (at > 0 && others[at - 1].serial > message.serial) at -= 1;
  others.splice(at, 0, message);
  view.messages = others;
}

function held(view, data) {
  const message = view.messages.find((other) => other.id === data.message);
  if (message === undefined) throw new OutOfStep(`an event of ${data.message}, which is not held`);
  return message;
}

function append(message, data) {
  if (data.from !== message.length) {
    throw new OutOfStep(`${message.id} goes on at ${data.from}, ${message.length} are held`);
  }
  if (data.items !== undefined) {
    for (const item of data.items) mark(message, item);
    message.text = textOf(message);
  } else {
    if (data.part === 0 && message.parts.length === 0) message.parts.push({ type: "text", text: "" });
    const part = message.parts[data.part];
    if (part === undefined) throw new OutOfStep(`${message.id} has no part ${data.part}`);
    part.text += data.text;
    const isLast = data.part === message.parts.length - 1;
    if (part.type === "text") message.text = isLast ? message.text + data.text : textOf(message);
  }
  message.length = data.to;
}

function mark(message, item) {
  if (item.part !== undefined) {
    message.parts.push({ ...item.part, text: "" });
    return;
  }
  if (message.parts.length === 0) message.parts.push({ type: "text", text: "" });
  Object.assign(message.parts.at(-1), item.set ?? {});
}

function replace(message, data) {
  message.length = data.to;
  message.status = data.status;
  message.parts = data.parts.map((part) => ({ ...part }));
  message.text = textOf(message);
  message.held = false;
}

function end(message, data) {
  if (data.length !== message.length) {
    throw new OutOfStep(`${message.id} ends at ${data.length}, ${message.length} are held`);
  }
  message.status = data.status;
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

  reset() {
    this.#tries = 0;
  }
}

/** The regions of a client, in the order of preference. */
export class Regions {
  #avoid = new Map();

  constructor(urls, { grant, fetch, sleep, random, now } = {}) {
    const list = typeof urls === "string" ? [urls] : [...(urls ?? [])];
    if (list.length === 0) throw new TypeError("a client needs the URL of at least one region");
    for (const url of list) {
      if (!/^https?:\/\//.test(url)) throw new TypeError(`${url} must begin with http:// or https://`);
    }
    this.urls = list.map((url) => url.replace(/\/+$/, ""));
    this.headers = grant ? { authorization: `Bearer ${grant}` } : {};
    // Called without a receiver: a browser's fetch refuses any other than the window.
    this.fetch = fetch ?? ((...request) => globalThis.fetch(...request));
    this.sleep = sleep ?? sleepMs;
    this.random = random ?? Math.random;
    this.now = now ?? (() => Date.now());
  }

  pause() {
    return new Pause(this.urls.length, this.random);
  }

  /** The first region that has not failed lately, never `after` if there is another. */
  pick(after = null) {
    const others = this.urls.filter((url) => url !== after);
    const list = others.length > 0 ? others : this.urls;
    const fit = list.find((url) => (this.#avoid.get(url) ?? 0) <= this.now());
    const soonest = (one, other) => (this.#until(other) < this.#until(one) ? other : one);
    return fit ?? list.reduce(soonest);
  }

  #until(url) {
    return this.#avoid.get(url) ?? 0;
  }

  isAvoided(url) {
    return this.#avoid.has(url);
  }

  failed(url) {
    this.#avoid.set(url, this.now() + AVOID_MS);
  }

  worked(url) {
    this.#avoid.delete(url);
  }

  /**
   * A request that is the same at every region, tried until one answers. Throws `PerdureError` for
   * a refusal that every region would give, and with code `unavailable` after a minute.
   */
  async request(method, path, body, headers = {}) {
    const pause = this.pause();
    const deadline = this.now() + GIVE_UP_MS;
    let url = null;
    while (this.now() < deadline) {
      if (url === null || this.isAvoided(url)) url = this.pick(url);
      const answer = await this.#once(url, method, path, body, headers);
      if (answer !== undefined) return answer;
      this.failed(url);
      await this.sleep(pause.nextMs());
    }
    throw new PerdureError({ code: "unavailable", status: 503, detail: "no region answers" });
  }

  /** The answer of one region; undefined when it must be tried elsewhere. */
  async #once(url, method, path, body, headers) {
    const content = body === undefined ? {} : { "content-type": "application/json" };
    const signal = AbortSignal.timeout(ANSWER_MS_MAX);
    let answer, value;
    try {
      answer = await this.fetch(url + path, {
        method,
        headers: { ...this.headers, ...content, ...headers },
        body: body === undefined ? undefined : JSON.stringify(body),
        signal,
      });
      const text = await answer.text();
      value = text === "" ? {} : JSON.parse(text);
    } catch {
      return undefined;
    }
    if (RETRY_STATUSES.has(answer.status)) return undefined;
    this.worked(url);
    if (answer.status >= 400) throw new PerdureError({ status: answer.status, ...value });
    return value;
  }
}

function sleepMs(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Until the promise is done, or the signal aborts. */
async function unlessAborted(signal, promise) {
  if (!signal) return promise;
  let onAbort;
  const aborted = new Promise((resolve) => {
    onAbort = resolve;
    signal.addEventListener("abort", onAbort);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}

function newId() {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(ID_BYTES));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}

function query(values) {
  const pairs = Object.entries(given(values)).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return pairs.length > 0 ? `?${pairs.join("&")}` : "";
}

// The client

/**
 * Talks to the first region that answers. `urls`: the regions in the order of preference.
 * Options: `grant`, a JWT, where the regions ask for one; `fetch`, `sleep`, `random` and `now` are
 * for tests.
 */
export class Client {
  constructor(urls, options = {}) {
    this.regions = new Regions(urls, options);
  }

  /** A session of this id; nothing is sent yet. */
  session(id) {
    return new Session(this.regions, id);
  }

  /** A page of sessions: `{sessions, next}`. */
  sessions({ after, limit } = {}) {
    return this.regions.request("GET", `/v1/sessions${query({ after, limit })}`);
  }
}

/** One session. Every operation is tried at other regions until one answers; again changes nothing. */
export class Session {
  #regions;
  #path;

  constructor(regions, id) {
    this.id = id;
    this.#regions = regions;
    this.#path = `/v1/sessions/${encodeURIComponent(id)}`;
  }

  /** Create the session; an existing one is not changed. */
  create(metadata = {}) {
    return this.#ask("PUT", "", { metadata });
  }

  /** Send a complete message: `send("user", "Hello")`; the message as the region holds it. */
  send(role, text, { id = newId(), author, after, metadata, replaces } = {}) {
    const optional = given({ author, after, metadata, replaces });
    return this.#ask("POST", "/messages", { id, role, text, ...optional });
  }

  /** The session with its newest 200 messages. */
  snapshot() {
    return this.#ask("GET", "");
  }

  /** A page of messages, the newest before a serial: `{messages, more}`. */
  messages({ before, limit } = {}) {
    return this.#ask("GET", `/messages${query({ before, limit })}`);
  }

  /** The metadata; with `patch`, after setting its keys (null deletes). */
  async metadata(patch) {
    const answer = await this.#ask(patch === undefined ? "GET" : "PATCH", "/metadata", patch);
    return answer.metadata;
  }

  /** Stop a message's producer; what was written stays. The status of the message. */
  async cancel(message) {
    const answer = await this.#ask("POST", `/messages/${encodeURIComponent(message)}/cancel`);
    return answer.status;
  }

  /** Delete the session, or one of its messages, for ever; again: nothing. */
  async delete(message) {
    const path = message === undefined ? "" : `/messages/${encodeURIComponent(message)}`;
    try {
      await this.#ask("DELETE", path);
    } catch (error) {
      if (error.code !== "deleted") throw error;
    }
  }

  #ask(method, path, body) {
    return this.#regions.request(method, this.#path + path, body);
  }

  /**
   * Every event from the cursor on, across regions, as `{event, id, data, region}`, until the
   * session is deleted or `signal` aborts. `onRegion` is called with each region that is connected to.
   */
  async *events({ cursor = null, signal, onRegion } = {}) {
    const pause = this.#regions.pause();
    let region = null;
    while (!signal?.aborted) {
      region = this.#regions.pick(region);
      let waitMs = null;
      try {
        for await (const event of this.#connected(region, cursor, signal, onRegion)) {
          pause.reset();
          cursor = event.id || cursor;
          if (event.event === "reconnect") {
            waitMs = this.#regions.random() * event.data.retry_ms;
            break;
          }
          yield event;
          if (event.event === "deleted") return;
        }
      } catch (error) {
        if (signal?.aborted) return;
        if (error instanceof PerdureError) {
          if (error.code === "invalid_cursor") cursor = null;
          else if (!RETRY_STATUSES.has(error.status)) throw error;
        } else if (!(error instanceof ConnectionLost)) {
          throw error;
        }
      }
      this.#regions.failed(region);
      if (!signal?.aborted) await unlessAborted(signal, this.#regions.sleep(waitMs ?? pause.nextMs()));
    }
  }

  /** The events of one connection; throws `ConnectionLost` when it fails or falls silent. */
  async *#connected(region, cursor, signal, onRegion) {
    const connection = new Connection(signal);
    try {
      const headers = { ...this.#regions.headers, accept: "text/event-stream" };
      if (cursor) headers["last-event-id"] = cursor;
      const request = { headers, signal: connection.signal, cache: "no-store" };
      const answering = this.#regions.fetch(`${region}${this.#path}/events`, request);
      const answer = await connection.within(CONNECT_MS_MAX, answering);
      if (answer.status !== 200) throw await problemOf(connection, answer);
      this.#regions.worked(region);
      onRegion?.(region);
      const parser = new EventParser();
      const body = answer.body.getReader();
      while (true) {
        const { done, value } = await connection.within(SILENCE_MS_MAX, body.read());
        if (done) return;
        for (const event of parse(parser, value)) yield { ...event, region };
      }
    } finally {
      connection.close();
    }
  }

  /**
   * The assembled session after each event: `for await (const view of session.read())`. The same
   * object is given each time. `view`: go on from a view that was saved (it is plain JSON data).
   * Ends when the session is deleted, when `signal` aborts, or when you leave the loop.
   */
  async *read({ view = newView(this.id), signal, onRegion } = {}) {
    while (!view.deleted && !signal?.aborted) {
      try {
        for await (const { event, id, data, region } of this.events({ cursor: view.cursor, signal, onRegion })) {
          apply(view, event, data);
          view.cursor = id;
          view.region = region;
          yield view;
        }
        return;
      } catch (error) {
        if (error instanceof OutOfStep) {
          view.cursor = null;
        } else if (error instanceof PerdureError && error.code === "deleted") {
          apply(view, "deleted", {});
          yield view;
        } else {
          throw error;
        }
      }
    }
  }
}

/** The other side is gone, silent, or says what is no event. */
class ConnectionLost extends Error {}

/** One connection: it ends with the caller's signal, by `close`, or when an answer is late. */
class Connection {
  #abort = new AbortController();
  #outer;
  #onAbort = () => this.#abort.abort();

  constructor(outer) {
    this.#outer = outer;
    outer?.addEventListener("abort", this.#onAbort);
    if (outer?.aborted) this.#abort.abort();
  }

  get signal() {
    return this.#abort.signal;
  }

  /** What the promise gives, if it does within the time and before the end; else `ConnectionLost`. */
  async within(ms, promise) {
    let timer, onAbort;
    const over = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new ConnectionLost("no answer in time")), ms);
      onAbort = () => reject(new ConnectionLost("closed"));
      this.signal.addEventListener("abort", onAbort);
      if (this.signal.aborted) onAbort();
    });
    try {
      return await Promise.race([promise, over]);
    } catch (error) {
      throw error instanceof ConnectionLost ? error : new ConnectionLost(String(error));
    } finally {
      clearTimeout(timer);
      this.signal.removeEventListener("abort", onAbort);
    }
  }

  close() {
    this.#outer?.removeEventListener("abort", this.#onAbort);
    this.#abort.abort();
  }
}

function parse(parser, chunk) {
  try {
    return parser.feed(chunk).map((event) => ({ ...event, data: JSON.parse(event.data) }));
  } catch (error) {
    throw new ConnectionLost(String(error));
  }
}

async function problemOf(connection, answer) {
  const text = await connection.within(ANSWER_MS_MAX, answer.text());
  let problem = {};
  try {
    problem = JSON.parse(text.slice(0, PROBLEM_CHARS_MAX));
  } catch {
    // A proxy's page: the status says enough.
  }
  return new PerdureError({ status: answer.status, ...problem });
}
