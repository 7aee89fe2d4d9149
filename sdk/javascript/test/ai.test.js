import assert from "node:assert/strict";
import { test } from "node:test";

import { PerdureChatTransport, toUIMessages } from "../ai.js";
import { apply, newView } from "../perdure.js";
import { BREAK, answer, gone, scripted, sse, stream } from "./script.js";

/** The SDK itself; null where it is not installed. */
const sdk = await import("ai").catch((error) => {
  if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
  return null;
});
const hooks = await import("@ai-sdk/react").catch(() => null);
const skip = (sdk === null || hooks === null) && "the AI SDK is not installed here: make setup-js";

const RUN = { id: "r", session: "s", status: "requested", agent: "bot", message: "r", inputs: [] };
const OPEN = { id: "r", serial: "0.r", role: "assistant", status: "streaming", length: 0, parts: [], metadata: {} };
const user = (text, more) => ({ id: "u1", role: "user", parts: [{ type: "text", text }], ...more });
const snapshot = (message = OPEN) =>
  sse("snapshot", "c0", { id: "s", messages: [message], metadata: {}, more: false, presence: [], runs: [] });

/** The events of an answer: strings and marks, then its end. */
function writes(items, end = "complete") {
  let part = 0;
  let has = false;
  const events = items.map((item, at) => {
    const range = { message: "r", from: at, to: at + 1 };
    if (item.part && has) part += 1;
    has = true;
    const what = typeof item === "string" ? { text: item } : { items: [item] };
    return sse("append", `c${at + 1}`, { ...range, part, ...what });
  });
  return events.join("") + (end ? sse("end", "ce", { message: "r", status: end, length: items.length }) : "");
}

const asked = [answer(201, { id: "u1" }), answer(201, RUN)];
const sent = { chatId: "s", messages: [user("Hi")], trigger: "submit-message", messageId: undefined };

async function all(chunks) {
  const list = [];
  for await (const chunk of chunks) list.push(chunk);
  return list;
}

/** The chunks of an answer that is written so. */
async function chunksOf(...steps) {
  const { client, time } = scripted([...asked, stream(snapshot(), ...steps)]);
  return time.run(all(await new PerdureChatTransport(client, { agent: "bot" }).sendMessages(sent)));
}

test("the user's message is sent, a run is asked for, and its message is followed across regions", async () => {
  const { client, time, asked: requests } = scripted([
    gone,
    ...asked,
    stream(snapshot(), writes(["Hel"], null), BREAK),
    stream(writes(["Hel", "lo."]).split("\n\n").slice(1).join("\n\n")),
  ]);
  const transport = new PerdureChatTransport(client, { agent: "bot", author: "ann" });
  const chunks = await time.run(transport.sendMessages({ ...sent, body: { model: "x" } }));
  assert.deepEqual(await time.run(all(chunks)), [
    { type: "start", messageId: "r" },
    { type: "text-start", id: "0" },
    { type: "text-delta", id: "0", delta: "Hel" },
    { type: "text-delta", id: "0", delta: "lo." },
    { type: "text-end", id: "0" },
    { type: "finish" },
  ]);
  const [, message, run, first, second] = requests;
  assert.deepEqual(message.body, { id: "u1", role: "user", text: "Hi", author: "ann" });
  assert.deepEqual({ ...run.body, id: "" }, { id: "", agent: "bot", input: "u1", by: "ann", metadata: { model: "x" } });
  assert.deepEqual([first.cursor, second.cursor], [null, "c1"]);
  assert.notEqual(first.origin, second.origin);
});

test("reasoning, tools, sources, files and data have their chunks", async () => {
  const items = [
    { part: { type: "reasoning" } },
    "Hm.",
    { part: { type: "tool-call", id: "t1" } },
    { set: { name: "weather" } },
    '{"city":',
    '"Oslo"}',
    { set: { output: { c: 3 } } },
    { part: { type: "tool-call", id: "t2", name: "stock", input: { of: "X" } } },
    { part: { type: "data", name: "tool-output", call: "t2", output: "closed", is_error: true } },
    { part: { type: "source", url: "https://x.example", title: "X" } },
    { part: { type: "file", url: "https://x.example/a.png", mediaType: "image/png" } },
    { part: { type: "text" } },
    "Cold.",
    { part: { type: "data", name: "response", model: "x" } },
  ];
  assert.deepEqual(await chunksOf(writes(items)), [
    { type: "start", messageId: "r" },
    { type: "reasoning-start", id: "0" },
    { type: "reasoning-delta", id: "0", delta: "Hm." },
    { type: "reasoning-end", id: "0" },
    { type: "tool-input-start", toolCallId: "t1", toolName: "weather" },
    { type: "tool-input-delta", toolCallId: "t1", inputTextDelta: '{"city":' },
    { type: "tool-input-delta", toolCallId: "t1", inputTextDelta: '"Oslo"}' },
    { type: "tool-input-available", toolCallId: "t1", toolName: "weather", input: { city: "Oslo" } },
    { type: "tool-output-available", toolCallId: "t1", output: { c: 3 } },
    { type: "tool-input-start", toolCallId: "t2", toolName: "stock" },
    { type: "tool-input-available", toolCallId: "t2", toolName: "stock", input: { of: "X" } },
    { type: "tool-output-error", toolCallId: "t2", errorText: "closed" },
    { type: "source-url", sourceId: "4", url: "https://x.example", title: "X" },
    { type: "file", url: "https://x.example/a.png", mediaType: "image/png" },
    { type: "text-start", id: "6" },
    { type: "text-delta", id: "6", delta: "Cold." },
    { type: "text-end", id: "6" },
    { type: "data-response", id: "7", data: { model: "x" } },
    { type: "finish" },
  ]);
});

