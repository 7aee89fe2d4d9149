import assert from "node:assert/strict";
import { test } from "node:test";

import { PerdureError } from "../perdure.js";
import { answer, scripted, sse, stream } from "./script.js";

const RUN = { id: "r", session: "s", status: "requested", agent: "bot", message: "r", inputs: [], attempt: 1, epoch: null, detail: null };
const EPOCH = "1.p";
const claimed = (fields = {}) => {
  const run = { ...RUN, status: "running", epoch: EPOCH, ...fields };
  return { run, inputs: [], epoch: EPOCH, header: "h", next: 0, text: "", parts: [] };
};
const feed = (...events) => stream(sse("runs", "c", { all: [RUN] }), ...events);

/** Answers by path: regions whose requests come in an order that nobody knows. */
function routed(routes, options = {}) {
  const steps = Object.entries(routes).map(([path, answers]) => [path, [...answers]]);
  const route = (request, pathname) => {
    const [, answers] = steps.find(([path]) => pathname.endsWith(path)) ?? [];
    assert.ok(answers, `nothing answers ${pathname}`);
    return (answers.length > 1 ? answers.shift() : answers[0])(request);
  };
  return scripted(Array(100).fill(route), { transport: "sse", ...options });
}

test("a run that is held by another is asked for again when its lease is over", async () => {
  const held = () => ({ ...answer(409, { code: "held" })(), headers: new Headers({ "retry-after": "7" }) });
  const { client, time, asked } = routed({ "/agents/bot/runs": [feed()], "/claim": [held, answer(200, claimed())] });
  const turns = client.agent("bot").turns();
  const since = time.now();
  const { value: turn } = await time.run(turns.next());
  assert.equal(turn.id, "r");
  assert.equal(time.now() - since, 7_000);
  const claims = asked.filter(({ path }) => path.endsWith("/claim"));
  assert.deepEqual({ ...claims[1].body, producer: "", claim_id: "" }, { producer: "", claim_id: "", mode: "continue", lease_s: 15 });
  await time.run(turn.close());
  await time.run(turns.return());
});

test("a claim that another worker has won is no turn, and what the caller did wrong is thrown", async () => {
  const lost = answer(200, claimed({ epoch: "2.q" }));
  const refused = answer(400, { code: "invalid_body" });
  const { client, time, asked } = routed({ "/agents/bot/runs": [feed()], "/claim": [lost, refused] });
  await assert.rejects(time.run(client.agent("bot").turns().next()), PerdureError);
  assert.equal(asked.filter(({ path }) => path.endsWith("/claim")).length, 2);
});

test("a lease is renewed three times as often as it ends, and what refuses it stops the turn", async () => {
  const fenced = answer(403, { code: "fenced" });
  const { client, time, asked } = routed({
    "/agents/bot/runs": [feed()],
    "/claim": [answer(200, claimed())],
    "/lease": [answer(200, claimed().run), fenced],
  });
  const turns = client.agent("bot", { lease_s: 9 }).turns();
  const { value: turn } = await time.run(turns.next());
  const since = time.now();
  await time.run(turn.stopped());
  assert.equal(time.now() - since, 6_000);
  assert.equal(turn.error.code, "fenced");
  assert.equal(turn.signal.aborted, true);
  await assert.rejects(turn.writer.write("x"), { code: "fenced" });
  const [lease] = asked.filter(({ path }) => path.endsWith("/lease"));
  assert.deepEqual(lease.body, { producer: turn.writer.producer, epoch: EPOCH });
  await time.run(turns.return());
});

test("a region that lacks earlier words is told them, and a refused word does not count", async () => {
  const run = answer(200, claimed().run);
  const { client, time, asked } = routed({
    "/agents/bot/runs": [feed()],
    "/claim": [answer(200, claimed())],
    "/state": [run, answer(400, { code: "invalid_body" }), answer(409, { code: "gap", expected: 1 }), run, run],
  });
  const turns = client.agent("bot").turns();
  const { value: turn } = await time.run(turns.next());
  await time.run(turn.suspend({ asks: "Sure?" }));
  await assert.rejects(time.run(turn.suspend("too long")), { code: "invalid_body" });
  await time.run(turn.resume());
  const said = asked.filter(({ path }) => path.endsWith("/state")).map(({ body: { n, state } }) => [n, state]);
  assert.deepEqual(said, [[1, "suspended"], [2, "suspended"], [2, "running"], [1, "suspended"], [2, "running"]]);
  await time.run(turn.close());
  await time.run(turns.return());
});

