/**
 * perdure: a `fetch` that outlives regions, for clients that take one.
 *
 * It asks the first region that has not failed lately, goes to the next when one dies before it
 * answers, and continues an event stream that breaks: who reads the body sees one stream.
 *
 * From top to bottom: the fetch, what may be asked again, asking, the stream that goes on.
 */

import { PerdureError, Regions } from "./perdure.js";

const ANSWER_MS_MAX = 15_000;
/** A long poll that does not say how long it waits. */
const POLL_WAIT_MS = 20_000;
const GIVE_UP_MS = 60_000;
/** Keep-alives come every 10 s: silence for longer than two of them means that nobody is there. */
const SILENCE_MS_MAX = 25_000;
/** A stream that held for so long was a good one: the next failure is the first of a new series. */
const STEADY_MS = 5_000;
const RETRY_AFTER_S_MAX = 60;
const EVENT_CHARS_MAX = 268_435_456;
const RETRY_STATUSES = new Set([408, 429, 500, 502, 503, 504, 507]);
/** Refusals before anything was looked at: also what must not happen twice may go elsewhere. */
const UNTOUCHED = new Set(["draining", "starting", "catching_up", "too_many"]);
const REPEATABLE = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);
/** The streams of which it is known that they send keep-alives, and end with `deleted` only. */
const EVENTS = /^\/v1\/sessions\/[^/]+\/events$/;

/**
 * A `fetch` over these regions, in the order of preference. It takes what `fetch` takes: a path
 * (`/v1/…`), or a URL at one of the regions, whichever. A URL elsewhere goes to the plain `fetch`.
 *
 * A request that may be repeated (GET, HEAD, PUT, DELETE, and a POST by whose `Idempotency-Key`, id,
 * claim or seq the regions know it again) is asked at one region after the other until one answers.
 * What then is refused is the answer, as with `fetch`. When none answers within `giveUpMs`: the last
 * refusal, or a `TypeError`. Any other request is asked once, and elsewhere only where a region said
 * that it did not look at it (503 `draining`).
 *
 * A GET whose answer is `text/event-stream` goes on at another region with `Last-Event-ID` when it
 * breaks. Events are passed on whole, each once. A stream whose events have no ids cannot go on: its
 * body fails, as with `fetch`.
 *
 * Options: `grant`, a JWT or a function that gives one for each try, for requests without
 * `Authorization`; `giveUpMs`. `fetch`, `sleep`, `random` and `now` are for tests.
 */
export function durableFetch(urls, options = {}) {
  const plain = options.fetch ?? ((...request) => globalThis.fetch(...request));
  const regions = new Regions(urls, options);
  const asking = new Asking(regions, plain, options.giveUpMs ?? GIVE_UP_MS);
  return async (input, init) => {
    const path = pathAt(regions.urls, input);
    return path === null ? plain(input, init) : asking.ask(await requested(path, input, init));
  };
}

/** The path of what is asked, as it is at every region; null: it lies elsewhere. */
function pathAt(urls, input) {
  const url = typeof input === "object" && "url" in input ? input.url : String(input);
  if (url.startsWith("/") && !url.startsWith("//")) return url;
  const base = urls.find((one) => url.startsWith(`${one}/`));
  return base === undefined ? null : url.slice(base.length);
}

/** What is asked, in a form that can be asked again. */
async function requested(path, input, init = {}) {
  const isRequest = typeof input === "object" && "url" in input;
  const method = (init.method ?? (isRequest ? input.method : "GET")).toUpperCase();
  const headers = new Headers(init.headers ?? (isRequest ? input.headers : {}));
  const signal = init.signal ?? (isRequest ? input.signal : undefined);
  signal?.throwIfAborted();
  let { body } = init;
  if (body === undefined && isRequest && input.body) body = await input.arrayBuffer();
  // Of a `Request`, what is not told otherwise.
  const kept = isRequest ? { credentials: input.credentials, cache: input.cache, mode: input.mode } : {};
  if (kept.mode === "navigate") delete kept.mode;
  return { path, method, headers, body, signal, rest: { ...kept, ...init } };
}

// What may be asked again

