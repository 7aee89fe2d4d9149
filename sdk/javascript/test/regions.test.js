import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, PerdureError, Regions } from "../perdure.js";
import { answer, gone, mute, scripted } from "./script.js";

const [A, B, C] = ["http://a", "http://b", "http://c"];
const times = (count, step) => Array.from({ length: count }, () => step);

test("what cannot be a URL or an id is refused in the caller's words", () => {
  assert.throws(() => new Client([]), /at least one region/);
  assert.throws(() => new Client(["localhost:7101"]), /must be a URL like/);
  assert.deepEqual(new Client("http://a/").regions.urls, [A]);
  const client = new Client(A);
  for (const id of ["", ".", "..", "a/b", "é", "a".repeat(129), "a\n"]) {
    assert.throws(() => client.session(id), TypeError, JSON.stringify(id));
  }
});

test("a prompt that a region did not answer is sent elsewhere under the same id", async () => {
  const { client, time, asked } = scripted([gone, answer(503, "<html>"), answer(201, { id: "x" })]);
  const sent = client.session("s").send("user", "hi", { author: "ann", metadata: { a: 1 } });
  assert.deepEqual(await time.run(sent), { id: "x" });
  assert.deepEqual(
    asked.map((one) => one.origin),
    [A, B, C],
  );
  const [first, ...others] = asked.map((one) => one.body);
  assert.match(first.id, /^[0-9a-f]{24}$/);
  assert.deepEqual(
    { ...first, id: "x" },
    { id: "x", role: "user", text: "hi", author: "ann", metadata: { a: 1 } },
  );
  assert.deepEqual(others, [first, first]);
  assert.deepEqual(time.slept, [25, 25]);
});

test("ids are made without crypto too, and differ", async () => {
  const { value } = Object.getOwnPropertyDescriptor(globalThis, "crypto") ?? {};
  Object.defineProperty(globalThis, "crypto", { value: undefined, configurable: true, writable: true });
  try {
    const { client, asked } = scripted([answer(201, {}), answer(201, {})]);
    await client.session("s").send("user", "one");
    await client.session("s").send("user", "two");
    const ids = asked.map((one) => one.body.id);
    for (const id of ids) assert.match(id, /^[0-9a-f]{24}$/);
    assert.notEqual(ids[0], ids[1]);
  } finally {
    if (value !== undefined)
      Object.defineProperty(globalThis, "crypto", { value, configurable: true, writable: true });
    else delete globalThis.crypto;
  }
});

test("a region that failed is avoided for 5 s, then preferred again", async () => {
  const { client, time, asked } = scripted([answer(500, {}), ...times(3, answer(200, {}))]);
  const session = client.session("s");
  await time.run(session.snapshot());
  await session.snapshot();
  time.nowMs += 5_000;
  await session.snapshot();
  assert.deepEqual(
    asked.map((one) => one.origin),
    [A, B, B, A],
  );
});

test("a region that takes a request and says nothing is given up after 15 s", async () => {
  const { client, time, asked } = scripted([mute, answer(200, { id: "s" })]);
  await time.run(client.session("s").snapshot());
  assert.deepEqual(time.slept, [15_000, 25]);
  assert.deepEqual(
    asked.map((one) => one.signal.aborted),
    [true, true],
  );
  assert.equal(time.sleeping, 0);
});

test("back-off doubles to 5 s, and a minute without an answer is the end", async () => {
  const { client, time, asked } = scripted(times(30, gone));
  await assert.rejects(time.run(client.session("s").snapshot()), { code: "unavailable", status: 503 });
  assert.deepEqual(time.slept.slice(0, 9), [25, 25, 75, 150, 300, 600, 1200, 2400, 3750]);
  assert.ok(time.slept.every((ms) => ms <= 5_000));
  assert.ok(time.nowMs >= 60_000 && time.nowMs < 65_000, String(time.nowMs));
  assert.deepEqual(
    asked.slice(0, 4).map((one) => one.origin),
    [A, B, C, A],
  );
  const impatient = scripted(times(30, gone), { giveUpMs: 200 });
  await assert.rejects(impatient.time.run(impatient.client.session("s").snapshot()), { code: "unavailable" });
  assert.ok(impatient.time.nowMs < 400);
});

test("when no region answers, the error says what the last one did", async () => {
  for (const [step, words] of [[gone, /http:\/\/a: .*fetch failed/], [answer(507, { code: "storage_full" }), /http:\/\/a: status 507/]]) {
    const { client, time } = scripted(times(30, step), { urls: [A], giveUpMs: 200 });
    await assert.rejects(time.run(client.session("s").snapshot()), words);
  }
});

