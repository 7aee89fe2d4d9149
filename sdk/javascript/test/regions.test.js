import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, PerdureError, Regions } from "../perdure.js";

/** Regions by URL, each a function from (method, path, body) to [status, value], or a thrown error. */
function fakeFetch(regions, calls = []) {
  return async (url, { method, headers, body }) => {
    const { origin, pathname, search } = new URL(url);
    calls.push({ origin, method, path: pathname + search, headers, body: body && JSON.parse(body) });
    const [status, value] = await regions[origin](method, pathname + search, body);
    return new Response(value === undefined ? null : JSON.stringify(value), { status });
  };
}

const A = "http://a";
const B = "http://b";
const gone = () => {
  throw new TypeError("fetch failed");
};

function clientOf(regions, calls, options = {}) {
  const time = { now: 0, slept: [] };
  const client = new Client([A, B], {
    fetch: fakeFetch(regions, calls),
    random: () => 0.5,
    now: () => time.now,
    sleep: async (ms) => {
      time.slept.push(ms);
      time.now += ms;
    },
    ...options,
  });
  return { client, time };
}

test("wrong URLs are refused in the caller's words", () => {
  assert.throws(() => new Client([]), /at least one region/);
  assert.throws(() => new Client(["localhost:7101"]), /must begin with http/);
  assert.deepEqual(new Client("http://a/").regions.urls, ["http://a"]);
});

test("a prompt that a dead region did not answer is sent elsewhere under the same id", async () => {
  const calls = [];
  const { client, time } = clientOf({ [A]: gone, [B]: () => [201, { id: "x" }] }, calls);
  await client.session("s/1").send("user", "hi", { metadata: { a: 1 } });
  assert.deepEqual(calls.map((call) => call.origin), [A, B]);
  assert.equal(calls[0].body.id, calls[1].body.id);
  assert.match(calls[0].body.id, /^[0-9a-f]{24}$/);
  assert.equal(calls[1].path, "/v1/sessions/s%2F1/messages");
  assert.deepEqual(time.slept, [25]);
});

test("a region that failed is avoided for 5 s, then preferred again", async () => {
  const calls = [];
  let alive = false;
  const { client, time } = clientOf({ [A]: () => (alive ? [200, {}] : [503, {}]), [B]: () => [200, {}] }, calls);
  await client.session("s").snapshot();
  await client.session("s").snapshot();
  assert.deepEqual(calls.map((call) => call.origin), [A, B, B]);
  alive = true;
  time.now += 5_000;
  await client.session("s").snapshot();
  assert.equal(calls.at(-1).origin, A);
});

test("back-off doubles to 5 s, and a minute without an answer is the end", async () => {
  const { client, time } = clientOf({ [A]: () => [507, {}], [B]: gone });
  await assert.rejects(client.session("s").snapshot(), { code: "unavailable" });
  assert.deepEqual(time.slept.slice(0, 8), [25, 75, 150, 300, 600, 1200, 2400, 3750]);
  assert.ok(time.slept.every((ms) => ms <= 5_000));
  assert.ok(time.now >= 60_000 && time.now < 66_000);
});

test("a refusal that every region would give is thrown at once", async () => {
  const problem = { code: "conflict", status: 409, detail: "another body" };
  const calls = [];
  const { client } = clientOf({ [A]: () => [409, problem], [B]: gone }, calls);
  await assert.rejects(client.session("s").send("user", "hi"), (error) => {
    assert.ok(error instanceof PerdureError);
    assert.deepEqual([error.code, error.status, error.problem], ["conflict", 409, problem]);
    return true;
  });
  assert.equal(calls.length, 1);
});

test("every operation asks for what it says", async () => {
  const calls = [];
  const answer = (method) => (method === "DELETE" ? [204] : [200, { metadata: { a: 1 }, status: "cancelled" }]);
  const { client } = clientOf({ [A]: answer, [B]: gone }, calls, { grant: "jwt" });
  const session = client.session("s");
  await session.create({ a: 1 });
  await session.messages({ before: "0.m", limit: 5 });
  assert.deepEqual(await session.metadata(), { a: 1 });
  await session.metadata({ a: null });
  assert.equal(await session.cancel("m"), "cancelled");
  await session.delete("m");
  await client.sessions({ after: "r" });
  assert.deepEqual(
    calls.map(({ method, path, body }) => [method, path, body]),
    [
      ["PUT", "/v1/sessions/s", { metadata: { a: 1 } }],
      ["GET", "/v1/sessions/s/messages?before=0.m&limit=5", undefined],
      ["GET", "/v1/sessions/s/metadata", undefined],
      ["PATCH", "/v1/sessions/s/metadata", { a: null }],
      ["POST", "/v1/sessions/s/messages/m/cancel", undefined],
      ["DELETE", "/v1/sessions/s/messages/m", undefined],
      ["GET", "/v1/sessions?after=r", undefined],
    ],
  );
  assert.ok(calls.every((call) => call.headers.authorization === "Bearer jwt"));
});

test("deleting what is deleted is no error", async () => {
  const { client } = clientOf({ [A]: () => [410, { code: "deleted" }], [B]: gone });
  await client.session("s").delete();
});

test("pick never gives the region that was just left, if there is another", () => {
  const regions = new Regions([A, B], { now: () => 0 });
  assert.equal(regions.pick(), A);
  assert.equal(regions.pick(A), B);
  regions.failed(B);
  assert.equal(regions.pick(A), B);
  assert.equal(new Regions([A]).pick(A), A);
});
