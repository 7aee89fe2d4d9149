import assert from "node:assert/strict";
import { test } from "node:test";

import { OutOfStep, apply, newView } from "../perdure.js";

function message(id, fields = {}) {
  const text = fields.text ?? "";
  return {
    id,
    serial: `${fields.at ?? "0"}.${id}`,
    role: "assistant",
    author: null,
    status: "streaming",
    text,
    parts: text === "" ? [] : [{ type: "text", text }],
    length: 0,
    created: "2026-01-01T00:00:00.000Z",
    metadata: {},
    ...fields,
  };
}

function viewOf(...messages) {
  const view = newView("s");
  apply(view, "snapshot", { messages, metadata: { a: 1 }, more: true });
  return view;
}

test("a snapshot is the whole state", () => {
  const view = viewOf(message("m", { text: "hi", length: 1 }));
  apply(view, "snapshot", { messages: [message("n")], metadata: {}, more: false });
  assert.deepEqual(view.messages.map((m) => m.id), ["n"]);
  assert.deepEqual([view.metadata, view.more], [{}, false]);
});

test("messages stand by serial, and one of the same id is replaced", () => {
  const view = viewOf(message("b", { at: "2" }));
  apply(view, "message", message("c", { at: "3" }));
  apply(view, "message", message("a", { at: "1" }));
  apply(view, "message", message("c", { at: "0", role: "tool", reason: "conflict" }));
  assert.deepEqual(view.messages.map((m) => m.id), ["c", "a", "b"]);
  assert.equal(view.messages[0].role, "tool");
  assert.equal("reason" in view.messages[0], false);
});

test("appends add up, over parts and marks", () => {
  const view = viewOf(message("m"));
  apply(view, "append", { message: "m", part: 0, from: 0, to: 2, text: "Hello" });
  apply(view, "append", { message: "m", part: 1, from: 2, to: 3, items: [{ part: { type: "reasoning" } }] });
  apply(view, "append", { message: "m", part: 1, from: 3, to: 4, text: "hm" });
  apply(view, "append", { message: "m", part: 1, from: 4, to: 5, items: [{ set: { done: true } }] });
  apply(view, "append", { message: "m", part: 2, from: 5, to: 6, items: [{ part: { type: "text" } }] });
  apply(view, "append", { message: "m", part: 2, from: 6, to: 7, text: " world" });
  const [held] = view.messages;
  assert.equal(held.text, "Hello world");
  assert.equal(held.length, 7);
  assert.deepEqual(held.parts[1], { type: "reasoning", text: "hm", done: true });
});

test("a set before any part opens a text part", () => {
  const view = viewOf(message("m"));
  apply(view, "append", { message: "m", part: 0, from: 0, to: 1, items: [{ set: { lang: "en" } }] });
  assert.deepEqual(view.messages[0].parts, [{ type: "text", text: "", lang: "en" }]);
});

test("replace, end, stale, delete, metadata, ready and deleted", () => {
  const view = viewOf(message("m", { text: "old", length: 3 }), message("n", { at: "1" }));
  apply(view, "stale", { message: "m", held: true });
  assert.deepEqual(view.messages.map((m) => m.held), [true, false]);
  apply(view, "stale", { message: null, held: true });
  assert.deepEqual(view.messages.map((m) => m.held), [true, true]);
  const parts = [{ type: "text", text: "new" }];
  apply(view, "replace", { message: "m", to: 1, text: "new", parts, status: "streaming", reason: "fenced" });
  assert.deepEqual([view.messages[0].text, view.messages[0].length, view.messages[0].held], ["new", 1, false]);
  apply(view, "end", { message: "m", status: "complete", length: 1 });
  assert.equal(view.messages[0].status, "complete");
  apply(view, "delete", { message: "m" });
  assert.deepEqual(view.messages.map((m) => m.id), ["n"]);
  apply(view, "metadata", { metadata: { b: 2 } });
  apply(view, "ready", {});
  apply(view, "of a later version", { what: "ever" });
  assert.deepEqual([view.metadata, view.ready], [{ b: 2 }, true]);
  apply(view, "deleted", {});
  assert.deepEqual([view.deleted, view.messages], [true, []]);
});

test("what does not fit is refused, and changes nothing", () => {
  const wrong = [
    ["append", { message: "m", part: 0, from: 2, to: 3, text: "gap" }],
    ["append", { message: "m", part: 0, from: 0, to: 1, text: "again" }],
    ["append", { message: "m", part: 4, from: 1, to: 2, text: "no such part" }],
    ["append", { message: "x", part: 0, from: 0, to: 1, text: "unknown" }],
    ["end", { message: "m", status: "complete", length: 2 }],
    ["replace", { message: "x", to: 0, text: "", parts: [], status: "streaming", reason: "behind" }],
  ];
  for (const [name, data] of wrong) {
    const view = viewOf(message("m", { text: "a", length: 1 }));
    const before = structuredClone(view);
    assert.throws(() => apply(view, name, data), OutOfStep, JSON.stringify(data));
    assert.deepEqual(view, before);
  }
});

test("a view is plain data and keeps nothing of the events' objects", () => {
  const data = message("m", { text: "a", length: 1 });
  const view = viewOf(data);
  apply(view, "append", { message: "m", part: 0, from: 1, to: 2, text: "b" });
  assert.equal(data.parts[0].text, "a");
  assert.deepEqual(JSON.parse(JSON.stringify(view)), view);
});