test("the jitter lies between nothing and all of it for a first retry, then between half and all", () => {
  for (const [random, expected] of [
    [0, [0, 50, 100, 200]],
    [1, [50, 100, 200, 400]],
  ]) {
    const pause = new Regions([A, B], { random: () => random }).pause();
    assert.deepEqual(
      [1, 2, 3, 4].map(() => pause.nextMs()),
      expected,
    );
    pause.reset();
    assert.equal(pause.nextMs(), expected[0]);
  }
});

test("a refusal that every region would give is thrown at once, whole", async () => {
  const problem = {
    code: "conflict",
    status: 409,
    detail: "another body",
    type: "urn:perdure:problem:conflict",
  };
  const { client, asked } = scripted([answer(409, problem)]);
  await assert.rejects(client.session("s").send("user", "hi"), (error) => {
    assert.ok(error instanceof PerdureError);
    assert.deepEqual([error.code, error.status, error.problem], ["conflict", 409, problem]);
    assert.equal(error.message, "conflict: another body");
    return true;
  });
  assert.equal(asked.length, 1);
});

test("what no region says is not believed", async () => {
  const script = [
    answer(404, "<html>not here</html>"),
    answer(200, "[1"),
    answer(200, "1"),
    answer(200, { id: "s" }),
  ];
  const { client, time } = scripted(script);
  assert.deepEqual(await time.run(client.session("s").snapshot()), { id: "s" });
});

test("every operation asks for what it says", async () => {
  const said = { metadata: { a: 1 }, status: "cancelled" };
  const script = [...times(5, answer(200, said)), answer(204), answer(204), answer(200, said)];
  const { client, asked } = scripted(script, { grant: "jwt" });
  const session = client.session("s");
  await session.create({ a: 1 });
  await session.messages({ before: "0.m", limit: 5 });
  assert.deepEqual(await session.metadata(), { a: 1 });
  await session.metadata({ a: null });
  assert.equal(await session.cancel("m"), "cancelled");
  await session.delete("m");
  await session.delete();
  await client.sessions({ after: "r" });
  assert.deepEqual(
    asked.map(({ method, path, body }) => [method, path, body]),
    [
      ["PUT", "/v1/sessions/s", { metadata: { a: 1 } }],
      ["GET", "/v1/sessions/s/messages?before=0.m&limit=5", undefined],
      ["GET", "/v1/sessions/s/metadata", undefined],
      ["PATCH", "/v1/sessions/s/metadata", { a: null }],
      ["POST", "/v1/sessions/s/messages/m/cancel", undefined],
      ["DELETE", "/v1/sessions/s/messages/m", undefined],
      ["DELETE", "/v1/sessions/s", undefined],
      ["GET", "/v1/sessions?after=r", undefined],
    ],
  );
  for (const { headers, body } of asked) {
    assert.equal(headers.authorization, "Bearer jwt");
    assert.equal(headers["content-type"], body === undefined ? undefined : "application/json");
  }
});

test("a grant may be made anew for each request", async () => {
  let count = 0;
  const { client, time, asked } = scripted([gone, answer(200, {})], {
    grant: async () => `jwt-${(count += 1)}`,
  });
  await time.run(client.session("s").snapshot());
  assert.deepEqual(
    asked.map((one) => one.headers.authorization),
    ["Bearer jwt-1", "Bearer jwt-2"],
  );
  const failing = scripted([], { grant: () => Promise.reject(new Error("signed out")) });
  await assert.rejects(failing.client.session("s").snapshot(), /signed out/);
});

test("deleting what is deleted is no error", async () => {
  const { client } = scripted([answer(410, { code: "deleted", status: 410 })]);
  await client.session("s").delete();
});

test("an abort ends a request, also while it waits for the next try", async () => {
  for (const script of [[mute], times(30, gone)]) {
    const { client, time, asked } = scripted(script);
    const abort = new AbortController();
    const waiting = client.session("s").snapshot({ signal: abort.signal });
    await new Promise(setImmediate);
    abort.abort(new Error("left the page"));
    await assert.rejects(waiting, /left the page/);
    assert.ok(asked[0].signal.aborted);
    assert.equal(time.sleeping, 0);
    if (script.length === 0) assert.equal(client.regions.pick(), A, "the region is not to blame");
    await assert.rejects(client.session("s").snapshot({ signal: abort.signal }), /left the page/);
    assert.equal(asked.length, 1);
  }
});

test("pick never gives the region that was just left, if there is another", () => {
  let now = 0;
  const regions = new Regions([A, B], { now: () => now });
  assert.equal(regions.pick(), A);
  assert.equal(regions.pick(A), B);
  regions.failed(B);
  assert.equal(regions.pick(A), B);
  now = 1;
  regions.failed(A);
  assert.equal(regions.pick(), B, "the one whose time is over first");
  regions.worked(A);
  assert.equal(regions.pick(), A);
  assert.equal(new Regions([A]).pick(A), A);
});