test("an answer that fails or is cancelled says so, behind what was written", async () => {
  const failed = await chunksOf(writes(["Hel", { part: { type: "data", name: "response", error: { message: "overloaded" } } }], "failed"));
  assert.deepEqual(failed.at(-1), { type: "error", errorText: "overloaded" });
  assert.deepEqual((await chunksOf(writes([], "failed"))).at(-1), { type: "error", errorText: "the agent failed" });
  const stopped = await chunksOf(writes(["Hel"], "cancelled"));
  assert.deepEqual(stopped.slice(-2), [{ type: "text-end", id: "0" }, { type: "abort", reason: "cancelled" }]);
  assert.equal((await chunksOf(sse("delete", "c1", { message: "r" }))).at(-1).type, "error");
  assert.equal((await chunksOf(sse("deleted", "c1", {}))).at(-1).type, "error");
});

test("text that is taken back ends the stream, and the next tells the answer anew, also when it is over", async () => {
  const parts = [{ type: "text", text: "Hullo." }];
  const replace = sse("replace", "c2", { message: "r", to: 2, text: "Hullo.", parts, status: "streaming", reason: "fenced" });
  const over = { ...OPEN, parts, length: 2, status: "complete" };
  const { client, time } = scripted([
    ...asked,
    stream(snapshot(), writes(["Hello"], null), replace),
    answer(200, { runs: [{ ...RUN, status: "complete" }], more: false }),
    stream(snapshot(over)),
    answer(200, { runs: [{ ...RUN, status: "complete" }], more: false }),
  ]);
  const transport = new PerdureChatTransport(client, { agent: "bot" });
  const chunks = await time.run(all(await time.run(transport.sendMessages(sent))));
  assert.match(chunks.at(-1).errorText, /taken back/);
  const again = await time.run(all(await time.run(transport.reconnectToStream({ chatId: "s" }))));
  assert.equal(again.find(({ type }) => type === "text-delta").delta, "Hullo.");
  assert.equal(again.at(-1).type, "finish");
  assert.equal(await time.run(transport.reconnectToStream({ chatId: "s" })), null);
});

test("the stream of an open run is gone on with; there may be none", async () => {
  const runs = [{ ...RUN, id: "old", status: "complete" }, { ...RUN, status: "running" }, { ...RUN, id: "q", agent: "other" }];
  const { client, time } = scripted([
    answer(200, { runs, more: false }),
    stream(snapshot({ ...OPEN, parts: [{ type: "text", text: "Hel" }], length: 1 })),
    answer(404, { code: "not_found" }),
    answer(200, { runs: runs.slice(0, 1), more: false }),
  ]);
  const transport = new PerdureChatTransport(client, { agent: "bot" });
  const reader = (await time.run(transport.reconnectToStream({ chatId: "s" }))).getReader();
  const types = [];
  for (let count = 0; count < 3; count += 1) types.push((await time.run(reader.read())).value.type);
  assert.deepEqual(types, ["start", "text-start", "text-delta"]);
  await reader.cancel();
  assert.equal(await time.run(transport.reconnectToStream({ chatId: "s" })), null);
  assert.equal(await time.run(transport.reconnectToStream({ chatId: "s" })), null);
});

