import assert from "node:assert/strict";
import { test } from "node:test";

import { twoRegions } from "./lanes.js";
import { answer, scripted } from "./script.js";

const STABLE_NONE = () => 0;
const ALONE = () => null;

/** Everything that was written is in order and there once, whoever was asked how often. */
function assertLane(region, items, end = null) {
  assert.deepEqual(region.items, items);
  assert.equal(region.end, end);
}

test("tokens, marks and the end arrive in order, named by producer, epoch and seq", async () => {
  const { a, session, time, asked } = twoRegions();
  const writer = await session.open("assistant", {
    id: "m",
    producer: "agent",
    after: "0.p",
    metadata: { a: 1 },
  });
  const { claim_id, ...opened } = asked[0].body;
  assert.match(claim_id, /^[0-9a-f]{24}$/);
  assert.deepEqual(opened, {
    id: "m",
    role: "assistant",
    producer: "agent",
    after: "0.p",
    metadata: { a: 1 },
  });
  await writer.write("Hel");
  await writer.write("lo");
  await writer.mark({ part: { type: "reasoning" } });
  await time.run(writer.flush());
  await writer.write("hm");
  await time.run(writer.end());
  await time.run(writer.stable());
  assertLane(a, ["Hel", "lo", { part: { type: "reasoning" } }, "hm"], "complete");
  assert.deepEqual([writer.accepted, writer.stableCount, writer.next, writer.moves], [4, 4, 4, 0]);
  const { headers } = a.appends[0];
  assert.deepEqual([headers["producer-id"], headers["producer-epoch"]], ["agent", "1-0123456789abcdef"]);
  a.appends.reduce((next, { seq, tokens }) => {
    assert.equal(seq, next);
    return seq + tokens.length;
  }, 0);
});

test("a mark is sent as it was given, and sent again so; what is none is refused where it is given", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  a.losesAnswer = true;
  const mark = { set: { step: 1, said: "\ud800" } };
  await writer.mark(mark);
  await time.until(() => a.items.length === 1);
  mark.set.step = 2;
  for (const none of [undefined, "text", 7, {}, { part: "text" }, { set: [] }])
    await assert.rejects(writer.mark(none), TypeError);
  await time.run(writer.flush());
  assertLane(a, [{ set: { step: 1, said: "\ufffd" } }]);
  await time.run(writer.end());
});

test("what is too large is refused where it is given, and the message goes on", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  const largest = "é".repeat(524_288);
  await assert.rejects(writer.write(`${largest}x`), RangeError);
  await assert.rejects(writer.mark({ set: { x: "x".repeat(262_144) } }), RangeError);
  await time.run(writer.write(largest));
  await time.run(writer.end());
  assertLane(a, [largest], "complete");
});

test("what gathers while a request is under way goes together in the next", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  for (const token of "abcdef") await writer.write(token);
  await time.run(writer.flush());
  assert.ok(a.appends.length <= 2, `${a.appends.length} requests`);
  for (let count = 0; count < 3_000; count += 1) writer.write("x");
  await time.run(writer.flush());
  assert.ok(a.appends.every((one) => one.tokens.length <= 1_024));
  assert.equal(a.items.length, 3_006);
  await writer.close();
});

test("a large token goes alone", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  for (let count = 0; count < 4; count += 1) writer.write("x".repeat(300_000));
  await time.run(writer.end());
  assert.ok(a.appends.every((one) => one.tokens.length <= 1));
  assert.equal(a.items.length, 4);
});

test("a region that dies with what it alone had: all of it is repeated at another, which is told the header", async () => {
  const { a, b, session, time, asked } = twoRegions();
  a.stable = (count) => Math.min(count, 1);
  b.stable = ALONE;
  const writer = await session.open("assistant", { id: "m" });
  for (const token of ["Nothing", " is", " lost"]) await writer.write(token);
  await time.run(writer.flush());
  a.isAlive = false;
  b.items = ["Nothing"];
  await writer.write(".");
  await time.run(writer.end());
  await time.run(writer.stable());
  assertLane(b, ["Nothing", " is", " lost", "."], "complete");
  assert.equal(b.appends[0].seq, 1, "all that was not stable is sent at once");
  assert.equal(writer.moves, 1);
  assert.equal(writer.region, "http://b");
  const reopened = asked.filter((one) => one.body.header !== undefined);
  assert.deepEqual(
    reopened.map(({ origin, body }) => [origin, body]),
    [["http://b", { header: "the-header" }]],
  );
});

