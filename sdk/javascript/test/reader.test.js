import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, PerdureError, newView } from "../perdure.js";
import { BREAK, CLOSE, answer, gone, mute, scripted, sse, stream } from "./script.js";

const [A, B, C] = ["http://a", "http://b", "http://c"];
const MESSAGE = { id: "m", serial: "0.m", role: "assistant", status: "streaming", length: 0, parts: [] };
const SNAPSHOT = { id: "s", messages: [MESSAGE], metadata: {}, more: false };
const append = (from, text) => ({ message: "m", part: 0, from, to: from + 1, text });
const times = (count, step) => Array.from({ length: count }, () => step);

/** The first value that is wanted; then the reader leaves. */
async function until(reading, isWanted) {
  for await (const value of reading) if (isWanted(value)) return value;
  return null;
}

const isReady = (view) => view.ready;

// failure: N8
test("a reader goes on at other regions with its cursor, in the middle of an event", async () => {
  const { client, time, asked } = scripted([
    stream(
      sse("snapshot", "c0", SNAPSHOT) + sse("append", "c1", append(0, "Hel")) + "event: append\nid: c2\nda",
      BREAK,
    ),
    gone,
    stream(
      sse("append", "c2", append(1, "lo")) +
        sse("end", "c3", { message: "m", status: "complete", length: 2 }),
    ),
  ]);
  const connected = [];
  const reading = client.session("s").read({ onRegion: (url) => connected.push(url) });
  const view = await time.run(until(reading, (v) => v.messages[0].status === "complete"));
  assert.equal(view.messages[0].text, "Hello");
  assert.deepEqual([view.cursor, view.region], ["c3", C]);
  assert.deepEqual(
    asked.map(({ origin, cursor }) => [origin, cursor]),
    [
      [A, null],
      [B, "c1"],
      [C, "c1"],
    ],
  );
  assert.deepEqual(connected, [A, C]);
  assert.deepEqual(time.slept, [25, 25]);
  assert.deepEqual([asked[0].method, asked[0].path], ["GET", "/v1/sessions/s/events"]);
  assert.equal(asked[0].headers.accept, "text/event-stream");
});

test("each view is a new one, and none changes", async () => {
  const { client, time } = scripted([
    stream(sse("snapshot", "c0", SNAPSHOT) + sse("append", "c1", append(0, "a")) + sse("ready", "c2", {})),
  ]);
  const views = [];
  await time.run(until(client.session("s").read(), (view) => views.push(view) === 3));
  assert.deepEqual(
    views.map((v) => [v.messages[0].text, v.cursor, v.ready]),
    [
      ["", "c0", false],
      ["a", "c1", false],
      ["a", "c2", true],
    ],
  );
});

test("a saved view goes on from its cursor, and is not changed", async () => {
  const { client, time, asked } = scripted([stream(sse("ready", "c8", {}))]);
  const saved = JSON.parse(JSON.stringify({ ...newView("s"), cursor: "c7", metadata: { a: 1 } }));
  const view = await time.run(until(client.session("s").read({ view: saved }), isReady));
  assert.deepEqual([view.cursor, view.metadata, saved.cursor], ["c8", { a: 1 }, "c7"]);
  assert.equal(asked[0].cursor, "c7");
  assert.throws(() => client.session("other").read({ view: saved }), TypeError);
});

test("an event without an id leaves the cursor as it is", async () => {
  const { client, time, asked } = scripted([
    stream('event: metadata\ndata: {"metadata":{}}\n\n', BREAK),
    stream(sse("ready", "c8", {})),
  ]);
  const cursors = [];
  const reading = client.session("s").read({ view: { ...newView("s"), cursor: "c7" } });
  await time.run(until(reading, (view) => cursors.push(view.cursor) && view.ready));
  assert.deepEqual(cursors, ["c7", "c8"]);
  assert.deepEqual(
    asked.map((one) => one.cursor),
    ["c7", "c7"],
  );
});