test("an abort ends the reading and cancels nothing; stop cancels the run", async () => {
  const { client, time, asked: requests } = scripted([...asked, stream(snapshot()), answer(200, { ...RUN, status: "cancelled" }), answer(200, { runs: [], more: false }), answer(200, { runs: [], more: false })]);
  const transport = new PerdureChatTransport(client, { agent: "bot" });
  const abort = new AbortController();
  const reader = (await transport.sendMessages({ ...sent, abortSignal: abort.signal })).getReader();
  await reader.read();
  const reading = reader.read();
  await new Promise(setImmediate);
  abort.abort(new Error("left"));
  await assert.rejects(reading, /left/);
  assert.equal(requests.length, 3, "nothing was asked for");
  assert.ok(requests[2].signal.aborted);
  assert.equal((await transport.stop("s")).status, "cancelled");
  assert.match(requests[3].path, /\/runs\/[^/]+\/cancel$/);
  assert.equal(await new PerdureChatTransport(client).stop("s"), null);
});

test("stop stops what is written now, also where the run that was read last is over", async () => {
  const next = { ...RUN, id: "r2", status: "running" };
  const { client, time, asked: requests } = scripted([
    ...asked,
    stream(snapshot()),
    answer(200, { ...RUN, status: "complete" }),
    answer(200, { runs: [{ ...RUN, status: "complete" }, next], more: false }),
    answer(200, { ...next, status: "cancelled" }),
    answer(200, { runs: [], more: false }),
  ]);
  const transport = new PerdureChatTransport(client, { agent: "bot" });
  const reader = (await transport.sendMessages(sent)).getReader();
  await reader.read();
  await reader.cancel();
  const stopped = await time.run(transport.stop("s"));
  assert.deepEqual([stopped.id, stopped.status], ["r2", "cancelled"]);
  assert.match(requests.at(-1).path, /\/runs\/r2\/cancel$/);
  assert.equal(await time.run(transport.stop("s")), null);
});

test("a message that is there already is not sent twice; one that was changed stands in its place", async () => {
  const holds = (...messages) => answer(200, { messages });
  const conflict = answer(409, { code: "conflict", status: 409 });
  const [hi, ho] = ["Hi", "Ho"].map((text) => ({ id: "u1", role: "user", text }));
  const later = { id: "u1~x", role: "user", text: "Hm", replaces: "u1" };
  const asks = [answer(201, RUN), stream(snapshot())];
  const cases = [
    // Answered anew; sent again by somebody who had no answer; edited into what it is already.
    [{ trigger: "regenerate-message" }, [holds(hi, { id: "a" })], "u1", "a"],
    [{}, [conflict, holds(hi)], "u1", undefined],
    [{ messageId: "u1" }, [holds(ho, { id: "a" }, { ...later, text: "Hi" }, { id: "b" })], "u1~x", "b"],
  ];
  for (const [more, steps, input, replaces] of cases) {
    const { client, asked } = scripted([...steps, ...asks]);
    await new PerdureChatTransport(client).sendMessages({ ...sent, ...more });
    assert.deepEqual([asked[steps.length].body.input, asked[steps.length].body.replaces], [input, replaces]);
  }
  // Edited; edited back.
  for (const held of [[ho, { id: "a" }], [hi, { id: "a" }, later, { id: "b" }]]) {
    const { client, asked } = scripted([holds(...held), answer(201, { id: "u2" }), ...asks]);
    await new PerdureChatTransport(client).sendMessages({ ...sent, messageId: "u1" });
    const { id, text, replaces } = asked[1].body;
    assert.match(id, /^u1~[0-9a-f]{16}$/);
    assert.deepEqual([text, replaces, asked[2].body.input, asked[2].body.replaces], ["Hi", "u1", "u2", undefined]);
  }
});

test("a message that never came is sent when the chat asks again", async () => {
  const unknown = answer(404, { code: "not_found", status: 404 });
  const lacking = answer(200, { messages: [{ id: "u0", role: "user", text: "Hi" }] });
  for (const held of [unknown, lacking]) {
    const { client, asked } = scripted([held, answer(201, { id: "u1" }), answer(201, RUN), stream(snapshot())]);
    await new PerdureChatTransport(client).sendMessages({ ...sent, trigger: "regenerate-message" });
    const [, message, run] = asked.map(({ body }) => body);
    assert.deepEqual([message.id, message.replaces, run.input, run.replaces], ["u1", undefined, "u1", undefined]);
  }
});

test("what was edited or answered anew is shown once", () => {
  const ids = (...pairs) => toUIMessages({ messages: pairs.map(([id, replaces]) => ({ id, replaces, role: "assistant", parts: [] })) }).map(({ id }) => id);
  assert.deepEqual(ids(["u"], ["a"], ["b", "a"], ["c", "b"]), ["u", "c"]);
  assert.deepEqual(ids(["u"], ["a"], ["v"], ["b"], ["w", "u"], ["c"]), ["w", "c"]);
  assert.deepEqual(ids(["u"], ["a"], ["v", "u"], ["b"], ["w", "u"], ["c"]), ["w", "c"]);
  assert.deepEqual(ids(["a", "older"], ["b"], ["b2", "b"]), ["a", "b2"]);
});

