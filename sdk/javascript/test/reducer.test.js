import assert from "node:assert/strict";
import { test } from "node:test";

import { OutOfStep, apply, newView } from "../perdure.js";

const TEXT = (text) => [{ type: "text", text }];

function message(id, { at = "0", text = "", ...fields } = {}) {
  return {
    id,
    serial: `${at}.${id}`,
    role: "assistant",
    author: null,
    status: "streaming",
    text,
    parts: text === "" ? [] : TEXT(text),
    length: text === "" ? 0 : 1,
    created: "2026-01-01T00:00:00.000Z",
    metadata: {},
    ...fields,
  };
}

/** Neither the view nor anything in it may be changed any more. */
function frozen(value) {
  if (typeof value === "object" && value !== null) Object.values(Object.freeze(value)).forEach(frozen);
  return value;
}

function viewOf(...messages) {
  return apply(newView("s"), "snapshot", { messages, metadata: { a: 1 }, more: false });
}

function after(view, ...events) {
  return events.reduce((before, [name, data]) => apply(frozen(before), name, frozen(data)), view);
}

const append = (from, text, part = 0) => ["append", { message: "m", part, from, to: from + 1, text }];
const marks = (from, part, ...items) => [
  "append",
  { message: "m", part, from, to: from + items.length, items },
];

/** name, the view before, events, what must be seen in the view after. */
const CASES = [
  {
    name: "a snapshot is the whole state",
    before: viewOf(message("m", { text: "hi" })),
    events: [
      ["snapshot", { id: "s", messages: [message("n")], metadata: { b: 2 }, more: true, presence: [] }],
    ],
    seen: (view) => [view.messages.map((m) => m.id), view.metadata, view.more],
    expected: [["n"], { b: 2 }, true],
  },
  {
    name: "members come, change and leave",
    before: after(viewOf(), ["presence", { all: [{ member: "a", data: 1 }, { member: "__proto__" }] }]),
    events: [
      ["presence", { joined: [{ member: "b" }], updated: [{ member: "a", data: 2 }], left: [] }],
      ["presence", { left: [{ member: "__proto__" }, { member: "x" }] }],
    ],
    seen: (view) => view.presence,
    expected: [{ member: "a", data: 2 }, { member: "b" }],
  },
  {
    name: "runs that are over are dropped",
    before: after(viewOf(), ["run", { all: [{ id: "a", status: "requested" }] }]),
    events: [
      ["run", { run: { id: "b", status: "running" } }],
      ["run", { run: { id: "a", status: "suspended" } }],
      ["run", { run: { id: "b", status: "complete" } }],
      ["signal", { signal: "typing" }],
    ],
    seen: (view) => view.runs,
    expected: [{ id: "a", status: "suspended" }],
  },
  {
    name: "messages stand by serial, wherever they come",
    before: viewOf(message("b", { at: "2" })),
    events: [
      ["message", message("c", { at: "3" })],
      ["message", message("a", { at: "1" })],
    ],
    seen: (view) => view.messages.map((m) => m.id),
    expected: ["a", "b", "c"],
  },
  {
    name: "a message of an id that is held replaces it, at its new place, without the reason",
    before: viewOf(message("a", { at: "1" }), message("c", { at: "3", text: "old" })),
    events: [["message", message("c", { at: "0", role: "tool", reason: "conflict" })]],
    seen: (view) => view.messages.map((m) => [m.id, m.role, m.text, "reason" in m]),
    expected: [
      ["c", "tool", "", false],
      ["a", "assistant", "", false],
    ],
  },
  {
    name: "the first text opens a text part",
    before: viewOf(message("m")),
    events: [append(0, "Hel"), append(1, "lo")],
    seen: ({ messages: [m] }) => [m.text, m.length, m.parts],
    expected: ["Hello", 2, TEXT("Hello")],
  },
  {
    name: "an append may carry several items",
    before: viewOf(message("m", { text: "a" })),
    events: [["append", { message: "m", part: 0, from: 1, to: 4, text: "bcd" }], append(4, "e")],
    seen: ({ messages: [m] }) => [m.text, m.length],
    expected: ["abcde", 5],
  },
  {
    name: "parts open, get fields, and only those of type text are text",
    before: viewOf(message("m", { text: "Hello" })),
    events: [
      marks(1, 1, { part: { id: "r", type: "reasoning" } }, { set: { open: true } }),
      append(3, "hm", 1),
      marks(4, 1, { set: { open: false } }),
      marks(5, 2, { part: { type: "text" } }),
      append(6, " world", 2),
    ],
    seen: ({ messages: [m] }) => [m.text, m.length, m.parts],
    expected: [
      "Hello world",
      7,
      [
        { type: "text", text: "Hello" },
        { id: "r", type: "reasoning", text: "hm", open: false },
        { type: "text", text: " world" },
      ],
    ],
  },
  {
    name: "a set before any part opens a text part",
    before: viewOf(message("m")),
    events: [marks(0, 0, { set: { lang: "en" } })],
    seen: ({ messages: [m] }) => m.parts,
    expected: [{ type: "text", text: "", lang: "en" }],
  },
  {
    name: "a replace is all there is of the message, and ends a hold",
    before: viewOf(message("m", { text: "old" }), message("n", { at: "1", text: "n" })),
    events: [
      ["stale", { message: "m", held: true }],
      [
        "replace",
        { message: "m", to: 7, text: "new", parts: TEXT("new"), status: "failed", reason: "fenced" },
      ],
    ],
    seen: (view) => view.messages.map((m) => [m.text, m.parts, m.length, m.status, m.held]),
    expected: [
      ["new", TEXT("new"), 7, "failed", false],
      ["n", TEXT("n"), 1, "streaming", false],
    ],
  },
  {
    name: "an end may come again, later",
    before: viewOf(message("m", { text: "a" })),
    events: [
      ["end", { message: "m", status: "cancelled", length: 1 }],
      append(1, "b"),
      ["end", { message: "m", status: "complete", length: 2 }],
    ],
    seen: ({ messages: [m] }) => [m.status, m.text],
    expected: ["complete", "ab"],
  },
  {
    name: "a delete drops the message, also one that is not held",
    before: viewOf(message("m"), message("n", { at: "1" })),
    events: [
      ["delete", { message: "m" }],
      ["delete", { message: "x" }],
    ],
    seen: (view) => view.messages.map((m) => m.id),
    expected: ["n"],
  },
  {
    name: "stale marks one message, or all of them",
    before: viewOf(message("m"), message("n", { at: "1" }), message("o", { at: "2" })),
    events: [
      ["stale", { message: null, held: true }],
      ["stale", { message: "n", held: false }],
    ],
    seen: (view) => view.messages.map((m) => m.held),
    expected: [true, false, true],
  },
  {
    name: "metadata is the whole of it, ready is for good, unknown events change nothing",
    before: viewOf(message("m")),
    events: [
      ["metadata", { metadata: { b: 2 } }],
      ["ready", {}],
      ["metadata", { metadata: { c: 3 } }],
      ["of a later version", { message: "m" }],
    ],
    seen: (view) => [view.metadata, view.ready, view.messages.length],
    expected: [{ c: 3 }, true, 1],
  },
  {
    name: "a deleted session is empty",
    before: viewOf(message("m")),
    events: [["deleted", {}]],
    seen: (view) => [view.deleted, view.messages, view.metadata, view.more],
    expected: [true, [], {}, false],
  },
];