test("events are given as they come, with the region that sent each", async () => {
  const { client, time, asked } = scripted([
    stream(sse("ready", "c8", {}), sse("of a later version", "c9", { a: [1] })),
  ]);
  const seen = [];
  await time.run(until(client.session("s").events({ cursor: "c7" }), (event) => seen.push(event) === 2));
  assert.deepEqual(seen, [
    { event: "ready", id: "c8", data: {}, region: A },
    { event: "of a later version", id: "c9", data: { a: [1] }, region: A },
  ]);
  assert.equal(asked[0].cursor, "c7");
});

test("an event that does not fit is not glued on: reading begins anew, without a cursor", async () => {
  const { client, time, asked } = scripted([
    stream(sse("snapshot", "c0", SNAPSHOT) + sse("append", "c1", append(5, "?"))),
    stream(sse("snapshot", "c2", SNAPSHOT) + sse("append", "c3", append(0, "ok"))),
  ]);
  const session = client.session("s");
  const view = await time.run(until(session.read(), (v) => v.messages[0].text !== ""));
  assert.deepEqual([view.messages[0].text, view.cursor, session.stepsLost], ["ok", "c3", 1]);
  assert.deepEqual(
    asked.map((one) => one.cursor),
    [null, null],
  );
  assert.ok(asked[0].signal.aborted, "the first connection is closed");
});

test("a region whose events never fit is asked less and less often", async () => {
  const misfit = () => stream(sse("snapshot", "c0", SNAPSHOT) + sse("append", "c1", append(5, "?")))({});
  const { client, time, asked } = scripted(times(12, misfit));
  const view = until(client.session("s").read(), () => asked.length === 12);
  await time.run(view);
  assert.ok(time.nowMs > 10_000, `12 tries in ${time.nowMs} ms`);
});

test("a proxy that cuts every connection early is asked less and less often", async () => {
  const short = () => stream(sse("ready", "c1", {}), CLOSE)({});
  const { client, time, asked } = scripted(times(12, short));
  await time.run(until(client.session("s").read(), () => asked.length === 12));
  assert.ok(time.nowMs > 10_000, `12 tries in ${time.nowMs} ms`);
});

test("after a connection that held, the next region is tried at once again", async () => {
  const { client, time } = scripted([
    ...times(5, gone),
    stream(sse("ready", "c1", {}), BREAK),
    stream(sse("ready", "c2", {})),
  ]);
  const reading = client.session("s").read();
  await time.run(reading.next());
  time.nowMs += 5_000;
  const slept = time.slept.length;
  assert.equal((await time.run(reading.next())).value.cursor, "c2");
  assert.deepEqual(time.slept.slice(slept), [25]);
  await reading.return();
});

// failure: X6
test("a malformed cursor is dropped, and that is not the region's fault", async () => {
  const { client, time, asked } = scripted(
    [
      answer(400, { code: "invalid_cursor", status: 400 }),
      stream(sse("snapshot", "c1", SNAPSHOT) + sse("ready", "c2", {})),
    ],
    { urls: [A] },
  );
  await time.run(until(client.session("s").read({ view: { ...newView("s"), cursor: "x" } }), isReady));
  assert.deepEqual(
    asked.map((one) => one.cursor),
    ["x", null],
  );
});

test("a region that drains is left at once, for another, after a share of its retry_ms", async () => {
  const { client, time, asked } = scripted([
    stream(sse("ready", "c0", {}) + sse("reconnect", "c1", { retry_ms: 900 })),
    stream(sse("metadata", "c2", { metadata: { a: 1 } })),
  ]);
  const seen = [];
  await time.run(until(client.session("s").events(), ({ event }) => seen.push(event) === 2));
  assert.deepEqual(seen, ["ready", "metadata"]);
  assert.deepEqual(time.slept, [450]);
  assert.deepEqual(
    asked.map(({ origin, cursor }) => [origin, cursor]),
    [
      [A, null],
      [B, "c1"],
    ],
  );
  assert.ok(asked[0].signal.aborted);
});

test("a reader whose grant is over goes on with the next, at the same region and nearly at once", async () => {
  const { client, time, asked } = scripted([
    stream(sse("ready", "c0", {}) + sse("expired", "c1", { reason: "expired" })),
    stream(sse("metadata", "c2", { metadata: { a: 1 } })),
  ]);
  const seen = [];
  await time.run(until(client.session("s").events(), ({ event }) => seen.push(event) === 2));
  assert.deepEqual(seen, ["ready", "metadata"]);
  assert.ok(time.slept.length === 1 && time.slept[0] <= 50);
  assert.deepEqual(
    asked.map(({ origin, cursor }) => [origin, cursor]),
    [
      [A, null],
      [A, "c1"],
    ],
  );
});

