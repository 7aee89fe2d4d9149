/**
 * The shared draft: a text area that is a shared text, kept in step with a region over y-websocket, and
 * with the next one when that region is gone.
 */

import { Reader, Writer } from "./lib0.mjs";
import { SharedText } from "./shared_text.mjs";

const [SYNC, STEP_1, STEP_2, UPDATE] = [0, 0, 1, 2];
/** A region says something every 10 s at least: silence for longer than two of them means that it is gone. */
const SILENCE_MS_MAX = 25_000;
const BACKOFF_MS_MIN = 100;
const BACKOFF_MS_MAX = 5_000;
/** The region refused for good: what it says is shown, and nothing is tried again. */
const REFUSED = new Set([1003, 4400, 4410, 4413]);

export class Draft {
  #area;
  #path;
  #grant;
  #onState;
  #text = new SharedText(crypto.getRandomValues(new Uint32Array(1))[0]);
  #shown = "";
  #urls = [];
  #socket = null;
  #timer = null;
  #silence = null;
  #waitMs = 0;
  // What came while somebody was in the middle of composing a character.
  #held = null;

  /** `onState(state, detail)`: `open`, `lost` or `refused`; `grant()` gives the one to use now, if any. */
  constructor(area, { session, document, onState, grant = () => null }) {
    this.#grant = grant;
    this.#area = area;
    this.#path = `/v1/sessions/${session}/documents/${document}`;
    this.#onState = onState;
    area.addEventListener("input", ({ isComposing }) => isComposing || this.#typed());
    area.addEventListener("compositionstart", () => (this.#held ??= []));
    area.addEventListener("compositionend", () => this.#composed());
  }

  /** Be in step with the first of these regions that answers. */
  follow(urls) {
    this.#urls = [...urls];
    this.#waitMs = 0;
    this.#connect();
  }

  // The socket

  #connect() {
    clearTimeout(this.#timer);
    const old = this.#socket;
    this.#socket = null;
    old?.close();
    const grant = this.#grant();
    const url = this.#urls[0].replace(/^http/, "ws") + this.#path;
    const socket = grant ? new WebSocket(url, ["perdure.v1", `bearer.${grant}`]) : new WebSocket(url);
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#ask();
    socket.onmessage = ({ data }) => this.#socket === socket && this.#heard(new Uint8Array(data));
    socket.onclose = ({ code, reason }) => this.#socket === socket && this.#lost(code, reason);
    this.#listen();
  }

  #listen() {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.#lost(0, "silent"), SILENCE_MS_MAX);
  }

  #leave() {
    clearTimeout(this.#silence);
    const socket = this.#socket;
    this.#socket = null;
    socket.close();
  }

  #lost(code, reason) {
    this.#leave();
    if (REFUSED.has(code)) {
      this.#onState("refused", reason);
      return;
    }
    this.#onState("lost");
    // What was typed meanwhile is told to the next region: it asks for what it lacks.
    this.#urls.push(this.#urls.shift());
    this.#timer = setTimeout(() => this.#connect(), this.#waitMs * Math.random());
    this.#waitMs = Math.min(Math.max(BACKOFF_MS_MIN, this.#waitMs * 2), BACKOFF_MS_MAX);
  }

  #send(step, bytes) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return;
    const out = new Writer();
    out.uint(SYNC);
    out.uint(step);
    out.octets(bytes);
    this.#socket.send(out.bytes);
  }

  #ask() {
    this.#send(STEP_1, this.#text.vector);
  }

  #heard(message) {
    this.#listen();
    try {
      this.#hear(message);
    } catch (error) {
      // Not to be asked for again: what the document holds is not for this page.
      this.#leave();
      this.#onState("refused", error.message);
    }
  }

  #hear(message) {
    const reader = new Reader(message);
    // Who is here the session tells, and nobody else writes to this client.
    if (reader.uint() !== SYNC) return;
    const step = reader.uint();
    const bytes = reader.octets();
    if (step === STEP_1) this.#send(STEP_2, this.#text.missing(bytes));
    else if (this.#held !== null) this.#held.push([step, bytes]);
    else this.#take(step, bytes);
  }

  #take(step, bytes) {
    const { selectionStart, selectionEnd } = this.#area;
    const anchors = [selectionStart, selectionEnd].map((index) => this.#text.anchor(index));
    if (!this.#text.apply(bytes)) {
      this.#ask();
      return;
    }
    if (step === STEP_2) {
      this.#waitMs = 0;
      this.#onState("open", this.#urls[0]);
    }
    this.#show(anchors);
  }

  // The text area

  /** What the text is now, with the caret between the same characters. */
  #show(anchors) {
    const text = this.#text.toString();
    if (text === this.#shown) return;
    this.#shown = text;
    const { scrollTop } = this.#area;
    const hasFocus = document.activeElement === this.#area;
    this.#area.value = text;
    if (hasFocus) this.#area.setSelectionRange(...anchors.map((anchor) => this.#text.indexOf(anchor)));
    this.#area.scrollTop = scrollTop;
  }

  #typed() {
    const { index, count, text } = change(this.#shown, this.#area.value, this.#area.selectionEnd);
    if (count === 0 && text === "") return;
    this.#shown = this.#area.value;
    this.#send(UPDATE, this.#text.edit(index, count, text));
  }

  #composed() {
    this.#typed();
    const held = this.#held ?? [];
    this.#held = null;
    for (const [step, bytes] of held) this.#take(step, bytes);
  }
}

/**
 * What made `after` out of `before`: `count` units deleted at `index`, and `text` put there. `caret` is
 * where the typing ended, which tells apart what looks the same; no character is cut in two.
 */
export function change(before, after, caret = after.length) {
  const shorter = Math.min(before.length, after.length);
  let tail = 0;
  const tailMax = Math.min(shorter, after.length - caret);
  while (tail < tailMax && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
  if (tail > 0 && isSecondHalf(after, after.length - tail)) tail--;
  let index = 0;
  while (index < shorter - tail && before[index] === after[index]) index++;
  if (isSecondHalf(before, index) || isSecondHalf(after, index)) index--;
  return { index, count: before.length - tail - index, text: after.slice(index, after.length - tail) };
}

function isSecondHalf(text, index) {
  return index > 0 && index < text.length && /[\uDC00-\uDFFF]/.test(text[index]) && /[\uD800-\uDBFF]/.test(text[index - 1]);
}
