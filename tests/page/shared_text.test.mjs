// The page's shared text against the real Yjs: random edits at once, told in any order and any number
// of times, end in one text everywhere.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test as always } from "node:test";

import { SharedText } from "../../page/shared_text.mjs";

const Y = (() => {
  try {
    return createRequire(new URL("../../sdk/javascript/package.json", import.meta.url))("yjs");
  } catch (error) {
    if (error.code !== "MODULE_NOT_FOUND") throw error;
    return null;
  }
})();
const skip = Y === null && "yjs is not installed here: make setup-js";
const test = (name, run) => always(name, { skip }, run);

const WORDS = ["a", "bc", "def", "ä", "漢字", "😀", "👩‍💻", "\n", "\ufeff", " and so on"];
const EMPTY = Uint8Array.of(0);

/** Numbers below a limit that a seed gives (mulberry32). */
function drawing(seed) {
  return (below) => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), seed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** A place in a text, often at its beginning, that is not in the middle of a character. */
function place(text, draw) {
  const index = draw(1 + (draw(2) === 0 ? text.length : Math.min(text.length, 3)));
  return /[\uDC00-\uDFFF]/.test(text[index] ?? "") ? index - 1 : index;
}

/** Somebody who writes with the page's own module. */
class Own {
  constructor(client) {
    this.shared = new SharedText(client);
  }

  get text() {
    return this.shared.toString();
  }

  edit(draw) {
    const [one, other] = [place(this.text, draw), place(this.text, draw)].sort((a, b) => a - b);
    const count = draw(3) === 0 ? other - one : 0;
    return [this.shared.edit(one, count, draw(4) === 0 ? "" : WORDS[draw(WORDS.length)])];
  }

  take(update) {
    return this.shared.apply(update);
  }

  vector = () => this.shared.vector;
  missing = (vector) => this.shared.missing(vector);
}

/** Somebody who writes with Yjs, and what the page does not know too. */
class Real {
  constructor(client) {
    this.doc = new Y.Doc();
    this.doc.clientID = client;
    this.told = [];
    this.doc.on("update", (update, origin) => origin === "far" || this.told.push(update));
  }

  get text() {
    return this.doc.getText("text").toString();
  }

  edit(draw) {
    const text = this.doc.getText("text");
    const whole = text.toDelta().map(({ insert }) => (typeof insert === "string" ? insert : "x")).join("");
    const [one, other] = [place(whole, draw), place(whole, draw)].sort((a, b) => a - b);
    this.doc.transact(() => {
      const kind = draw(12);
      if (kind < 6) text.insert(one, WORDS[draw(WORDS.length)]);
      else if (kind < 9) text.delete(one, other - one);
      else if (kind === 9 && other > one) text.format(one, other - one, { bold: draw(2) === 0 || null });
      else if (kind === 10) text.insertEmbed(one, { image: draw(9) });
      else this.#map(draw);
    });
    return this.told.splice(0);
  }

  #map(draw) {
    const map = this.doc.getMap("json");
    const values = [1, -70, 0.5, "text", null, true, [1, { deep: [2n ** 60n] }], new Uint8Array([1, 2])];
    const key = `k${draw(3)}`;
    if (draw(3) === 0) map.set(key, new Y.Text("inside"));
    else if (draw(3) === 0) map.delete(key);
    else map.set(key, values[draw(values.length)]);
    this.doc.getArray("list").push([1, "a", null].slice(draw(3)));
  }

  get isWaiting() {
    return this.doc.store.pendingStructs !== null || this.doc.store.pendingDs !== null;
  }

  take(update) {
    Y.applyUpdate(this.doc, update, "far");
    return true;
  }

  vector = () => Y.encodeStateVector(this.doc);
  missing = (vector) => Y.encodeStateAsUpdate(this.doc, vector);
}

/** Both ways, as at the opening of a socket. Yjs tells what it cannot take in yet, too: a region does not. */
function meet(one, other) {
  assert(one.take(other.missing(one.vector())) || other.isWaiting);
  assert(other.take(one.missing(other.vector())) || one.isWaiting);
}

