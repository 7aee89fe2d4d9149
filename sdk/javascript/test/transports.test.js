import assert from "node:assert/strict";
import { test } from "node:test";

import { Client, PerdureError, newView } from "../perdure.js";
import { answer, gone, mute, scripted, sse, stream } from "./script.js";

const [A, B] = ["http://a", "http://b"];
const MESSAGE = { id: "m", serial: "0.m", role: "assistant", status: "streaming", length: 0, parts: [] };
const SNAPSHOT = { id: "s", messages: [MESSAGE], metadata: {}, more: false };
const append = (from, text) => ({ message: "m", part: 0, from, to: from + 1, text });
const frame = (event, id, data) => ({ session: "s", event, id, data });
const polled = (events, cursor, poll) => answer(200, { events, cursor, poll });
const event = (name, id, data) => ({ event: name, id, data });

/** WebSockets that do what a script says: "refuse", "mute", or the frames to send and "close". */
function sockets(...scripts) {
  const made = [];
  class Scripted {
    said = [];
    constructor(url, protocols) {
      Object.assign(this, { url, protocols });
      made.push(this);
      this.script = scripts.shift();
      this.#answer();
    }
    async #answer() {
      // When whoever made it listens, and before any timer rings.
      while (this.onopen === undefined) await null;
      await null;
      if (this.script === "refuse") this.onclose({ code: 1006 });
      else this.onopen();
    }
    send(text) {
      this.said.push(JSON.parse(text));
      if (this.script === "mute") return;
      this.onmessage({ data: JSON.stringify({ reply: 1, status: 200, body: {} }) });
      for (const step of this.script) {
        if (step === "close") this.onclose({ code: 1012 });
        else this.onmessage({ data: typeof step === "string" ? step : JSON.stringify(step) });
      }
    }
    close() {
      this.isClosed = true;
    }
  }
  return { WebSocket: Scripted, made };
}

async function until(reading, isWanted) {
  for await (const value of reading) if (isWanted(value)) return value;
  return null;
}

const isAt = (cursor) => (view) => view.cursor === cursor;
const auto = { transport: "auto" };

test("a WebSocket is tried first, with the grant among its protocols", async () => {
  const { WebSocket, made } = sockets([
    frame("snapshot", "c0", SNAPSHOT),
    frame("ready", "c0", {}),
    frame("append", "c1", append(0, "Hi")),
  ]);
  const { client, time, asked } = scripted([], { ...auto, WebSocket, grant: () => "jwt" });
  const view = await time.run(until(client.session("s").read(), isAt("c1")));
  assert.deepEqual([view.messages[0].text, view.region, view.ready], ["Hi", A, true]);
  assert.equal(made[0].url, "ws://a/v1/sessions/s/ws");
  assert.deepEqual(made[0].protocols, ["perdure.v1", "bearer.jwt"]);
  assert.deepEqual(made[0].said, [{ do: "subscribe", number: 1 }]);
  assert.ok(made[0].isClosed);
  assert.deepEqual(asked, []);
});

// failure: N8
test("where no WebSocket opens, events are streamed; and that is remembered for a time", async () => {
  const { WebSocket, made } = sockets("refuse", [frame("ready", "c2", {})]);
  const script = [stream(sse("ready", "c0", {})), stream(sse("ready", "c1", {}))];
  const { client, time, asked } = scripted(script, { ...auto, WebSocket });
  await time.run(until(client.session("s").read(), isAt("c0")));
  await time.run(until(client.session("s").read(), isAt("c1")));
  assert.equal(made.length, 1);
  assert.deepEqual(asked.map(({ origin, path }) => origin + path), Array(2).fill(`${A}/v1/sessions/s/events`));
  time.nowMs += 600_001;
  await time.run(until(client.session("s").read(), isAt("c2")));
  assert.equal(made.length, 2);
});