function isRepeatable({ path, method, headers, body }) {
  // A stream can be read once.
  if (typeof body?.getReader === "function" || typeof body?.[Symbol.asyncIterator] === "function") return false;
  if (REPEATABLE.has(method) || headers.has("idempotency-key")) return true;
  const [, verb] = path.match(/^\/v1\/sessions\/[^/]+\/(?:.*\/)?(\w+)(?:\?|$)/) ?? [];
  if (method === "PATCH") return verb === "metadata";
  if (method !== "POST") return false;
  if (verb === "tokens") return headers.has("producer-seq");
  if (verb === "cancel" || verb === "lease" || verb === "state") return true;
  const known = { messages: ["id", "header"], runs: ["id"], claim: ["claim_id"] }[verb] ?? [];
  const said = fieldsOf(body);
  return known.some((field) => said[field] !== undefined);
}

function fieldsOf(body) {
  try {
    const text = typeof body === "string" ? body : new TextDecoder().decode(body);
    return Object(JSON.parse(text));
  } catch {
    return {};
  }
}

/** For how long an answer may be waited for: a long poll says so itself. */
function answerMs(path) {
  const { pathname, searchParams } = new URL(path, "http://region");
  const waits = searchParams.get("wait_ms") ?? (pathname.endsWith("/poll") ? POLL_WAIT_MS : 0);
  return ANSWER_MS_MAX + (Number(waits) || 0);
}

/** What `Retry-After` says, in milliseconds; null where it says nothing. */
function retryAfterMs(answer) {
  const said = answer.headers.get("retry-after");
  if (said === null) return null;
  const seconds = /^\d+$/.test(said) ? Number(said) : (Date.parse(said) - Date.now()) / 1_000;
  return Number.isNaN(seconds) ? null : Math.min(Math.max(0, seconds), RETRY_AFTER_S_MAX) * 1_000;
}

// Asking

class Asking {
  #fetch;
  #giveUpMs;
  // Until when a region asked not to be asked again.
  #notBefore = new Map();

  constructor(regions, fetch, giveUpMs) {
    this.regions = regions;
    this.#fetch = fetch;
    this.#giveUpMs = giveUpMs;
  }

  async ask(request) {
    const life = new Life(request.signal);
    try {
      const living = { ...request, signal: life.signal };
      const got = await this.answered(living);
      if (request.method === "GET" && isStream(got.answer)) return this.#continued(living, got, life);
      if (got.answer.body === null) life.release();
      return got.answer;
    } catch (error) {
      life.release();
      throw error;
    }
  }

  #continued(request, got, life) {
    const { answer, region } = got;
    const headers = new Headers(answer.headers);
    // The body is decoded, and longer than was said.
    for (const name of ["content-length", "content-encoding"]) headers.delete(name);
    const continued = new Response(new Continued(this, request, got, life).body(), { headers });
    Object.defineProperty(continued, "url", { value: answer.url || region + request.path });
    return continued;
  }

  /**
   * The first answer that is not to be asked for elsewhere: `{answer, region, life}`. `after`: the
   * region that was just left. Throws the signal's reason, and `TypeError` when nobody answers.
   */
  async answered(request, after = null) {
    const { regions } = this;
    const mayRepeat = isRepeatable(request);
    const pause = regions.pause();
    const deadline = regions.now() + this.#giveUpMs;
    let region = after;
    let last = null;
    let cause = null;
    try {
      while (true) {
        region = regions.pick(region);
        const life = new Life(request.signal);
        try {
          const answer = await this.#once(request, region, life);
          last?.life.end();
          last = { answer, region, life };
        } catch (error) {
          life.end();
          request.signal.throwIfAborted();
          regions.failed(region);
          if (!mayRepeat) throw error;
          cause = error;
        }
        if (last?.life === life && !(await this.#isRefused(last, mayRepeat))) return last;
        const waitMs = Math.max(pause.nextMs(), this.#waitMs(regions.pick(region)));
        if (regions.now() + waitMs >= deadline) break;
        await regions.sleep(waitMs, request.signal);
      }
    } catch (error) {
      last?.life.end();
      throw error;
    }
    if (last !== null) return last;
    throw new TypeError("fetch failed: no region answers", { cause });
  }

  async #once({ path, method, headers, body, rest }, region, life) {
    const sent = new Headers(headers);
    const grant = sent.has("authorization") ? undefined : await this.regions.granted();
    if (grant) sent.set("authorization", `Bearer ${grant}`);
    const { signal } = life;
    const asked = this.#fetch(region + path, { ...rest, method, headers: sent, body, signal });
    return within(this.regions, answerMs(path), asked);
  }

  /** Whether another region is to be asked instead. */
  async #isRefused({ answer, region }, mayRepeat) {
    if (!RETRY_STATUSES.has(answer.status)) {
      this.regions.worked(region);
      return false;
    }
    const afterMs = retryAfterMs(answer);
    this.regions.failed(region, afterMs ?? undefined);
    if (afterMs !== null) this.#notBefore.set(region, this.regions.now() + afterMs);
    return mayRepeat || UNTOUCHED.has((await problemOf(answer.clone())).code);
  }

  #waitMs(region) {
    return (this.#notBefore.get(region) ?? 0) - this.regions.now();
  }
}