test("a region that dies after the last token was accepted is noticed without a further token", async () => {
  const { a, b, session, time } = twoRegions();
  a.stable = STABLE_NONE;
  const writer = await session.open();
  await writer.write("only here");
  await time.run(writer.end());
  a.isAlive = false;
  await time.run(writer.stable());
  assertLane(b, ["only here"], "complete");
});

test("an append whose answer was lost changes nothing when it is repeated", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  a.losesAnswer = true;
  await writer.write("once");
  await time.run(writer.flush());
  const other = twoRegions();
  other.a.losesAnswer = true;
  other.b.isAlive = false;
  const again = await other.session.open();
  await again.write("once");
  await other.time.run(again.end());
  assertLane(a, ["once"]);
  assertLane(other.a, ["once"], "complete");
  assert.ok(other.a.appends.length > 1);
  await writer.close();
});

test("a region that comes back with less gets from the writer what it lacks", async () => {
  const { a, session, time } = twoRegions();
  a.stable = STABLE_NONE;
  const writer = await session.open();
  for (const token of ["a", "b", "c"]) await writer.write(token);
  await time.run(writer.flush());
  a.items = ["a"];
  await writer.write("d");
  await time.run(writer.end());
  assertLane(a, ["a", "b", "c", "d"], "complete");
  assert.equal(writer.moves, 0);
});

test("a region that lacks what the writer no longer holds gets time; after a minute the buffer is lost", async () => {
  const { a, b, session, time } = twoRegions();
  const writer = await session.open();
  await writer.write("stable elsewhere");
  await time.run(writer.stable());
  a.isAlive = false;
  b.isKnown = true;
  await writer.write("more");
  const flushed = writer.flush();
  await assert.rejects(time.run(flushed), { code: "buffer_lost" });
  assert.ok(time.nowMs > 60_000);
  assertLane(b, []);
});

test("… and goes on when it has arrived by gossip", async () => {
  const { a, b, session, time } = twoRegions();
  const writer = await session.open();
  await writer.write("stable elsewhere");
  await time.run(writer.stable());
  a.isAlive = false;
  b.isKnown = true;
  await writer.write("more");
  const flushed = writer.flush();
  await time.until(() => b.appends.length > 0);
  b.items = ["stable elsewhere"];
  await time.run(flushed);
  assertLane(b, ["stable elsewhere", "more"]);
  await writer.close();
});

test("while nothing is stable the regions are asked, less and less often", async () => {
  const { a, session, time } = twoRegions();
  a.stable = STABLE_NONE;
  const writer = await session.open();
  await writer.write("a");
  const stable = writer.stable();
  await time.until(() => time.nowMs >= 10_000);
  assert.ok(time.slept.every((ms) => ms <= 1_000));
  assert.ok(a.appends.length > 8 && a.appends.length < 20, `${a.appends.length} requests in 10 s`);
  a.stable = (count) => count;
  await time.run(stable);
  assert.equal(time.sleeping, 0, "a writer that has nothing to do does not ask");
  await writer.close();
});

test("without another region, accepted is all there is", async () => {
  const { a, session, time } = twoRegions();
  a.stable = ALONE;
  const writer = await session.open();
  await writer.pipe(["a", "b"]);
  assertLane(a, ["a", "b"], "complete");
  assert.equal(time.nowMs, 0);
});

for (const code of ["fenced", "cancelled", "conflict", "ended", "deleted"]) {
  test(`${code} ends the writer, and every method says so`, async () => {
    const { a, session, time } = twoRegions();
    const writer = await session.open();
    a.refusal = [code === "deleted" ? 410 : 403, { code, detail: "no" }];
    await writer.write("x");
    await assert.rejects(time.run(writer.flush()), { code });
    await assert.rejects(writer.write("y"), { code });
    await assert.rejects(writer.mark({ set: {} }), { code });
    await assert.rejects(writer.end(), { code });
    await assert.rejects(writer.stable(), { code });
    assert.equal(a.appends.length, 1);
  });
}