// failure: N8
test("where streams are held back too, the session is polled, with the cursor, at the same region", async () => {
  const { WebSocket } = sockets("mute");
  const script = [
    answer(200, {}),
    stream(),
    answer(404, "<html>"),
    polled([event("append", "c1", append(0, "Hel"))], "c1", "h1"),
    polled([], "c1", "h2"),
    polled([event("append", "c2", append(1, "lo"))], "c2", "h3"),
  ];
  const { client, time, asked } = scripted(script, { ...auto, WebSocket });
  const view = { ...newView("s"), cursor: "c0", messages: [{ ...MESSAGE, text: "", held: false }] };
  const seen = await time.run(until(client.session("s").read({ view }), isAt("c2")));
  assert.equal(seen.messages[0].text, "Hello");
  assert.deepEqual(
    asked.map(({ path }) => path.replace("/v1/sessions/s/", "")),
    [
      "/v1/transports",
      "events",
      "/v1/transports",
      "poll?cursor=c0&wait_ms=0",
      "poll?cursor=c1&poll=h1&wait_ms=20000",
      "poll?cursor=c1&poll=h2&wait_ms=20000",
    ],
  );
  assert.deepEqual(new Set(asked.map(({ origin }) => origin)), new Set([A]));
  assert.deepEqual(time.slept.slice(0, 2), [5_000, 5_000]);
});

test("a stream that never says another word is held back as well", async () => {
  const script = [
    stream(sse("snapshot", "c0", SNAPSHOT) + sse("ready", "c0", {})),
    answer(200, {}),
    polled([event("ready", "c1", {})], "c1"),
  ];
  const { client, time, asked } = scripted(script, auto);
  await time.run(until(client.session("s").read(), isAt("c1")));
  assert.equal(asked[2].path, "/v1/sessions/s/poll?cursor=c0&wait_ms=0");
});

test("a region that hangs is left for the next one, and costs the time of one transport", async () => {
  const { WebSocket, made } = sockets("mute", [frame("ready", "c0", {})]);
  const { client, time, asked } = scripted([mute], { ...auto, WebSocket });
  const view = await time.run(until(client.session("s").read(), isAt("c0")));
  assert.equal(view.region, B);
  assert.deepEqual(made.map(({ url }) => url), ["ws://a/v1/sessions/s/ws", "ws://b/v1/sessions/s/ws"]);
  assert.deepEqual(asked.map(({ path }) => path), ["/v1/transports"]);
  assert.ok(time.nowMs < 11_000, String(time.nowMs));
});

test("a region that is away is no proxy: the next one is asked, over a WebSocket again", async () => {
  const { WebSocket, made } = sockets("refuse", [frame("ready", "c0", {})]);
  const { client, time, asked } = scripted([gone], { ...auto, WebSocket });
  const view = await time.run(until(client.session("s").read(), isAt("c0")));
  assert.equal(view.region, B);
  assert.deepEqual(made.map(({ url }) => url), ["ws://a/v1/sessions/s/ws", "ws://b/v1/sessions/s/ws"]);
  assert.equal(asked.length, 1);
});

test("a socket that breaks is taken up at another region with the cursor", async () => {
  const { WebSocket, made } = sockets(
    [frame("snapshot", "c0", SNAPSHOT), frame("ready", "c0", {}), frame("append", "c1", append(0, "Hel")), "close"],
    [frame("append", "c2", append(1, "lo"))],
  );
  const { client, time } = scripted([], { ...auto, WebSocket });
  const view = await time.run(until(client.session("s").read(), isAt("c2")));
  assert.deepEqual([view.messages[0].text, view.region], ["Hello", B]);
  assert.deepEqual(made[1].said, [{ do: "subscribe", number: 1, cursor: "c1" }]);
});

test("a refusal over a socket is the region's", async () => {
  const { WebSocket } = sockets([{ reply: 1, status: 410, body: { code: "deleted", status: 410 } }]);
  const { client, time } = scripted([], { transport: "websocket", WebSocket });
  const reading = client.session("s").events();
  await assert.rejects(time.run(reading.next()), (error) => error instanceof PerdureError && error.code === "deleted");
});

test("what is no event, and a subscription that is over, end the connection", async () => {
  const { WebSocket, made } = sockets(
    [frame("ready", "c0", {}), "<html>"],
    [frame("ready", "c0", 7)],
    [{ alive: true }, frame("ready", "c1", {}), { session: "s", over: true }],
    [frame("ready", "c2", {})],
  );
  const { client, time } = scripted([], { transport: "websocket", WebSocket });
  await time.run(until(client.session("s").read(), isAt("c2")));
  assert.deepEqual(made.map(({ said }) => said[0].cursor), [undefined, "c0", "c0", "c1"]);
});

