import assert from "node:assert/strict";
import { test } from "node:test";

import { EventParser } from "../perdure.js";

const bytes = (text) => new TextEncoder().encode(text);
const STREAM =
  ': hello\n\nevent: append\nid: c1\ndata: {"text":"é漢🙂"}\n\n' +
  "retry: 5\nid: c2\ndata:two\ndata: lines\n\n:\n\nevent: empty\n\nid\ndata: x\n\n";
const EVENTS = [
  { event: "append", id: "c1", data: '{"text":"é漢🙂"}' },
  { event: "message", id: "c2", data: "two\nlines" },
  { event: "message", id: "", data: "x" },
];

test("the same events, wherever the bytes are cut and however lines end", () => {
  for (const newline of ["\n", "\r\n", "\r"]) {
    const whole = bytes(STREAM.replaceAll("\n", newline));
    for (let cut = 0; cut <= whole.length; cut += 1) {
      const parser = new EventParser();
      const events = [...parser.feed(whole.slice(0, cut)), ...parser.feed(whole.slice(cut))];
      assert.deepEqual(events, EVENTS, `${JSON.stringify(newline)} cut at ${cut}`);
    }
    const single = new EventParser();
    const events = [...whole].flatMap((byte) => single.feed(Uint8Array.of(byte)));
    assert.deepEqual(events, EVENTS);
  }
});

test("an id with NUL is ignored, and an id holds until the next", () => {
  const events = new EventParser().feed(bytes("id: a\ndata: 1\n\ndata: 2\n\nid: b\0\ndata: 3\n\n"));
  assert.deepEqual(events.map((event) => event.id), ["a", "a", "a"]);
});

test("an event without end is refused", () => {
  const parser = new EventParser();
  const chunk = new Uint8Array(2 ** 26).fill(0x61);
  parser.feed(bytes("data: "));
  assert.throws(() => {
    for (let count = 0; count < 6; count += 1) parser.feed(chunk);
  }, RangeError);
});