test("a grant that nears its end is followed by the next, and the stream goes on", async () => {
  const jwt = (id, seconds) =>
    `x.${Buffer.from(JSON.stringify({ id, exp: Date.now() / 1_000 + seconds })).toString("base64url")}.y`;
  const grants = [jwt(1, 60), jwt(2, 1e6)];
  const told = [];
  let renewed;
  const until2 = new Promise((done) => (renewed = done));
  const fetch = async (url, { headers, body }) => {
    told.push([new URL(url).pathname, headers.authorization, body]);
    if (url.endsWith("/renew")) {
      renewed();
      return Response.json({ renewed: 1 });
    }
    const said = async function* () {
      yield sse("ready", "c0", {});
      await until2;
      yield sse("metadata", "c1", { metadata: {} });
    };
    const encoded = ReadableStream.from(said()).pipeThrough(new TextEncoderStream());
    return new Response(encoded, { headers: { "content-type": "text/event-stream" } });
  };
  const sleep = async (ms, signal) => {
    if (ms < 1_000_000 && ms > 40_000) grants.shift();
    else await new Promise((_, fail) => signal?.addEventListener("abort", () => fail(signal.reason)));
  };
  const client = new Client(["http://eu"], { grant: () => grants[0], fetch, sleep, transport: "sse" });
  const seen = [];
  for await (const { event } of client.session("s").events()) if (seen.push(event) === 2) break;
  assert.deepEqual(seen, ["ready", "metadata"]);
  assert.deepEqual(told.map(([path]) => path), ["/v1/sessions/s/events", "/v1/grants/renew"]);
  const [first, second] = [told[0][1], told[1][1]];
  assert.ok(first !== second && second === `Bearer ${grants[0]}`);
  assert.equal(`Bearer ${JSON.parse(told[1][2]).grant}`, first);
});

test("a retry_ms that is nonsense makes nobody wait for ever", async () => {
  for (const [retry_ms, expected] of [
    [1e12, 30_000],
    [-5, 0],
    ["soon", 0],
    [undefined, 0],
  ]) {
    const { client, time } = scripted([
      stream(sse("reconnect", "c1", { retry_ms })),
      stream(sse("ready", "c2", {})),
    ]);
    await time.run(until(client.session("s").read(), isReady));
    assert.deepEqual(time.slept, [expected]);
  }
});

test("what every region would refuse is thrown; 408, 429 and 5xx are tried elsewhere", async () => {
  const { client, time, asked } = scripted([
    ...[408, 429, 503].map((status) => answer(status, "<html>")),
    answer(401, { code: "unauthorized", status: 401, detail: "no grant" }),
  ]);
  const reading = until(client.session("s").read(), () => false);
  await assert.rejects(time.run(reading), (error) => {
    assert.ok(error instanceof PerdureError);
    assert.deepEqual([error.code, error.status], ["unauthorized", 401]);
    return true;
  });
  assert.equal(asked.length, 4);
});

test("what no region says is not read", async () => {
  const page = () => ({ ...answer(200, "<html>sign in</html>")(), body: null });
  const { client, time } = scripted([
    page,
    stream("event: ready\nid: c9\ndata: {\n\n"),
    stream("event: ready\nid: c9\ndata: 7\n\n"),
    stream(sse("ready", "c1", {})),
  ]);
  const view = await time.run(until(client.session("s").read(), isReady));
  assert.deepEqual([view.cursor, view.region], ["c1", A]);
});

test("a deleted session ends the reading, told live or by 410", async () => {
  const live = scripted([stream(sse("snapshot", "c0", SNAPSHOT) + sse("deleted", "c1", {}))]);
  const late = scripted([answer(410, { code: "deleted", status: 410 })]);
  for (const { client, time } of [live, late]) {
    const views = [];
    const reading = client.session("s").read();
    assert.equal(await time.run(until(reading, (view) => views.push(view) > 9)), null);
    assert.deepEqual([views.at(-1).deleted, views.at(-1).messages], [true, []]);
    assert.equal(await until(client.session("s").read({ view: views.at(-1) }), () => true), null);
  }
  const { client, time } = scripted([answer(410, { code: "deleted", status: 410 })]);
  await assert.rejects(time.run(client.session("s").events().next()), { code: "deleted" });
});

