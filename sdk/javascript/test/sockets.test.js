import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { test } from "node:test";

import { Client } from "../perdure.js";
import { sse } from "./script.js";

const MESSAGE = { id: "m", serial: "0.m", role: "assistant", status: "streaming", length: 0, parts: [] };
const SNAPSHOT = { id: "s", messages: [MESSAGE], metadata: {}, more: false };
const append = (from, text) => ({ message: "m", part: 0, from, to: from + 1, text });

/** A region on a real socket; `serve(request, response)` for each request. */
async function listen(serve) {
  const sockets = new Set();
  const server = createServer(serve);
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const die = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  };
  return { url: `http://127.0.0.1:${server.address().port}`, die, sockets };
}

function startEvents(response, ...chunks) {
  response.writeHead(200, { "content-type": "text/event-stream" });
  for (const chunk of chunks) response.write(chunk);
}

test("a region dies in the middle of an event, and the text is whole", async () => {
  const asked = [];
  const half = Buffer.from(sse("append", "c2", append(1, "lo 🌍"))).subarray(0, -12);
  const first = await listen((request, response) => {
    asked.push(["first", request.headers["last-event-id"]]);
    startEvents(response, sse("snapshot", "c0", SNAPSHOT), sse("append", "c1", append(0, "Hel")));
    response.write(half, () => first.die());
  });
  const second = await listen((request, response) => {
    asked.push(["second", request.headers["last-event-id"], request.headers.authorization]);
    startEvents(response);
    // Byte by byte, so that characters are cut too.
    for (const byte of Buffer.from(sse("append", "c2", append(1, "lo 🌍"))))
      response.write(Uint8Array.of(byte));
  });
  try {
    const client = new Client([first.url, second.url], { grant: "jwt", transport: "sse", random: () => 0 });
    const texts = [];
    for await (const view of client.session("s").read()) {
      texts.push(view.messages[0].text);
      if (view.messages[0].length === 2) break;
    }
    assert.deepEqual(texts, ["", "Hel", "Hello 🌍"]);
    assert.deepEqual(asked, [
      ["first", undefined],
      ["second", "c1", "Bearer jwt"],
    ]);
  } finally {
    second.die();
  }
});

test("leaving while nothing comes closes the socket", async () => {
  const region = await listen((_, response) => startEvents(response, sse("ready", "c1", {})));
  try {
    const reading = new Client(region.url, { transport: "sse" }).session("s").read();
    await reading.next();
    const next = reading.next();
    const [socket] = region.sockets;
    const closed = once(socket, "close");
    await reading.return();
    assert.equal((await next).done, true);
    await closed;
  } finally {
    region.die();
  }
});

test("a prompt reaches the region that lives, with its body", async () => {
  const dead = await listen(() => {});
  dead.die();
  const region = await listen(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    response.writeHead(201, { "content-type": "application/json" });
    response.end(Buffer.concat(chunks));
  });
  try {
    const client = new Client([dead.url, region.url], { random: () => 0 });
    const sent = await client.session("s").send("user", "grüß dich 🌍", { id: "p1" });
    assert.deepEqual(sent, { id: "p1", role: "user", text: "grüß dich 🌍" });
  } finally {
    region.die();
  }
});
