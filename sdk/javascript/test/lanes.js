/** Regions that take tokens as PROTOCOL A.4 says, in memory, for tests of the writer. */

import { Client } from "../perdure.js";
import { VirtualTime } from "./time.js";

const EPOCH = "1-0123456789abcdef";

function problem(status, code, more = {}) {
  return [status, { code, status, detail: code, ...more }];
}

/** One region: the lane of one message. */
export class FakeRegion {
  isAlive = true;
  isKnown = false;
  items = [];
  end = null;
  /** What is said to be stable; null: no other region is configured. */
  stable = (count) => count;
  /** A refusal instead of the next answer to an append. */
  refusal = null;
  /** The next append is taken, and its answer lost. */
  losesAnswer = false;
  appends = [];

  /** `[status, value]`; throws when there is no answer. */
  handle(path, headers, body) {
    if (!this.isAlive) throw new TypeError("fetch failed");
    if (path.endsWith("/tokens")) return this.#append(Number(headers["producer-seq"]), body, headers);
    this.isKnown = true;
    const opened = { id: "m", serial: "0.m", epoch: EPOCH, header: "the-header", next: this.items.length };
    const claimed = {
      epoch: EPOCH,
      header: "the-header",
      base: 2,
      next: 0,
      length: 2,
      text: "He",
      parts: [],
    };
    return [201, path.endsWith("/claim") ? claimed : opened];
  }

  #append(seq, { tokens, end }, headers) {
    this.appends.push({ seq, tokens, end, headers });
    if (this.refusal !== null) return this.refusal;
    if (!this.isKnown) return problem(409, "unknown_epoch");
    if (seq > this.items.length) return problem(409, "gap", { expected: this.items.length });
    const duplicates = Math.min(tokens.length, this.items.length - seq);
    for (let index = 0; index < duplicates; index += 1) {
      if (JSON.stringify(this.items[seq + index]) !== JSON.stringify(tokens[index]))
        return problem(409, "conflict");
    }
    if (this.end !== null && duplicates < tokens.length) return problem(409, "ended");
    this.items.push(...tokens.slice(duplicates));
    this.end ??= end ?? null;
    if (this.losesAnswer) {
      this.losesAnswer = false;
      throw new TypeError("terminated");
    }
    return [200, this.acknowledgement(duplicates)];
  }

  acknowledgement(duplicates) {
    const next = this.items.length;
    const stable = this.stable(next);
    const ended = this.end === null ? null : stable === next ? "stable" : "accepted";
    return { next, accepted: next, stable, duplicates, ended };
  }
}

/** Two regions `http://a` and `http://b`, and a session at them. */
export function twoRegions() {
  const time = new VirtualTime();
  const regions = { "http://a": new FakeRegion(), "http://b": new FakeRegion() };
  const asked = [];
  const fetch = async (url, { headers, body, signal }) => {
    signal.throwIfAborted();
    const { origin, pathname } = new URL(url);
    asked.push({ origin, path: pathname, body: JSON.parse(body) });
    const [status, value] = regions[origin].handle(pathname, headers, JSON.parse(body));
    return { status, ok: status < 300, headers: new Headers(), text: async () => JSON.stringify(value) };
  };
  const { now, sleep } = time;
  const client = new Client(Object.keys(regions), { fetch, now, sleep, random: () => 0.5 });
  return { a: regions["http://a"], b: regions["http://b"], session: client.session("s"), time, asked };
}