test("a worker that is told to leave lets go of what it holds, without an end", async () => {
  const { client, time, asked } = routed({ "/agents/bot/runs": [feed()], "/claim": [answer(200, claimed())] });
  const leaving = new AbortController();
  let held;
  const handler = (turn) => {
    held = turn;
    queueMicrotask(() => leaving.abort());
    return new Promise(() => {});
  };
  await time.run(client.agent("bot").work(handler, { concurrency: 1, signal: leaving.signal }));
  assert.equal(held.isOver, true);
  assert.equal(held.signal.aborted, true);
  assert.equal(held.error, null);
  assert.ok(!asked.some(({ path }) => path.endsWith("/tokens")));
});

/** What a turn knows of the conversation that it answers, at a region that answers so. */
async function told(routes, options) {
  const { client, time, asked } = routed({ "/agents/bot/runs": [feed()], ...routes });
  const turns = client.agent("bot").turns();
  const { value: turn } = await time.run(turns.next());
  const ids = (await time.run(turn.history(options))).map(({ id }) => id);
  await time.run(turn.close());
  await time.run(turns.return());
  return { ids, asked };
}

test("a turn knows the conversation that it answers, and waits for what its region lacks of it", async () => {
  const own = { id: "r", serial: "4.r", replaces: "a" };
  const { ids, asked } = await told({
    "/claim": [answer(200, claimed({ input: "u" }))],
    "/messages/u": [answer(404, { code: "not_found" }), answer(200, { id: "u" })],
    "/messages/r": [answer(200, own)],
    "/messages": [answer(200, { messages: [{ id: "u" }, { id: "a" }], more: false })],
  }, { limit: 7 });
  assert.deepEqual(ids, ["u"]);
  assert.ok(asked.some(({ path }) => path.endsWith("/messages?before=4.r&limit=7")));
});

test("a turn is told what it answers also where that sorts behind it", async () => {
  const { ids } = await told({
    "/claim": [answer(200, claimed({ input: "u" }))],
    "/messages/u": [answer(200, { id: "u", serial: "5.u" })],
    "/messages/r": [answer(200, { id: "r", serial: "4.r" })],
    "/messages": [answer(200, { messages: [{ id: "t", serial: "1.t" }], more: false })],
  });
  assert.deepEqual(ids, ["t", "u"]);
});

test("a turn whose prompt was deleted is told the rest", async () => {
  const { ids } = await told({
    "/claim": [answer(200, claimed({ input: "u" }))],
    "/messages/u": [answer(410, { code: "deleted" })],
    "/messages/r": [answer(200, { id: "r", serial: "4.r" })],
    "/messages": [answer(200, { messages: [{ id: "t", serial: "1.t" }], more: false })],
  });
  assert.deepEqual(ids, ["t"]);
});

test("a turn is not told what an edit of something older than it asks for left out", async () => {
  const page = [{ id: "u1", serial: "2.u1" }, { id: "e", serial: "3.e", replaces: "u0" }, { id: "f", serial: "4.f", replaces: "gone" }];
  const { ids } = await told({
    "/claim": [answer(200, claimed({ input: null }))],
    "/messages/u0": [answer(200, { id: "u0", serial: "1.u0" })],
    "/messages/gone": [answer(410, { code: "deleted" })],
    "/messages/r": [answer(200, { id: "r", serial: "5.r" })],
    "/messages": [answer(200, { messages: page, more: true })],
  }, { limit: 3 });
  assert.deepEqual(ids, ["e", "f"]);
});

test("a worker whose grant has one name for all of them is told to have its own", async () => {
  const grant = `a.${btoa(JSON.stringify({ sub: "me", as: ["bot"] }))}.c`;
  const begun = () => routed({ "/agents/bot/runs": [feed()], "/claim": [answer(200, claimed())] }, { grant: async () => grant });
  const { client, time, asked } = begun();
  await assert.rejects(time.run(client.agent("bot").turns().next()), /each needs a name of its own/);
  assert.ok(!asked.some(({ path }) => path.endsWith("/claim")));
  const named = begun();
  const turns = named.client.agent("bot", { worker: "bot" }).turns();
  const { value: turn } = await named.time.run(turns.next());
  assert.equal(turn.writer.producer, "bot");
  await named.time.run(turn.close());
  await named.time.run(turns.return());
});