for (const { name, before, events, seen, expected } of CASES) {
  test(name, () => assert.deepEqual(seen(after(before, ...events)), expected));
}

test("what does not fit is refused, and changes nothing", () => {
  const wrong = [
    append(2, "a gap"),
    append(0, "again"),
    append(1, "a part that is not there", 4),
    append(1, "a part that is not open", 0),
    ["append", { message: "x", part: 0, from: 0, to: 1, text: "of a message that is not held" }],
    marks(1, 1, { part: { type: "text" } }),
    marks(1, 0, { set: {} }),
    ["append", { message: "m", part: 1, to: 2, text: "from nowhere" }],
    ["end", { message: "m", status: "complete", length: 2 }],
    ["end", { message: "m", status: "complete", length: 0 }],
    ["end", { message: "x", status: "complete", length: 0 }],
    ["replace", { message: "x", to: 0, text: "", parts: [], status: "streaming", reason: "behind" }],
  ];
  const parts = [...TEXT("a"), { type: "data", text: "" }];
  const view = frozen(viewOf(message("m", { parts, length: 1 })));
  for (const [name, data] of wrong) {
    assert.throws(() => apply(view, name, data), OutOfStep, JSON.stringify(data));
  }
});

test("what happens to messages that are older than the snapshot's is passed over", () => {
  const view = frozen({ ...viewOf(message("m", { text: "a" })), more: true });
  for (const name of ["append", "end", "replace"]) {
    assert.equal(apply(view, name, { message: "older", from: 7, to: 8, part: 0, text: "x" }), view);
  }
  assert.throws(() => after(view, append(7, "a gap")), OutOfStep);
});

test("what an event does not touch is the same object before and after", () => {
  const before = viewOf(message("l"), message("m", { at: "1" }));
  const now = after(before, append(0, "a"));
  assert.equal(now.messages[0], before.messages[0]);
  assert.notEqual(now.messages[1], before.messages[1]);
  assert.equal(before.messages[1].text, "");
});

test("a view is plain data", () => {
  const view = after(viewOf(message("m")), append(0, "a"), ["stale", { message: "m", held: true }]);
  const saved = JSON.parse(JSON.stringify(view));
  assert.deepEqual(saved, view);
  assert.equal(after(saved, append(1, "b")).messages[0].text, "ab");
});
