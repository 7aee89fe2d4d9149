import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { mock, test } from "node:test";

import { Client, PerdureError, newView } from "../perdure.js";

const encoder = new TextEncoder();

function sse(event, id, data) {
  return `event: ${event}\nid: ${id}\ndata: ${JSON.stringify(data)}\n\n`;
}

const SNAPSHOT = {
  id: "s",
  messages: [{ id: "m", serial: "0.m", role: "assistant", status: "streaming", length: 0, parts: [] }],
  metadata: {},
  more: false,
};
const append = (from, text) => ({ message: "m", part: 0, from, to: from + 1, text });

/**
 * Connections in order: each a list of steps, texts to send and then `"close"`, `"break"` (an error)
 * or `"hang"`; or a Response.
 */
function scripted(connections, asked = []) {
  return async (url, { headers }) => {
    asked.push({ region: new URL(url).origin, cursor: headers["last-event-id"] ?? null });
    const next = connections.shift();
    assert.ok(next !== undefined, "an unexpected connection");
    if (next instanceof Error) throw next;
    if (next instanceof Response) return next;
    const steps = [...next];
    const body = new ReadableStream({
      pull(controller) {
        const step = steps.shift();
        if (step === "close") return controller.close();
        if (step === "break") return controller.error(new TypeError("terminated"));
        if (step === "hang" || step === undefined) return new Promise(() => {});
        controller.enqueue(encoder.encode(step));
      },
    }, { highWaterMark: 0 });
    return new Response(body, { status: 200 });
  };
}

function clientOf(connections, asked, options = {}) {
  const slept = [];
  const client = new Client(["http://a", "http://b"], {
    fetch: scripted(connections, asked),
    random: () => 0.5,
    now: () => 0,
    sleep: async (ms) => void slept.push(ms),
    ...options,
  });
  return { client, slept };
}

async function readUntil(reading, done) {
  for await (const view of reading) if (done(view)) return view;
  return null;
}

test("a reader goes on at another region with its cursor, in the middle of a message", async () => {
  const asked = [];
  const { client } = clientOf(
    [
      [sse("snapshot", "c0", SNAPSHOT), sse("append", "c1", append(0, "Hel")), "event: append\nid: c2\nda", "break"],
      new TypeError("refused"),
      [sse("append", "c2", append(1, "lo")), sse("end", "c3", { message: "m", status: "complete", length: 2 })],
    ],
    asked,
  );
  const seen = [];
  const view = await readUntil(
    client.session("s").read({ onRegion: (url) => seen.push(url) }),
    (v) => v.messages[0].status === "complete",
  );
  assert.equal(view.messages[0].text, "Hello");
  assert.deepEqual([view.cursor, view.region], ["c3", "http://a"]);
  assert.deepEqual(asked, [
    { region: "http://a", cursor: null },
    { region: "http://b", cursor: "c1" },
    { region: "http://a", cursor: "c1" },
  ]);
  assert.deepEqual(seen, ["http://a", "http://a"]);
});

test("a saved view goes on from its cursor", async () => {
  const asked = [];
  const saved = newView("s");
  saved.cursor = "c7";
  const { client } = clientOf([[sse("ready", "c8", {}), "hang"]], asked);
  const view = await readUntil(client.session("s").read({ view: JSON.parse(JSON.stringify(saved)) }), (v) => v.ready);
  assert.equal(view.cursor, "c8");
  assert.equal(asked[0].cursor, "c7");
});

test("an event that does not fit starts over without a cursor", async () => {
  const asked = [];
  const { client } = clientOf(
    [
      [sse("snapshot", "c0", SNAPSHOT), sse("append", "c1", append(5, "?")), "hang"],
      [sse("snapshot", "c2", SNAPSHOT), sse("append", "c3", append(0, "ok")), "hang"],
    ],
    asked,
  );
  const view = await readUntil(client.session("s").read(), (v) => v.messages[0]?.text === "ok");
  assert.equal(view.cursor, "c3");
  assert.deepEqual(asked.map((one) => one.cursor), [null, null]);
});

