import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { EventParser } from "../perdure.js";
import { durableFetch } from "../fetch.js";
import { sse } from "./script.js";
import { VirtualTime } from "./time.js";

const URLS = ["http://a", "http://b", "http://c"];
const EVENTS = "/v1/sessions/s/events";
const BREAK = new TypeError("terminated");
const encoder = new TextEncoder();

function aborted(signal) {
  return new Promise((_, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop);
  });
}

/** A `durableFetch` whose requests are answered by the steps of a script in order. */
function scripted(script, options = {}) {
  const time = new VirtualTime();
  const asked = [];
  const fetch = async (url, { method, headers, body, signal } = {}) => {
    const { origin, pathname, search } = new URL(url);
    asked.push({ origin, method, path: pathname + search, headers, body, signal });
    const step = script.shift();
    if (step === undefined) throw new Error("an unexpected request");
    return step({ signal });
  };
  const { now, sleep } = time;
  return { fetch: durableFetch(URLS, { fetch, now, sleep, random: () => 0.5, ...options }), time, asked };
}

const gone = () => Promise.reject(new TypeError("fetch failed"));
const mute = ({ signal }) => aborted(signal);
const answer = (status, value, headers) => () => Promise.resolve(new Response(JSON.stringify(value), { status, headers }));
const refusal = (status, code, headers) => answer(status, { code }, { "content-type": "application/problem+json", ...headers });

/** An event stream: texts, perhaps an error at its end; `null` closes it; else it stays open. */
function stream(...steps) {
  return ({ signal }) => {
    const pull = (controller) => {
      const step = steps.shift();
      if (step === null) controller.close();
      else if (step instanceof Error) controller.error(step);
      else if (step !== undefined) controller.enqueue(encoder.encode(step));
      else return aborted(signal).catch((error) => controller.error(error));
    };
    const body = new ReadableStream({ pull }, { highWaterMark: 0 });
    return Promise.resolve(new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } }));
  };
}

/** Everything that a body says. */
async function said(response) {
  const parser = new EventParser();
  const events = [];
  for await (const chunk of response.body) events.push(...parser.feed(chunk));
  return events.map(({ event, id, data }) => [event, id, JSON.parse(data)]);
}

const origins = (asked) => asked.map(({ origin }) => origin);

test("what may be repeated is asked elsewhere when a region is gone, refuses or says nothing", async () => {
  for (const first of [gone, answer(502, {}), refusal(503, "draining"), mute]) {
    const { fetch, time, asked } = scripted([first, answer(200, { id: "s" })]);
    const got = await time.run(fetch("/v1/sessions/s"));
    assert.deepEqual(await got.json(), { id: "s" });
    assert.deepEqual(origins(asked), ["http://a", "http://b"]);
    assert.equal(asked[0].path, "/v1/sessions/s");
    assert.equal(time.sleeping, 0);
    if (first === mute) assert.equal(asked[0].signal.aborted, true);
  }
});

test("which POSTs may be repeated: those by which the regions know them again", async () => {
  const json = (fields) => ({ method: "POST", body: JSON.stringify(fields) });
  const known = [
    ["/v1/sessions/s/messages", json({ id: "m", role: "user", text: "x" })],
    ["/v1/sessions/s/messages", { ...json({ role: "user" }), headers: { "Idempotency-Key": "k1234567" } }],
    ["/v1/sessions/s/messages", { method: "POST", body: encoder.encode('{"header":"h"}') }],
    ["/v1/sessions/s/runs", json({ id: "r", agent: "bot" })],
    ["/v1/sessions/s/messages/m/claim", json({ claim_id: "c" })],
    ["/v1/sessions/s/messages/m/cancel", { method: "POST" }],
    ["/v1/sessions/s/messages/m/tokens", { ...json({ tokens: [] }), headers: { "Producer-Seq": "0" } }],
    ["/v1/sessions/s/metadata", { method: "PATCH", body: "{}" }],
    ["/anything", { method: "PUT", body: "x" }],
    ["/anything", { method: "POST", headers: { "idempotency-key": "k1234567" } }],
  ];
  for (const [path, init] of known) {
    const { fetch, time, asked } = scripted([gone, answer(200, {})]);
    assert.equal((await time.run(fetch(path, init))).status, 200, path);
    assert.deepEqual(asked[0].body, asked[1].body);
  }
  const once = [
    ["/v1/sessions/s/signals", json({ signal: "typing" })],
    ["/v1/sessions/s/messages", json({ role: "user", text: "x" })],
    ["/v1/chat/completions", json({ id: "x" })],
    ["/v1/sessions/s/runs", { method: "POST", body: new ReadableStream(), duplex: "half" }],
  ];
  for (const [path, init] of once) {
    const { fetch, time, asked } = scripted([gone]);
    await assert.rejects(time.run(fetch(path, init)), TypeError, path);
    assert.equal(asked.length, 1);
  }
});

