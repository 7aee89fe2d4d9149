import assert from "node:assert/strict";
import { test } from "node:test";

import { PerdureError, apply, newView, statusOf } from "../perdure.js";
import { answer, gone, scripted, sse, stream } from "./script.js";

const RUN = { id: "r", session: "s", status: "requested", agent: "bot", message: "r", inputs: [] };

test("a run is asked for under an id of its own, and once, whichever region answers", async () => {
  const { client, time, asked } = scripted([gone, answer(201, RUN), answer(201, RUN)]);
  const session = client.session("s");
  const run = await time.run(session.requestRun("bot", { input: "p", by: "ann", metadata: { a: 1 } }));
  assert.deepEqual(run, RUN);
  const [lost, taken] = asked;
  assert.equal(`${taken.method} ${taken.path}`, "POST /v1/sessions/s/runs");
  assert.deepEqual(lost.body, taken.body);
  assert.match(taken.body.id, /^[0-9a-f]{24}$/);
  assert.deepEqual({ ...taken.body, id: "" }, { id: "", agent: "bot", input: "p", by: "ann", metadata: { a: 1 } });
  await time.run(session.requestRun("bot", { id: "r" }));
  assert.deepEqual(asked[2].body, { id: "r", agent: "bot" });
});

test("runs are looked at, addressed and stopped", async () => {
  const answers = [answer(200, RUN), answer(200, { runs: [RUN], more: false }), answer(200, RUN), answer(201, {}), answer(200, {})];
  const { client, time, asked } = scripted(answers);
  const session = client.session("s");
  assert.deepEqual(await time.run(session.run("r")), RUN);
  assert.deepEqual((await time.run(session.runs({ before: "0.m", limit: 7 }))).runs, [RUN]);
  await time.run(session.cancelRun("r"));
  await time.run(session.send("user", "Yes.", { id: "m", run: "r" }));
  await time.run(session.message("m"));
  assert.deepEqual(
    asked.map(({ method, path }) => `${method} ${path.replace("/v1/sessions/s", "")}`),
    ["GET /runs/r", "GET /runs?before=0.m&limit=7", "POST /runs/r/cancel", "POST /messages", "GET /messages/m"],
  );
  assert.deepEqual(asked[3].body, { id: "m", role: "user", text: "Yes.", run: "r" });
  assert.throws(() => session.cancelRun("a/b"), TypeError);
  assert.throws(() => session.requestRun("a/b"), TypeError);
});

test("a signal is sent once; a region that has enough of them is not left, one that is away is", async () => {
  const refusal = answer(400, { code: "invalid_body" });
  const { client, time, asked } = scripted([answer(202, {}), answer(429, { code: "too_many" }), gone, refusal]);
  const session = client.session("s");
  assert.equal(await time.run(session.signal("typing", { at: 1 }, { from: "ann" })), true);
  assert.equal(await time.run(session.signal("typing")), false);
  assert.equal(await time.run(session.signal("typing")), false);
  await assert.rejects(time.run(session.signal("Typing!")), PerdureError);
  assert.deepEqual(asked[0].body, { signal: "typing", data: { at: 1 }, from: "ann" });
  assert.deepEqual(asked[1].body, { signal: "typing" });
  assert.deepEqual(asked.map(({ origin }) => origin), ["http://a", "http://a", "http://a", "http://b"]);
});

test("signals reach who follows the events, and change no view", async () => {
  const told = sse("signal", "c1", { signal: "typing", data: null, from: "ann", region: "eu" });
  const { client, time } = scripted([stream(sse("ready", "c0", {}) + told)]);
  const events = client.session("s").events();
  await time.run(events.next());
  assert.equal((await time.run(events.next())).value.data.signal, "typing");
  await events.return();
  const view = newView("s");
  assert.equal(apply(view, "signal", { signal: "typing" }), view);
});

test("a message is interrupted with its run, and over when it is over itself", () => {
  const message = { id: "r", status: "streaming" };
  const view = { ...newView("s"), runs: [{ ...RUN, status: "interrupted" }] };
  assert.equal(statusOf(view, message), "interrupted");
  assert.equal(statusOf(view, { ...message, status: "complete" }), "complete");
  assert.equal(statusOf(view, { ...message, id: "q" }), "streaming");
  assert.equal(statusOf({ ...view, runs: undefined }, message), "streaming");
});
