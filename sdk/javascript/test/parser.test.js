import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser } from "../perdure.js";

const bytes = (text) => new TextEncoder().encode(text);
const STREAM =
  ': hello\n\nevent: append\nid: c1\ndata: {"text":"é漢🙂"}\n\n' +
  "retry: 5\nid: c2\ndata:two\ndata:  lines\n\n:\n\nevent: empty\n\nid\ndata: x\n\ndata\n\nid: c3\ndata: cut off\n";
const EVENTS = [
  { event: "append", id: "c1", data: '{"text":"é漢🙂"}' },
  { event: "message", id: "c2", data: "two\n lines" },
  { event: "message", id: "", data: "x" },
  { event: "message", id: "", data: "" },
];

function inPieces(whole, ...cuts) {
  const parser = new EventParser();
  const ends = [...cuts, whole.length];
  return ends.flatMap((end, index) => parser.feed(whole.slice(ends[index - 1] ?? 0, end)));
}

test("the same events, wherever the bytes are cut and however lines end", () => {
  for (const newline of ["\n", "\r\n", "\r"]) {
    const whole = bytes(STREAM.replaceAll("\n", newline));
    for (let cut = 0; cut <= whole.length; cut += 1) {
      assert.deepEqual(inPieces(whole, cut), EVENTS, `${JSON.stringify(newline)} cut at ${cut}`);
      assert.deepEqual(inPieces(whole, cut, cut), EVENTS, "an empty piece between");
    }
    assert.deepEqual(inPieces(whole, ...whole.keys()), EVENTS, `${JSON.stringify(newline)} byte by byte`);
  }
});

test("lines may end in different ways in one stream, also byte by byte", () => {
  const whole = bytes("data: 1\r\n\ndata: 2\r\r\ndata: 3\n\r\ndata: 4\r\n\r\n");
  const numbers = (events) => events.map((event) => event.data);
  assert.deepEqual(numbers(inPieces(whole)), ["1", "2", "3", "4"]);
  assert.deepEqual(numbers(inPieces(whole, ...whole.keys())), ["1", "2", "3", "4"]);
});

test("a byte order mark at the start is no part of the first field's name", () => {
  assert.deepEqual(inPieces(bytes("\uFEFFdata: 1\n\n"), 1, 2), [{ event: "message", id: "", data: "1" }]);
});

test("an id with NUL is ignored, and an id holds until the next", () => {
  const events = new EventParser().feed(bytes("id: a\ndata: 1\n\ndata: 2\n\nid: b\0\ndata: 3\n\n"));
  assert.deepEqual(
    events.map((event) => event.id),
    ["a", "a", "a"],
  );
});

test("an event without end is refused, in one line or in many", () => {
  const letters = new Uint8Array(2 ** 26).fill(0x61);
  const lines = bytes(`data: ${"a".repeat(2 ** 26)}\n`);
  for (const [first, chunk] of [
    ["data: ", letters],
    ["", lines],
  ]) {
    const parser = new EventParser();
    parser.feed(bytes(first));
    const feed = () => {
      for (let count = 0; count < 5; count += 1) parser.feed(chunk);
    };
    assert.throws(feed, RangeError);
  }
});

test("events that are over, and comments, do not count against the next", () => {
  const parser = new EventParser();
  const chunk = bytes(`:${"c".repeat(2 ** 26)}\ndata: ${"a".repeat(2 ** 26)}\n\n`);
  for (let count = 0; count < 5; count += 1) assert.equal(parser.feed(chunk).length, 1);
});