test("what may not be repeated goes elsewhere only where nobody looked at it", async () => {
  const post = { method: "POST", body: '{"signal":"typing"}' };
  const path = "/v1/sessions/s/signals";
  for (const code of ["draining", "starting", "catching_up"]) {
    const { fetch, time } = scripted([refusal(503, code), answer(202, {})]);
    assert.equal((await time.run(fetch(path, post))).status, 202);
  }
  for (const first of [refusal(503, "storage_failed"), answer(503, "draining"), refusal(500, "internal")]) {
    const { fetch, time, asked } = scripted([first]);
    assert.ok((await time.run(fetch(path, post))).status >= 500);
    assert.equal(asked.length, 1);
  }
});

test("a refusal that every region would give is the answer, whole", async () => {
  const { fetch, asked } = scripted([refusal(409, "conflict")]);
  const got = await fetch("http://b/v1/sessions/s", { method: "PUT" });
  assert.deepEqual([got.status, (await got.json()).code], [409, "conflict"]);
  assert.deepEqual(origins(asked), ["http://a"], "the URL names the resource, and not the region");
});

test("Retry-After is kept to, and the last refusal is the answer when it takes too long", async () => {
  const busy = refusal(429, "too_many", { "retry-after": "7" });
  const patient = scripted([busy, busy, busy, answer(200, {})]);
  assert.equal((await patient.time.run(patient.fetch("/v1/sessions/s"))).status, 200);
  assert.deepEqual(origins(patient.asked), ["http://a", "http://b", "http://c", "http://a"]);
  assert.ok(patient.time.nowMs >= 7_000, String(patient.time.nowMs));
  const hasty = scripted([busy, busy, busy], { giveUpMs: 3_000 });
  const got = await hasty.time.run(hasty.fetch("/v1/sessions/s"));
  assert.deepEqual([got.status, (await got.json()).code], [429, "too_many"]);
  const lonely = scripted(Array.from({ length: 40 }, () => gone));
  await assert.rejects(lonely.time.run(lonely.fetch("/v1/sessions/s")), /no region answers/);
});

test("a region that failed is avoided by the next request", async () => {
  const { fetch, time, asked } = scripted([gone, answer(200, {}), answer(200, {})]);
  await time.run(fetch("/v1/sessions/s"));
  await fetch("/v1/sessions/s");
  assert.deepEqual(origins(asked), ["http://a", "http://b", "http://b"]);
});

test("a long poll may take as long as it says", async () => {
  const { fetch, time } = scripted([mute, answer(200, {}), mute, answer(200, {})]);
  await time.run(fetch("/v1/sessions/s/poll?wait_ms=25000"));
  assert.equal(time.slept[0], 40_000);
  await time.run(fetch("/v1/sessions/s"));
  assert.equal(time.slept.at(-2), 15_000);
});

test("a URL elsewhere goes to the plain fetch, without a grant", async () => {
  const { fetch, asked } = scripted([answer(200, {}), answer(200, {})], { grant: "jwt" });
  await fetch("http://elsewhere/x");
  await fetch("/v1/sessions/s");
  assert.equal(asked[0].headers, undefined);
  assert.equal(asked[1].headers.get("authorization"), "Bearer jwt");
});