function isStream({ status, headers }) {
  return status === 200 && (headers.get("content-type") ?? "").startsWith("text/event-stream");
}

async function problemOf(answer) {
  const { status } = answer;
  try {
    return { status, ...JSON.parse(await answer.text()) };
  } catch {
    return { status, detail: "that was said by no region" };
  }
}

/** What the promise gives; `TypeError` when it gives nothing in time. */
async function within(regions, ms, promise) {
  const timer = new AbortController();
  const late = regions.sleep(ms, timer.signal).then(() => {
    throw new TypeError(`fetch failed: nothing for ${ms} ms`);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    timer.abort();
  }
}

/** Something that ends with the caller's signal, or by `end`. */
class Life {
  #ending = new AbortController();
  #outer;
  #follow = () => this.end(this.#outer.reason);

  constructor(outer) {
    outer?.throwIfAborted();
    this.#outer = outer;
    outer?.addEventListener("abort", this.#follow);
  }

  get signal() {
    return this.#ending.signal;
  }

  /** It ends by itself: the caller's signal is let go of. */
  release() {
    this.#outer?.removeEventListener("abort", this.#follow);
  }

  end(reason) {
    this.release();
    this.#ending.abort(reason);
  }
}

// The stream that goes on

/** One event stream, over as many connections as it takes. */
class Continued {
  #asking;
  #request;
  #life;
  #isSession;
  #got;
  #reader;
  #blocks;
  #lastId;
  #hasPassed = false;
  #isHeld = false;
  // Within which a region that drains wants its readers to leave, spread.
  #leaveMs = null;
  #since;
  #pause;

  constructor(asking, request, got, life) {
    this.#asking = asking;
    this.#request = request;
    this.#life = life;
    this.#isSession = EVENTS.test(new URL(request.path, "http://region").pathname);
    this.#lastId = request.headers.get("last-event-id");
    this.#pause = asking.regions.pause();
    this.#connected(got);
  }

  /** The bytes, for whoever reads: nothing is read ahead of them. */
  body() {
    const encoder = new TextEncoder();
    const pull = async (controller) => {
      try {
        const { text, isOver } = await this.#next();
        if (text !== "") controller.enqueue(encoder.encode(text));
        if (!isOver) return;
        controller.close();
      } catch (error) {
        controller.error(error);
      }
      this.#life.end();
    };
    return new ReadableStream({ pull, cancel: (reason) => this.#life.end(reason) }, { highWaterMark: 0 });
  }

  #connected(got) {
    this.#got = got;
    this.#reader = got.answer.body.getReader();
    this.#blocks = new Blocks();
    this.#since = this.#asking.regions.now();
  }

  /** More of the stream, never a piece of an event; throws when it cannot go on. */
  async #next() {
    while (true) {
      const said = await this.#read();
      if (said.text !== "" || said.isOver) return said;
      if (!said.isBroken) continue;
      const between = await this.#move();
      if (between.text !== "" || between.isOver) return between;
    }
  }

  async #read() {
    const reading = this.#reader.read();
    try {
      const waiting = this.#isSession ? within(this.#asking.regions, SILENCE_MS_MAX, reading) : reading;
      const { done, value } = await waiting;
      if (!done) return this.#passed(value);
      // A session's stream ends by `deleted`; any other says by its end that it is over.
      return this.#isSession ? { text: "", isBroken: true } : { text: this.#blocks.rest(), isOver: true };
    } catch (error) {
      this.#request.signal.throwIfAborted();
      if (error instanceof RangeError || (this.#hasPassed && this.#lastId === null)) throw error;
      return { text: "", isBroken: true };
    }
  }

  /** What is passed on of these bytes. What comes behind the end is not looked at. */
  #passed(bytes) {
    let text = "";
    for (const { raw, event, id, isEvent } of this.#blocks.feed(bytes)) {
      if (this.#isSession && event === "reconnect") {
        // The region drains, and closes. What was said before goes out first.
        this.#reader = { read: async () => ({ done: true }) };
        this.#leaveMs = Number(raw.match(/"retry_ms":\s*(\d+)/)?.[1] ?? 0);
        break;
      }
      if (this.#isSession && event === "expired") {
        // Asked anew, with another grant: by who passes it on.
        this.#reader = { read: async () => ({ done: true }) };
        break;
      }
      text += raw;
      if (id !== null) this.#lastId = id || null;
      this.#hasPassed ||= isEvent;
      this.#isHeld ||= this.#isSession && event === "stale";
      if (this.#isSession && event === "deleted") return { text, isOver: true };
    }
    return { text, isOver: false };
  }

  /** Go on at another region: what is to be said in between. */
  async #move() {
    const { regions } = this.#asking;
    const { region, life } = this.#got;
    life.end();
    regions.failed(region);
    // Not at the first event already: what cuts every connection early must not be asked in a tight loop.
    if (regions.now() - this.#since >= STEADY_MS) this.#pause.reset();
    const waitMs = this.#leaveMs === null ? this.#pause.nextMs() : regions.shareOf(this.#leaveMs);
    this.#leaveMs = null;
    await regions.sleep(waitMs, this.#request.signal);
    let got = await this.#resumed(region);
    let problem = isStream(got.answer) ? null : await problemOf(got.answer);
    if (this.#isSession && problem?.code === "invalid_cursor" && this.#lastId !== null) {
      // What a region cannot read is no cursor: it tells everything anew.
      this.#lastId = null;
      got = await this.#resumed(region);
      problem = isStream(got.answer) ? null : await problemOf(got.answer);
    }
    if (problem === null) {
      this.#connected(got);
      // What one region said of its holds is void at another, which says its own.
      const text = this.#isHeld ? 'event: stale\ndata: {"message":null,"held":false}\n\n' : "";
      this.#isHeld = false;
      return { text, isOver: false };
    }
    if (!this.#isSession || problem.code !== "deleted") throw new PerdureError(problem);
    return { text: "event: deleted\ndata: {}\n\n", isOver: true };
  }

  #resumed(left) {
    const headers = new Headers(this.#request.headers);
    if (this.#lastId === null) headers.delete("last-event-id");
    else headers.set("last-event-id", this.#lastId);
    return this.#asking.answered({ ...this.#request, headers }, left);
  }
}

/** The blocks of an event stream (WHATWG HTML, 9.2.6), as they stand there, with what they say. */
class Blocks {
  #decoder = new TextDecoder("utf-8");
  #rest = "";
  #afterCr = false;
  #block = newBlock();

  /** The blocks that these bytes complete; throws `RangeError` for one without end. */
  feed(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text === "") return [];
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\r|\n/);
    lines[0] = this.#rest + lines[0];
    this.#rest = lines.pop();
    const blocks = [];
    for (const line of lines) {
      this.#add(line);
      // A comment is passed on at once: it says that somebody is there.
      const isWhole = line === "" || (line.startsWith(":") && this.#block.raw === `${line}\n`);
      if (!isWhole) continue;
      blocks.push(this.#block);
      this.#block = newBlock();
    }
    if (this.#block.raw.length + this.#rest.length > EVENT_CHARS_MAX) throw new RangeError("an event is too long");
    return blocks;
  }

  /** What has come of a block that was not ended. */
  rest() {
    return this.#block.raw + this.#rest;
  }

  #add(line) {
    const block = this.#block;
    block.raw += `${line}\n`;
    const [, name, value] = line.match(/^([^:]*)(?:: ?(.*))?$/s);
    if (name === "event") block.event = value ?? "";
    else if (name === "id" && !value?.includes("\0")) block.id = value ?? "";
    else if (name === "data") block.isEvent = true;
  }
}

function newBlock() {
  return { raw: "", event: "", id: null, isEvent: false };
}