test("a malformed cursor is dropped", async () => {
  const asked = [];
  const problem = new Response('{"code":"invalid_cursor","status":400}', { status: 400 });
  const { client } = clientOf([problem, [sse("ready", "c1", {}), "hang"]], asked);
  await readUntil(client.session("s").read({ view: { ...newView("s"), cursor: "x" } }), (v) => v.ready);
  assert.deepEqual(asked.map((one) => one.cursor), ["x", null]);
});

test("a region that drains is left after a share of its retry_ms", async () => {
  const asked = [];
  const { client, slept } = clientOf(
    [[sse("reconnect", "c1", { retry_ms: 900 }), "hang"], [sse("ready", "c2", {}), "hang"]],
    asked,
  );
  await readUntil(client.session("s").read(), (v) => v.ready);
  assert.deepEqual(slept, [450]);
  assert.deepEqual(asked.map((one) => one.region), ["http://a", "http://b"]);
});

test("refusals are thrown, 5xx are not", async () => {
  const busy = new Response("<html>", { status: 503 });
  const refused = new Response('{"code":"unauthorized","status":401,"detail":"no grant"}', { status: 401 });
  const { client } = clientOf([busy, refused], []);
  await assert.rejects(readUntil(client.session("s").read(), () => false), (error) => {
    assert.ok(error instanceof PerdureError);
    assert.equal(error.code, "unauthorized");
    return true;
  });
});

test("a deleted session ends the reading, told live or by 410", async () => {
  const live = clientOf([[sse("snapshot", "c0", SNAPSHOT), sse("deleted", "c1", {}), "close"]], []);
  const late = clientOf([new Response('{"code":"deleted","status":410}', { status: 410 })], []);
  for (const { client } of [live, late]) {
    let last = null;
    for await (const view of client.session("s").read()) last = view;
    assert.equal(last.deleted, true);
  }
});

test("silence is a failure", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const asked = [];
    const { client } = clientOf([[sse("ready", "c1", {}), "hang"], [sse("ready", "c2", {}), "hang"]], asked);
    const reading = client.session("s").read();
    await reading.next();
    const next = reading.next();
    while (asked.length < 2) {
      mock.timers.tick(1_000);
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal((await next).value.cursor, "c2");
    assert.equal(asked[1].region, "http://b");
    await reading.return();
  } finally {
    mock.timers.reset();
  }
});

test("an abort ends the reading, also while it waits", async () => {
  const { client } = clientOf([[sse("ready", "c1", {}), "hang"]], []);
  const abort = new AbortController();
  const reading = client.session("s").read({ signal: abort.signal });
  await reading.next();
  const next = reading.next();
  abort.abort();
  assert.deepEqual(await next, { value: undefined, done: true });
});

/** A region on a real socket; `serve(response, cursor)` for each connection to its events. */
async function listen(serve) {
  const open = new Set();
  const server = createServer((request, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" });
    serve(response, request.headers["last-event-id"] ?? null);
  });
  server.on("connection", (socket) => open.add(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const die = () => {
    server.close();
    for (const socket of open) socket.destroy();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, die };
}

test("over real sockets: a region dies in the middle of an event", async () => {
  let cursor = null;
  const first = await listen((response) => {
    response.write(sse("snapshot", "c0", SNAPSHOT) + sse("append", "c1", append(0, "Hel")));
    response.write("event: append\nid: c2\ndata: {", () => first.die());
  });
  const second = await listen((response, from) => {
    cursor = from;
    response.write(sse("append", "c2", append(1, "lo ")) + sse("append", "c3", append(2, "🌍")));
  });
  try {
    const client = new Client([first.url, second.url]);
    const reading = client.session("s").read();
    const view = await readUntil(reading, (v) => v.messages[0].length === 3);
    assert.equal(view.messages[0].text, "Hello 🌍");
    assert.equal(cursor, "c1");
  } finally {
    second.die();
  }
});