test("a full buffer makes the writer wait, or lets go of what is accepted", async () => {
  const big = "x".repeat(1_000);
  for (const onFull of ["block", "release"]) {
    const { a, session, time } = twoRegions();
    a.stable = STABLE_NONE;
    const writer = await session.open("assistant", { onFull, bufferBytesMax: 5_000 });
    await writer.write(big);
    let isTaken = false;
    const second = writer.write(big).then(() => (isTaken = true));
    await (onFull === "block" ? time.until(() => time.nowMs >= 5_000) : time.run(second));
    assert.equal(isTaken, onFull === "release");
    a.stable = (count) => count;
    await time.run(second);
    assertLane(a, [big, big]);
    await writer.close();
  }
});

test("tokens keep the order of the calls, awaited or not, also when the buffer is full", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open("assistant", { bufferBytesMax: 10 });
  const tokens = Array.from({ length: 50 }, (_, index) => `token ${index}`);
  const written = tokens.map((token) => writer.write(token));
  await time.run(Promise.all([...written, writer.end()]));
  assertLane(a, tokens, "complete");
});

test("a character that was cut between two tokens is put together; half a one is replaced", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  const earth = "🌍";
  await writer.write(`a${earth[0]}`);
  await writer.write("");
  await writer.write(`${earth[1]}b`);
  await writer.write(`${earth[1]}c${earth[0]}`);
  await writer.mark({ set: { a: 1 } });
  await writer.write(earth[0]);
  await time.run(writer.end());
  assertLane(a, ["a", `${earth}b`, "\uFFFDc", "\uFFFD", { set: { a: 1 } }, "\uFFFD"], "complete");
});

test("what is no text is not written", async () => {
  const { session } = twoRegions();
  const writer = await session.open();
  await assert.rejects(writer.write(undefined), TypeError);
  await assert.rejects(writer.write({ part: { type: "text" } }), TypeError);
  assert.equal(writer.next, 0);
  await writer.close();
});

test("a source that fails ends the message as failed, and its error is thrown", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  async function* model() {
    yield "half an ans";
    throw new Error("the model is gone");
  }
  await assert.rejects(time.run(writer.pipe(model())), /the model is gone/);
  assertLane(a, ["half an ans"], "failed");
});

test("close stops without an end; nothing can be written after it", async () => {
  const { a, session, time } = twoRegions();
  a.stable = STABLE_NONE;
  const writer = await session.open();
  await writer.write("a");
  await time.run(writer.flush());
  const stable = writer.stable();
  const rejected = assert.rejects(stable, /the writer is closed/);
  await writer.close();
  await rejected;
  await assert.rejects(writer.write("b"), /the writer is closed/);
  assertLane(a, ["a"]);
  assert.equal(time.sleeping, 0);
});

test("after the end nothing more is taken", async () => {
  const { a, session, time } = twoRegions();
  const writer = await session.open();
  await time.run(writer.end("cancelled"));
  await assert.rejects(writer.write("late"), /has been ended/);
  assertLane(a, [], "cancelled");
});

test("a claim goes on from what the message shows", async () => {
  const { a, session, time, asked } = twoRegions();
  const writer = await session.claim("m", { producer: "second", mode: "continue" });
  assert.equal(asked[0].path, "/v1/sessions/s/messages/m/claim");
  assert.deepEqual(
    { ...asked[0].body, claim_id: "" },
    { producer: "second", claim_id: "", mode: "continue" },
  );
  assert.deepEqual([writer.text, writer.next, writer.message], ["He", 0, "m"]);
  await time.run(writer.pipe(["llo"]));
  assertLane(a, ["llo"], "complete");
});

test("a producer that nobody named has a name that the grant allows", async () => {
  const claims = [
    [{ sub: "ana" }, /^ana~p-[0-9a-f]{24}$/],
    [{ sub: "ana", as: ["*"] }, /^p-[0-9a-f]{24}$/],
    [{ sub: "ana", as: ["bot", "bot-*"] }, /^bot-p-[0-9a-f]{24}$/],
    [{ sub: "ana|1", as: ["bot", "ben"] }, /^bot$/],
    [{ sub: "ana|1" }, /^p-[0-9a-f]{24}$/],
    [null, /^p-[0-9a-f]{24}$/],
  ];
  for (const [said, name] of claims) {
    const grant = `a.${btoa(JSON.stringify(said))}.c`;
    const opened = { id: "m", serial: "1.a", epoch: "1-a", header: "h", next: 0 };
    const { client, asked } = scripted([answer(201, opened)], { grant: async () => grant });
    await client.session("s").open();
    assert.match(asked[0].body.producer, name);
  }
});