// failure: N8
test("25 s of silence end a connection; keep-alives do not", async () => {
  const { client, time, asked } = scripted([
    stream(sse("ready", "c1", {}), ": keep-alive\n\n"),
    stream(sse("ready", "c2", {})),
  ]);
  const reading = client.session("s").read();
  await time.run(reading.next());
  assert.equal((await time.run(reading.next())).value.cursor, "c2");
  assert.deepEqual(time.slept, [25_000, 25]);
  assert.deepEqual(
    asked.map(({ origin, cursor }) => [origin, cursor]),
    [
      [A, null],
      [B, "c1"],
    ],
  );
  assert.ok(asked[0].signal.aborted);
  await reading.return();
});

test("the time for which the caller keeps a view is no silence", async () => {
  const { client, time, asked } = scripted([
    stream(sse("ready", "c1", {}), sse("metadata", "c2", { metadata: {} })),
  ]);
  const reading = client.session("s").read();
  await time.run(reading.next());
  time.nowMs += 3_600_000;
  assert.equal((await reading.next()).value.cursor, "c2");
  assert.equal(asked.length, 1);
  await reading.return();
});

test("a region that does not answer the connection is left after 4 s", async () => {
  const { client, time, asked } = scripted([mute, stream(sse("ready", "c1", {}))]);
  await time.run(until(client.session("s").read(), isReady));
  assert.deepEqual(time.slept, [4_000, 25]);
  assert.deepEqual(
    asked.map((one) => one.origin),
    [A, B],
  );
});

test("a hold is of the region that told it, and void at the next", async () => {
  const { client, time } = scripted([
    stream(sse("snapshot", "c0", SNAPSHOT) + sse("stale", "c0", { message: "m", held: true }), BREAK),
    stream(sse("ready", "c1", {})),
  ]);
  const held = [];
  await time.run(until(client.session("s").read(), (view) => held.push(view.messages[0].held) && view.ready));
  assert.deepEqual(held, [false, true, false]);
});

const WAITS = {
  "for the next event": () => stream(sse("ready", "c1", {})),
  "for an answer": () => mute,
  "for the next try": () => gone,
};

for (const [what, step] of Object.entries(WAITS)) {
  test(`an abort, and leaving, end the reading while it waits ${what}`, async () => {
    for (const leave of [(abort) => abort.abort(), (_, reading) => reading.return()]) {
      const { client, time, asked } = scripted([step(), ...times(9, gone)]);
      const abort = new AbortController();
      const reading = client.session("s").read({ signal: abort.signal });
      if (what === "for the next event") await time.run(reading.next());
      const next = reading.next();
      await new Promise(setImmediate);
      await leave(abort, reading);
      assert.deepEqual(await next, { value: undefined, done: true });
      assert.deepEqual(await reading.next(), { value: undefined, done: true });
      assert.ok(asked.every((one) => one.signal.aborted));
      assert.equal(time.sleeping, 0);
    }
  });
}

test("leaving the loop closes the connection, and an abort lets no more events through", async () => {
  const both = sse("ready", "c1", {}) + sse("ready", "c2", {});
  const left = scripted([stream(both)]);
  for await (const view of left.client.session("s").read()) if (view.ready) break;
  assert.ok(left.asked[0].signal.aborted);
  const aborted = scripted([stream(both)]);
  const abort = new AbortController();
  const views = [];
  for await (const view of aborted.client.session("s").read({ signal: abort.signal })) {
    views.push(view);
    abort.abort();
  }
  assert.equal(views.length, 1);
  assert.ok(aborted.asked[0].signal.aborted);
});

test("with a signal that has aborted before, nothing is asked", async () => {
  const { client, asked } = scripted([]);
  assert.equal(await until(client.session("s").read({ signal: AbortSignal.abort() }), () => true), null);
  assert.equal(asked.length, 0);
});
