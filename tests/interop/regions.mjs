// Unmodified y-websocket clients at three regions: node regions.mjs <url> <url> <url>.
// Prints one line for each thing that it has seen, and ends with an error when one does not happen.
import * as Y from "yjs";
import { WebsocketProvider } from "y-websocket";
import WebSocket from "ws";

const [eu, us, ap] = process.argv.slice(2);
const path = "/v1/sessions/s/documents";

function client(url, room = "d", doc = new Y.Doc()) {
  const server = url.replace("http", "ws") + path;
  // Without the channel between tabs: everything has to go by the region.
  const provider = new WebsocketProvider(server, room, doc, {
    WebSocketPolyfill: WebSocket,
    disableBc: true,
  });
  return { doc, provider, text: doc.getText("text"), map: doc.getMap("json") };
}

async function until(what, done) {
  const deadline = Date.now() + 15_000;
  while (!(await done())) {
    if (Date.now() > deadline) throw new Error(`this did not happen: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  console.log(`ok: ${what}`);
}

async function rest(url, method = "GET", body = undefined, more = "") {
  const headers = { "content-type": "application/json" };
  const options = { method, headers, body: body && JSON.stringify(body) };
  return (await fetch(`${url}${path}/d${more}`, options)).json();
}

const one = client(eu);
const two = client(us, "d/ws");
await until("both are in sync", () => one.provider.synced && two.provider.synced);

one.text.insert(0, "hello 😀");
await until("typed at the first region, read at the second", () => two.text.toString() === "hello 😀");
two.text.insert(5, ",");
two.map.set("n", 1);
two.map.set("nested", new Y.Map([["list", new Y.Array()]]));
two.map.get("nested").get("list").push([1, "a", null, true]);
await until("and the other way round", () => one.text.toString() === "hello, 😀" && one.map.size === 2);
await until("read over REST at the third", async () => {
  const { text, json } = await rest(ap);
  const nested = { list: [1, "a", null, true] };
  return text === "hello, 😀" && JSON.stringify(json.nested) === JSON.stringify(nested) && json.n === 1;
});

await rest(ap, "PATCH", { text: "hello, world 😀", json: { n: null, agent: { done: 0.5, steps: 3 } } });
await until("an agent's edit over REST is seen by both", () =>
  [one, two].every((c) => c.text.toString() === "hello, world 😀" && c.map.get("agent")?.get("steps") === 3)
);
if (typeof one.map.get("agent").get("steps") !== "number") throw new Error("steps is no number");

// As people type: not into the middle of a character.
function type({ text }, at, what) {
  const index = at % (text.length + 1);
  text.insert(/[\uDC00-\uDFFF]/.test(text.toString()[index] ?? "") ? index + 1 : index, what);
}
for (let i = 0; i < 100; i++) {
  type(one, i, "e");
  type(two, i * 7, "u");
  if (i % 5 === 0) two.text.delete(0, 1);
  if (i % 10 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
}
one.text.format(0, 5, { bold: true });
await until("two people who type at once come to the same text", async () => {
  const texts = [one.text.toString(), two.text.toString(), (await rest(ap)).text];
  return texts.every((text) => text === texts[0]) && texts[0].length > 150;
});
const delta = JSON.stringify(one.text.toDelta());
await until("and to the same formats", () => JSON.stringify(two.text.toDelta()) === delta);

one.provider.awareness.setLocalState({ name: "ana" });
const three = client(eu);
await until("who is here is told in the region, and in the others", () =>
  [two, three].every((c) => c.provider.awareness.getStates().get(one.doc.clientID)?.name === "ana")
);

one.provider.disconnect();
await until("and that somebody left", () =>
  ![two, three].some((c) => c.provider.awareness.getStates().has(one.doc.clientID))
);
one.text.insert(0, "offline ");
three.text.insert(three.text.length, " online");
one.provider.destroy();
const moved = client(us, "d", one.doc);
await until("who edits offline and moves to another region loses nothing", async () => {
  const texts = [one.text.toString(), two.text.toString(), three.text.toString(), (await rest(ap)).text];
  return texts.every((text) => text === texts[0]) && texts[0].startsWith("offline") && texts[0].endsWith("online");
});

const versions = await Promise.all([eu, us, ap].map(async (url) => (await rest(url)).version));
if (new Set(versions).size !== 1) throw new Error(`versions differ: ${versions}`);
const verify = await (await fetch(`${eu}/v1/verify?session=s`)).json();
if (!verify.equal) throw new Error(JSON.stringify(verify));
console.log("ok: all regions hold the same");
for (const c of [two, three, moved]) c.provider.destroy();

// The messages, which are only read: an agent streams at one region, a reader moves between the others.
const session = "/v1/sessions/s";
async function post(url, path, body, headers = {}) {
  const options = { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) };
  const answer = await fetch(`${url}${session}${path}`, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}
const shown = (doc, id) =>
  doc.getArray("messages").toArray().filter((m) => m.get("id") === id).flatMap((m) => m.get("shown").toArray())[0];
const saying = { id: "m", role: "assistant", producer: "p", claim_id: "claim-0001" };
const { epoch } = await post(eu, "/messages", saying);
const words = Array.from({ length: 120 }, (_, i) => `wörd${i} 😀 `);
async function write(from, to, end) {
  for (let seq = from; seq < to; seq += 4) {
    const headers = { "producer-id": "p", "producer-epoch": epoch, "producer-seq": String(seq) };
    await post(eu, "/messages/m/tokens", { tokens: words.slice(seq, seq + 4) }, headers);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  if (end) await post(eu, "/messages/m/tokens", { end }, { "producer-id": "p", "producer-epoch": epoch, "producer-seq": String(to) });
}
const reader = client(us, "~messages");
const writing = write(0, 60);
await until("an answer is read as a document while it streams", () => shown(reader.doc, "m")?.get("text").length > 100);
reader.provider.destroy();
await writing;
const elsewhere = client(ap, "~messages", reader.doc);
await write(60, 120, "complete");
await until("who moves with it to another region has it once, and whole", () => {
  const message = shown(elsewhere.doc, "m");
  return message.get("text").toString() === words.join("") && message.get("status").toArray()[0] === "complete";
});
elsewhere.provider.destroy();
process.exit(0);
