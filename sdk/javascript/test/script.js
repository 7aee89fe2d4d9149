/** Regions that answer from a script, for tests of what a client asks and of what it makes of answers. */

import { Client } from "../perdure.js";
import { VirtualTime } from "./time.js";

const encoder = new TextEncoder();

/** A connection that breaks; one that ends. Without either at its end it stays open and silent. */
export const BREAK = Symbol("break");
export const CLOSE = Symbol("close");

/** An event as it stands on the wire. */
export function sse(event, id, data) {
  return `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
}

/** An answer with a JSON body, or with a text that is none. */
export function answer(status, value) {
  const text = typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
  return () => ({ status, ok: status < 300, headers: new Headers(), text: async () => text });
}

/** A region that cannot be reached. */
export function gone() {
  throw new TypeError("fetch failed");
}

/** A region that takes the request and never says a word. */
export function mute({ signal }) {
  return aborted(signal);
}

/** A stream of events: texts or bytes to send, perhaps BREAK or CLOSE at its end. */
export function stream(...steps) {
  return ({ signal }) => {
    const read = async () => {
      const step = steps.shift();
      if (step === BREAK) throw new TypeError("terminated");
      if (step === CLOSE) return { done: true, value: undefined };
      if (step === undefined) return aborted(signal);
      return { done: false, value: typeof step === "string" ? encoder.encode(step) : step };
    };
    const headers = new Headers({ "content-type": "text/event-stream; charset=utf-8" });
    return { status: 200, ok: true, headers, body: { getReader: () => ({ read }) } };
  };
}

function aborted(signal) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

/**
 * A client of three regions `http://a`, `b` and `c` (or of `urls`) whose requests are answered by the
 * steps of `script` in order. `asked` collects the requests.
 */
export function scripted(script, { urls = ["http://a", "http://b", "http://c"], ...options } = {}) {
  const time = new VirtualTime();
  const asked = [];
  const fetch = async (url, request) => {
    const { origin, pathname, search } = new URL(url);
    const { method, headers, body, signal } = request;
    const cursor = headers["last-event-id"] ?? null;
    asked.push({
      origin,
      method,
      path: pathname + search,
      headers,
      cursor,
      signal,
      body: body && JSON.parse(body),
    });
    const step = script.shift();
    if (step === undefined) throw new Error("an unexpected request");
    return step(request, pathname);
  };
  const { now, sleep } = time;
  const transport = "sse";
  const client = new Client(urls, { fetch, now, sleep, transport, random: () => 0.5, ...options });
  return { client, time, asked };
}