test("what of a message is no text goes with its metadata, and comes back", async () => {
  const file = { type: "file", mediaType: "image/png", url: "data:," };
  const { client, asked: requests } = scripted([...asked, stream(snapshot())]);
  const message = user("Look", { parts: [file, { type: "text", text: "Look" }], metadata: { a: 1 } });
  await new PerdureChatTransport(client).sendMessages({ ...sent, messages: [message] });
  const { metadata } = requests[0].body;
  assert.deepEqual(metadata, { a: 1, parts: [file] });
  const held = { id: "u1", role: "user", status: "complete", metadata, parts: [{ type: "text", text: "Look" }] };
  assert.deepEqual(toUIMessages({ messages: [held] }), [message]);
  await assert.rejects(new PerdureChatTransport(client).sendMessages({ ...sent, messages: [{ role: "assistant" }] }), TypeError);
});

const WHOLE = [
  { part: { type: "reasoning" } },
  "Hm.",
  { part: { type: "tool-call", id: "t1", name: "weather" } },
  '{"city":"Oslo"}',
  { set: { output: { c: 3 } } },
  { part: { type: "source", url: "https://x.example" } },
  { part: { type: "text" } },
  "Co",
  "ld.",
];

test("the SDK's chat shows the answer, and the same messages after a reload", { skip }, async () => {
  const { client, time } = scripted([...asked, stream(snapshot(), writes(WHOLE))]);
  const transport = new PerdureChatTransport(client, { agent: "bot" });
  const chat = new hooks.Chat({ id: "s", transport });
  await time.run(chat.sendMessage({ id: "u1", role: "user", parts: [{ type: "text", text: "Hi" }] }));
  assert.equal(chat.status, "ready", String(chat.error));
  let view = apply(newView("s"), "snapshot", { messages: [OPEN], metadata: {}, more: false });
  for (const [, name, data] of writes(WHOLE).matchAll(/event: (\w+)\nid: .*\ndata: (.*)\n/g)) view = apply(view, name, JSON.parse(data));
  const plain = (value) => JSON.parse(JSON.stringify(value));
  const reasoning = ({ id, ...part }) => (part.type === "reasoning" ? part : { ...(id && { id }), ...part });
  const shown = plain(chat.messages.at(-1).parts).map(reasoning);
  assert.deepEqual(shown, plain(toUIMessages(view).at(-1).parts));
  assert.equal(chat.messages.at(-1).id, "r");
  assert.deepEqual(shown.map(({ type }) => type), ["reasoning", "tool-weather", "source-url", "text"]);
});

test("the SDK's chat goes on after text was taken back, and shows the right one", { skip }, async () => {
  const parts = [{ type: "text", text: "Hullo." }];
  const replace = sse("replace", "c2", { message: "r", to: 2, text: "Hullo.", parts, status: "streaming", reason: "fenced" });
  const end = sse("end", "c3", { message: "r", status: "complete", length: 2 });
  const { client, time } = scripted([
    ...asked,
    stream(snapshot(), writes(["Hello"], null), replace),
    answer(200, { runs: [{ ...RUN, status: "running" }], more: false }),
    stream(snapshot({ ...OPEN, parts, length: 2 }), end),
  ]);
  const chat = new hooks.Chat({ id: "s", transport: new PerdureChatTransport(client, { agent: "bot" }) });
  await time.run(chat.sendMessage({ id: "u1", role: "user", parts: [{ type: "text", text: "Hi" }] }));
  assert.equal(chat.status, "error");
  await time.run(chat.resumeStream());
  assert.equal(chat.status, "ready");
  assert.deepEqual(chat.messages.map(({ parts: [{ text }] }) => text), ["Hi", "Hullo."]);
});

test("a chat that is loaded in the middle of an answer resumes it once", { skip }, async () => {
  const begun = { ...OPEN, parts: [{ type: "text", text: "Hel" }], length: 1 };
  const goes = sse("append", "c1", { message: "r", part: 0, from: 1, to: 2, text: "lo." });
  const { client, time } = scripted([
    answer(200, { runs: [{ ...RUN, status: "running" }], more: false }),
    stream(snapshot(begun), goes, sse("end", "c2", { message: "r", status: "complete", length: 2 })),
  ]);
  const view = { messages: [{ ...begun, text: "Hel" }] };
  const chat = new hooks.Chat({ id: "s", messages: toUIMessages(view), transport: new PerdureChatTransport(client, { agent: "bot" }) });
  await time.run(chat.resumeStream());
  assert.deepEqual(chat.messages.map(({ parts }) => parts.map(({ text }) => text)), [["Hello."]]);
});