test("a Request is taken, with its body, and can be repeated", async () => {
  const { fetch, time, asked } = scripted([gone, answer(201, {})]);
  const request = new Request("http://a/v1/sessions/s/messages", { method: "POST", body: '{"id":"m"}', headers: { "x-y": "z" } });
  assert.equal((await time.run(fetch(request))).status, 201);
  assert.equal(new TextDecoder().decode(asked[1].body), '{"id":"m"}');
  assert.equal(asked[1].headers.get("x-y"), "z");
});

test("an abort ends what is asked, waited for or read, with its reason", async () => {
  for (const script of [[mute], [gone, gone, gone, gone, gone, gone]]) {
    const { fetch, time, asked } = scripted(script);
    const abort = new AbortController();
    const asking = fetch("/v1/sessions/s", { signal: abort.signal });
    await new Promise(setImmediate);
    abort.abort(new Error("left the page"));
    await assert.rejects(asking, /left the page/);
    assert.ok(asked[0].signal.aborted);
    assert.equal(time.sleeping, 0);
    await assert.rejects(fetch("/v1/sessions/s", { signal: abort.signal }), /left the page/);
  }
  const { fetch, time, asked } = scripted([stream(sse("ready", "c1", {}))]);
  const abort = new AbortController();
  const reader = (await fetch(EVENTS, { signal: abort.signal })).body.getReader();
  await reader.read();
  const reading = reader.read();
  abort.abort(new Error("left the page"));
  await assert.rejects(reading, /left the page/);
  assert.ok(asked[0].signal.aborted);
  assert.equal(time.sleeping, 0);
});

test("a stream that breaks in the middle of an event goes on elsewhere, each event once", async () => {
  const [one, two, three] = [1, 2, 3].map((n) => sse("append", `c${n}`, { n }));
  const { fetch, time, asked } = scripted([
    stream(one, ": alive\n\n", two.slice(0, 9), BREAK),
    gone,
    stream(two + three, sse("deleted", "c4", {})),
  ]);
  const got = await fetch(EVENTS, { headers: { "last-event-id": "c0" } });
  assert.equal(got.url, `http://a${EVENTS}`);
  assert.equal(got.headers.get("content-type"), "text/event-stream; charset=utf-8");
  assert.deepEqual(
    (await time.run(said(got))).map(([event, id]) => [event, id]),
    [["append", "c1"], ["append", "c2"], ["append", "c3"], ["deleted", "c4"]],
  );
  assert.deepEqual(origins(asked), URLS);
  assert.deepEqual(asked.map(({ headers }) => headers.get("last-event-id")), ["c0", "c1", "c1"]);
  assert.ok(asked[0].signal.aborted);
});

test("a session's stream that ends, falls silent or is sent away goes on; the reader sees none of it", async () => {
  const away = sse("reconnect", "c1", { retry_ms: 1_000 });
  for (const [end, waitMs] of [[[null], 25], [[], 25], [[away], 500], [[sse("append", "c1", {}) + away], 500]]) {
    const { fetch, time, asked } = scripted([
      stream(sse("append", "c1", {}), ...end),
      stream(sse("deleted", "c2", {})),
    ]);
    const events = await time.run(said(await fetch(EVENTS)));
    assert.ok(events.every(([event]) => event !== "reconnect"));
    assert.equal(events.at(-1)[0], "deleted");
    assert.deepEqual(origins(asked), ["http://a", "http://b"]);
    assert.equal(asked[1].headers.get("last-event-id"), "c1");
    assert.equal(time.slept.at(-1), waitMs);
  }
});

test("what one region held is taken back when another goes on", async () => {
  const { fetch, time } = scripted([
    stream(sse("stale", "c1", { message: "m", held: true }), BREAK),
    stream(sse("deleted", "c2", {})),
  ]);
  assert.deepEqual(await time.run(said(await fetch(EVENTS))), [
    ["stale", "c1", { message: "m", held: true }],
    ["stale", "c1", { message: null, held: false }],
    ["deleted", "c2", {}],
  ]);
});