function course(seed) {
  const draw = drawing(seed);
  const writers = [new Own(draw(2 ** 32)), new Own(1 + draw(9)), new Real(20 + draw(9)), new Real(draw(2 ** 32)), new Own(30 + draw(9))];
  const waiting = [];
  for (let step = 0; step < 120; step++) {
    const writer = writers[draw(writers.length)];
    for (const update of writer.edit(draw))
      for (const other of writers) if (other !== writer) waiting.push([other, update]);
    // Told late, out of order, twice, or never.
    for (let count = draw(6); count > 0 && waiting.length > 0; count--) {
      const [other, update] = draw(8) === 0 ? waiting[draw(waiting.length)] : waiting.splice(draw(waiting.length), 1)[0];
      if (!other.take(update)) meet(other, writers[draw(writers.length)]);
    }
    if (draw(20) === 0) meet(writers[draw(writers.length)], writers[draw(writers.length)]);
  }
  for (let round = 0; round < 3; round++) for (const one of writers) for (const other of writers) meet(one, other);
  return writers;
}

test("random edits at once end in the same text as Yjs has", () => {
  for (let seed = 0; seed < 150; seed++) {
    const writers = course(seed);
    const texts = writers.map(({ text }) => text);
    assert(!writers.some(({ isWaiting }) => isWaiting), `seed ${seed}`);
    assert.deepEqual(new Set(texts), new Set([writers[2].text]), `seed ${seed}`);
    // Whatever it was told, what it does not look into too, it can tell another.
    const late = new Real(19);
    late.take(writers[0].missing(EMPTY));
    assert.deepEqual(late.doc.getText("text").toDelta(), writers[2].doc.getText("text").toDelta(), `seed ${seed}`);
    assert.deepEqual(late.doc.getMap("json").toJSON(), writers[2].doc.getMap("json").toJSON(), `seed ${seed}`);
    assert.deepEqual(late.doc.getArray("list").toJSON(), writers[2].doc.getArray("list").toJSON(), `seed ${seed}`);
  }
});

test("runs of two who write at one place are not mixed", () => {
  const [one, other] = [new Own(1), new Own(2)];
  for (const [writer, word] of [[one, "left"], [other, "right"]])
    [...word].forEach((letter, index) => writer.shared.edit(index, 0, letter));
  meet(one, other);
  assert.equal(one.text, other.text);
  assert(["leftright", "rightleft"].includes(one.text), one.text);
});

test("an anchor stays behind its character", () => {
  const [one, other] = [new Own(1), new Own(2)];
  one.shared.edit(0, 0, "abcdef");
  meet(one, other);
  const anchor = one.shared.anchor(3);
  const start = one.shared.anchor(0);
  other.shared.edit(1, 0, "new ");
  other.shared.edit(7, 0, "after");
  meet(one, other);
  assert.equal(one.text, "anew bcafterdef");
  assert.equal(one.shared.indexOf(anchor), 7);
  other.shared.edit(5, 2, "");
  meet(one, other);
  assert.equal(one.text, "anew afterdef");
  assert.equal(one.shared.indexOf(anchor), 5);
  assert.equal(one.shared.indexOf(start), 0);
});

test("what builds on something that is not here is not taken, and changes nothing", () => {
  const [one, other] = [new Own(1), new Own(2)];
  const first = one.shared.edit(0, 0, "a");
  const second = one.shared.edit(1, 0, "b");
  assert.equal(other.take(second), false);
  assert.equal(other.text, "");
  assert.deepEqual(other.vector(), EMPTY);
  assert(other.take(first) && other.take(second) && other.take(first));
  assert.equal(other.text, "ab");
});

test("typing and deleting letter by letter leaves few pieces", () => {
  const one = new Own(1);
  for (let index = 0; index < 500; index++) one.shared.edit(index, 0, "x");
  assert(one.missing(EMPTY).length < 530);
  for (let index = 499; index >= 0; index--) one.shared.edit(index, 1, "");
  assert.equal(one.text, "");
  assert(one.missing(EMPTY).length < 40);
});

always("bytes that are no update throw", () => {
  for (const bytes of [[], [1], [1, 1, 1, 0, 31], [1, 1, 1, 0, 4, 1, 1, 116, 200], [0, 1, 1, 1, 0]])
    assert.throws(() => new SharedText(1).apply(Uint8Array.from(bytes)), RangeError);
});