test("a poll that is cut while it waits is asked for less, for a time", async () => {
  const cut = () => {
    time.nowMs += 30_000;
    throw new TypeError("terminated");
  };
  const later = () => {
    time.nowMs += 600_001;
    return polled([event("ready", "c1", {})], "c1", "h2")();
  };
  const script = [polled([event("ready", "c0", {})], "c0", "h1"), cut, cut, later, polled([event("ready", "c2", {})], "c2")];
  const { client, time, asked } = scripted(script, { transport: "poll" });
  await time.run(until(client.session("s").read(), isAt("c2")));
  assert.deepEqual(
    asked.map(({ path }) => path.replace(/.*wait_ms=/, "")),
    ["0", "20000", "10000", "5000", "20000"],
  );
  assert.ok(asked.every(({ origin }) => origin === A));
});

test("a first poll that nobody answers is not waited for as one that waits for news", async () => {
  const { client, time, asked } = scripted([mute, polled([event("ready", "c0", {})], "c0")], { transport: "poll" });
  await time.run(until(client.session("s").read(), isAt("c0")));
  assert.deepEqual(asked.map(({ origin }) => origin), [A, B]);
  assert.equal(time.slept[0], 15_000);
});

test("a poll that fails at once, or is answered with something else, is tried elsewhere", async () => {
  const script = [gone, answer(200, "<html>"), answer(200, {}), polled([event("ready", "c1", {})], "c1")];
  const { client, time, asked } = scripted(script, { transport: "poll" });
  await time.run(until(client.session("s").read(), isAt("c1")));
  assert.deepEqual(asked.map(({ origin }) => origin), [A, B, "http://c", A]);
});

test("leaving closes the socket, and ends a poll", async () => {
  const { WebSocket, made } = sockets([frame("ready", "c0", {})]);
  const first = scripted([], { transport: "websocket", WebSocket });
  const reading = first.client.session("s").read();
  await first.time.run(reading.next());
  const next = reading.next();
  await reading.return();
  assert.equal((await next).done, true);
  assert.ok(made[0].isClosed);
  const second = scripted([mute], { transport: "poll" });
  const polling = second.client.session("s").read();
  const waiting = polling.next();
  await second.time.until(() => second.asked.length === 1);
  await polling.return();
  assert.equal((await waiting).done, true);
});

test("an unknown transport is refused where it is given", () => {
  assert.throws(() => new Client(A, { transport: "pigeon" }), TypeError);
  assert.throws(() => new Client(A, { transport: "websocket", fetch: gone }), TypeError);
});

test("a member comes with the reader, over every transport and again at each connection", async () => {
  const ready = [frame("ready", "c0", {}), "close"];
  const { WebSocket, made } = sockets(ready, [frame("ready", "c1", {})]);
  const here = { presence: "ann", presenceData: { n: [1, "&"] } };
  const first = scripted([], { transport: "websocket", WebSocket });
  await first.time.run(until(first.client.session("s").read(here), isAt("c1")));
  const bound = { presence: "ann", presence_data: { n: [1, "&"] } };
  assert.deepEqual(made.map(({ said }) => said[0]), [
    { do: "subscribe", number: 1, ...bound },
    { do: "subscribe", number: 1, ...bound, cursor: "c0" },
  ]);
  for (const [transport, script] of [
    ["sse", [stream(sse("ready", "c0", {}))]],
    ["poll", [polled([event("ready", "c0", {})], "c0")]],
  ]) {
    const { client, time, asked } = scripted(script, { transport });
    await time.run(until(client.session("s").read(here), isAt("c0")));
    const { searchParams } = new URL(asked[0].path, A);
    assert.equal(searchParams.get("presence"), "ann");
    assert.deepEqual(JSON.parse(searchParams.get("presence_data")), here.presenceData);
  }
  const { client, time, asked } = scripted([stream(sse("ready", "c0", {}))]);
  await time.run(until(client.session("s").events({ presence: "bob" }), ({ id }) => id === "c0"));
  assert.equal(asked[0].path, "/v1/sessions/s/events?presence=bob");
  assert.throws(() => client.session("s").read({ presence: "a/b" }), TypeError);
});