test("a session that was deleted meanwhile ends the stream; a cursor that cannot be read is dropped", async () => {
  const deleted = scripted([stream(sse("ready", "c1", {}), BREAK), refusal(410, "deleted")]);
  const events = await deleted.time.run(said(await deleted.fetch(EVENTS)));
  assert.deepEqual(events.map(([event]) => event), ["ready", "deleted"]);
  const garbled = scripted([stream(sse("ready", "c1", {}), BREAK), refusal(400, "invalid_cursor"), stream(sse("deleted", "c2", {}))]);
  await garbled.time.run(said(await garbled.fetch(EVENTS)));
  assert.equal(garbled.asked[2].headers.get("last-event-id"), null);
  const refused = scripted([stream(sse("ready", "c1", {}), BREAK), refusal(401, "unauthorized")]);
  await assert.rejects(refused.time.run(said(await refused.fetch(EVENTS))), { code: "unauthorized" });
});

test("another stream is over where it ends, and fails where it cannot go on", async () => {
  const plain = scripted([stream("data: 1\n\ndata: 2\n\n", null)]);
  assert.equal((await said(await plain.fetch("/v1/agents/bot/runs"))).length, 2);
  const unended = scripted([stream("data: 1\n\ndata: [DO", "NE]", null)]);
  assert.equal(await (await unended.fetch("/v1/chat/completions")).text(), "data: 1\n\ndata: [DONE]");
  const cut = scripted([stream("data: 1\n\n", BREAK)]);
  await assert.rejects(cut.time.run(said(await cut.fetch("/v1/agents/bot/runs"))), /terminated/);
  const early = scripted([stream(BREAK), stream("data: 1\n\n", null)]);
  assert.equal((await early.time.run(said(await early.fetch("/v1/agents/bot/runs")))).length, 1);
  const posted = scripted([stream("data: 1\n\n", BREAK)]);
  const got = await posted.fetch("/v1/chat/completions", { method: "POST", body: "{}" });
  await assert.rejects(said(got), /terminated/);
});

test("bytes may come in any pieces: events are whole, and the text is the same", async () => {
  const events = [1, 2, 3].map((n) => sse("append", `c${n}`, { text: `é😀${n}` }).replaceAll("\n", "\r\n"));
  const bytes = encoder.encode(events.join("") + sse("deleted", "c4", {}));
  const pieces = Array.from(bytes, (byte) => Uint8Array.of(byte));
  const body = () => new ReadableStream({ pull: (c) => (pieces.length > 0 ? c.enqueue(pieces.shift()) : c.close()) });
  const step = () => Promise.resolve(new Response(body(), { headers: { "content-type": "text/event-stream" } }));
  const { fetch } = scripted([step]);
  const got = await said(await fetch(EVENTS));
  assert.deepEqual(got.map(([, , { text }]) => text), ["é😀1", "é😀2", "é😀3", undefined]);
});

test("who leaves the body leaves the region", async () => {
  const { fetch, asked, time } = scripted([stream(sse("ready", "c1", {}))]);
  const reader = (await fetch(EVENTS)).body.getReader();
  await reader.read();
  await reader.cancel();
  assert.ok(asked[0].signal.aborted);
  assert.equal(time.sleeping, 0);
});

test("over real sockets: a server that dies in the middle of an event", async () => {
  const heads = { "content-type": "text/event-stream" };
  const cursors = [];
  const listen = async (serve) => {
    const server = createServer(serve).listen(0, "127.0.0.1");
    await once(server, "listening");
    return [server, `http://127.0.0.1:${server.address().port}`];
  };
  const [a, urlA] = await listen((_, response) => {
    response.writeHead(200, heads).write(sse("append", "c1", { n: 1 }) + "event: app");
    setTimeout(() => response.destroy(), 20);
  });
  const [b, urlB] = await listen((request, response) => {
    cursors.push(request.headers["last-event-id"]);
    response.writeHead(200, heads).end(sse("append", "c2", { n: 2 }) + sse("deleted", "c3", {}));
  });
  const events = await said(await durableFetch([urlA, urlB])(EVENTS));
  assert.deepEqual(events.map(([, id]) => id), ["c1", "c2", "c3"]);
  assert.deepEqual(cursors, ["c1"]);
  for (const server of [a, b]) server.close();
});
