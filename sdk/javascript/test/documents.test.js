import assert from "node:assert/strict";
import { test } from "node:test";

import { BREAK, answer, gone, scripted, sse, stream } from "./script.js";

const DOCUMENT = { id: "d", text: "Hello", json: {}, version: "v1" };
const document = (text) => answer(200, { ...DOCUMENT, text, version: `v-${text}` });
const snapshot = (documents) => sse("snapshot", "c0", { messages: [], metadata: {}, more: false, documents });

test("a document is read, written, added to and deleted, at whichever region answers", async () => {
  const script = [answer(200, DOCUMENT), answer(200, DOCUMENT), gone, answer(200, DOCUMENT), answer(200, DOCUMENT)];
  const { client, time, asked } = scripted([...script, answer(204), answer(410, { code: "deleted" })]);
  const draft = client.session("s").document("d");
  assert.deepEqual(await time.run(draft.read()), DOCUMENT);
  await time.run(draft.write({ text: "Hello", json: { a: null } }));
  await time.run(draft.append(" world"));
  await time.run(draft.append(" again"));
  await time.run(draft.delete());
  await time.run(draft.delete());
  const path = "/v1/sessions/s/documents/d";
  assert.deepEqual(
    asked.map(({ method, path: at }) => `${method} ${at.replace(path, "")}`),
    ["GET ", "PATCH ", "POST /append", "POST /append", "POST /append", "DELETE ", "DELETE "],
  );
  assert.deepEqual(asked[1].body, { text: "Hello", json: { a: null } });
  // One key for all tries of a call.
  const keys = asked.slice(2, 5).map(({ headers }) => headers["idempotency-key"]);
  assert.match(keys[0], /^[0-9a-f]{24}$/);
  assert.equal(keys[0], keys[1]);
  assert.notEqual(keys[1], keys[2]);
  assert.throws(() => client.session("s").document("a/b"), TypeError);
});

test("a session lists its documents; one of which nothing is known has none", async () => {
  const listed = [{ id: "d", version: "v1" }];
  const { client, time } = scripted([answer(200, { documents: listed }), answer(404, { code: "not_found" })]);
  assert.deepEqual(await time.run(client.session("s").documents()), listed);
  assert.deepEqual(await time.run(client.session("s").documents()), []);
});

test("who follows a document is given each state once, read where it was told, across regions", async () => {
  const first = snapshot([{ id: "d", version: "v-a" }]) + sse("ready", "c1", {});
  const same = sse("document", "c1", { document: "d", version: "v-a" });
  const other = sse("document", "c1", { document: "e", version: "v-e" });
  const all = sse("document", "c2", { all: [{ id: "d", version: "v-b" }] });
  const deleted = sse("document", "c3", { document: "d", deleted: true });
  const { client, time, asked } = scripted(
    [stream(first, same + other, BREAK), document("a"), stream(all, deleted), document("b")],
    { transport: "sse" },
  );
  const seen = [];
  const following = client.session("s").document("d").follow();
  const collect = async () => {
    for await (const { text } of following) seen.push(text);
  };
  await time.run(collect());
  assert.deepEqual(seen, ["a", "b"]);
  assert.deepEqual(asked.map(({ origin }) => origin), ["http://a", "http://a", "http://b", "http://b"]);
});

test("who follows waits for a document that is not there, and ends where it is gone", async () => {
  const none = snapshot([]) + sse("ready", "c1", {});
  const made = sse("document", "c1", { document: "d", version: "v-a" });
  const missing = sse("document", "c2", { all: [] });
  const { client, time } = scripted(
    [stream(none + made, made, missing), answer(404, { code: "not_found" }), document("a"), answer(410, { code: "deleted" })],
    { transport: "sse" },
  );
  const following = client.session("s").document("d").follow();
  assert.equal((await time.run(following.next())).value.text, "a");
  assert.equal((await time.run(following.next())).done, true);
});
