import assert from "node:assert/strict";
import { test as always } from "node:test";

import { newView } from "../perdure.js";
import { answer, scripted, sse, stream } from "./script.js";

/** The real React; null where it is not installed. */
const real = await (async () => {
  try {
    const react = await import("react");
    const { act, create } = (await import("react-test-renderer")).default;
    const { renderToString } = (await import("react-dom/server")).default;
    return { ...(await import("../react.js")), react: react.default, act, create, renderToString };
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND") throw error;
    return null;
  }
})();
const skip = real === null && "React is not installed here: make setup-js";
const test = (name, run) => always(name, { skip }, run);
const { react, act, create, renderToString, useSession, usePresence, useDocument } = real ?? {};
globalThis.IS_REACT_ACT_ENVIRONMENT = true;

const MESSAGE = { id: "m", serial: "0.m", role: "assistant", status: "streaming", text: "", length: 0, parts: [] };
const ANN = { member: "ann", data: null, region: "eu", connections: 1, since: "" };
const SNAPSHOT = { id: "s", messages: [MESSAGE], metadata: {}, more: false, presence: [], runs: [] };
const snapshot = sse("snapshot", "c0", SNAPSHOT) + sse("ready", "c1", {});
const append = (from, text) => sse("append", `a${from}`, { message: "m", part: 0, from, to: from + 1, text });

/** A stream that is told what to say while it is read. */
function live(first) {
  let say;
  const said = [];
  const step = ({ signal }) => {
    const answered = stream(first)({ signal });
    const { read } = answered.body.getReader();
    let isFirst = true;
    const next = () => {
      if (isFirst) return (isFirst = false), read();
      if (said.length > 0) return Promise.resolve({ done: false, value: said.shift() });
      return new Promise((resolve, reject) => {
        say = resolve;
        signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      });
    };
    return { ...answered, body: { getReader: () => ({ read: next }) } };
  };
  step.say = (text) => {
    const value = new TextEncoder().encode(text);
    if (say === undefined) said.push(value);
    else say({ done: false, value });
    say = undefined;
  };
  return step;
}

const textOf = (view) => view.messages.map(({ text }) => text).join("|");
const settled = () => act(() => new Promise((resolve) => setTimeout(resolve, 15)));

/** A component that notes what it was given at each render. */
function noting(use) {
  const noted = [];
  const Noting = ({ client, id = "s", options }) => {
    noted.push(use(client, id, options));
    return null;
  };
  return { Noting, noted };
}

async function mounted(element) {
  let root;
  await act(() => void (root = create(element)));
  await settled();
  return root;
}

test("a component is rendered as the session grows, what comes at once at once", async () => {
  const events = live(snapshot);
  const { client } = scripted([events]);
  const { Noting, noted } = noting(useSession);
  const root = await mounted(react.createElement(Noting, { client }));
  assert.deepEqual(noted.map(({ ready }) => ready), [false, true]);
  events.say(append(0, "one ") + append(1, "two ") + append(2, "three"));
  await settled();
  assert.deepEqual(noted.map(textOf), ["", "", "one two three"]);
  await act(() => root.unmount());
});

test("components share one reader, which is closed when the last unmounts, and gone on from", async () => {
  const events = live(snapshot);
  const { client, asked } = scripted([events, stream(append(1, "more"))]);
  const one = noting(useSession);
  const two = noting(useSession);
  const both = (hasBoth) =>
    react.createElement(
      react.StrictMode,
      null,
      react.createElement(one.Noting, { client }),
      hasBoth && react.createElement(two.Noting, { client }),
    );
  const root = await mounted(both(true));
  events.say(append(0, "text"));
  await settled();
  assert.equal(textOf(one.noted.at(-1)), "text");
  assert.equal(one.noted.at(-1), two.noted.at(-1));
  await act(() => root.update(both(false)));
  await settled();
  assert.equal(asked.length, 1);
  assert.equal(asked[0].signal.aborted, false);
  await act(() => root.unmount());
  await settled();
  assert.equal(asked[0].signal.aborted, true);

  const again = noting(useSession);
  const later = await mounted(react.createElement(again.Noting, { client }));
  assert.equal(textOf(again.noted[0]), "text", "what was shown is shown at once");
  assert.equal(textOf(again.noted.at(-1)), "textmore");
  assert.equal(asked[1].cursor, "a0");
  await act(() => later.unmount());
});

test("a member is here as long as its component, and may change what it says without leaving", async () => {
  const { client, asked } = scripted([stream(snapshot), stream(sse("ready", "c2", {})), stream(sse("ready", "c3", {}))]);
  const { Noting } = noting(useSession);
  const other = noting(useSession);
  const tree = (options) =>
    react.createElement(
      react.Fragment,
      null,
      react.createElement(Noting, { client, options }),
      react.createElement(other.Noting, { client }),
    );
  const root = await mounted(tree({ presence: "ann", presenceData: { at: 1 } }));
  await act(() => root.update(tree({ presence: "ann", presenceData: { at: 1 } })));
  await settled();
  assert.equal(asked.length, 1, "the same in another object changes nothing");
  await act(() => root.update(tree({ presence: "ann", presenceData: { at: 2 } })));
  await settled();
  await act(() => root.update(tree()));
  await settled();
  assert.deepEqual(
    asked.map(({ path }) => new URL(path, "http://a").searchParams.get("presence_data")),
    ['{"at":1}', '{"at":2}', null],
  );
  assert.deepEqual(asked.map(({ cursor }) => cursor), [null, "c1", "c2"]);
  assert.deepEqual(asked.map(({ signal }) => signal.aborted), [true, true, false]);
  await act(() => root.unmount());
});

test("usePresence renders when who is here changes, and not with every word", async () => {
  const events = live(snapshot);
  const { client } = scripted([events]);
  const { Noting, noted } = noting(usePresence);
  const root = await mounted(react.createElement(Noting, { client }));
  const renders = noted.length;
  events.say(append(0, "word"));
  await settled();
  assert.equal(noted.length, renders);
  events.say(sse("presence", "c2", { joined: [ANN] }));
  await settled();
  assert.deepEqual(noted.at(-1), [ANN]);
  assert.equal(noted.length, renders + 1);
  await act(() => root.unmount());
});

test("another session is another reader", async () => {
  const { client, asked } = scripted([stream(snapshot), stream(sse("snapshot", "t0", { ...SNAPSHOT, id: "t", messages: [] }))]);
  const { Noting, noted } = noting(useSession);
  const root = await mounted(react.createElement(Noting, { client, id: "s" }));
  await act(() => root.update(react.createElement(Noting, { client, id: "t" })));
  await settled();
  assert.deepEqual(asked.map(({ path }) => path), ["/v1/sessions/s/events", "/v1/sessions/t/events"]);
  assert.equal(asked[0].signal.aborted, true);
  assert.equal(noted.at(-1).id, "t");
  await act(() => root.unmount());
});

test("a server shows an empty session, or the view that it is given; nothing is asked", () => {
  const { client, asked } = scripted([]);
  const Shown = ({ options }) => `${useSession(client, "s", options).ready}:${usePresence(client, "s", options).length}`;
  assert.equal(renderToString(react.createElement(Shown)), "false:0");
  const view = { ...newView("s"), ready: true, cursor: "c9", presence: [ANN] };
  assert.equal(renderToString(react.createElement(Shown, { options: { view } })), "true:1");
  assert.equal(renderToString(react.createElement(Shown)), "false:0", "it is nobody else's");
  assert.equal(asked.length, 0);
});

test("a page goes on from the view that it is given", async () => {
  const { client, asked } = scripted([stream(sse("ready", "c10", {}))]);
  const view = { ...newView("s"), ready: true, cursor: "c9", messages: [{ ...MESSAGE, text: "saved" }] };
  const { Noting, noted } = noting(useSession);
  const root = await mounted(react.createElement(Noting, { client, options: { view } }));
  assert.equal(noted[0], view);
  assert.equal(asked[0].cursor, "c9");
  await act(() => root.unmount());
});

test("what every region refuses reaches the error boundary, and may be tried again", async () => {
  const refusal = answer(401, { code: "unauthorized", detail: "no grant" });
  const { client } = scripted([refusal, stream(snapshot)]);
  class Boundary extends react.Component {
    state = { error: null };
    static getDerivedStateFromError = (error) => ({ error });
    render() {
      return this.state.error === null ? this.props.children : this.state.error.code;
    }
  }
  const { Noting, noted } = noting(useSession);
  const { error } = console;
  console.error = () => {};
  const tree = (key) => react.createElement(Boundary, { key }, react.createElement(Noting, { client }));
  const root = await mounted(tree(1));
  assert.equal(root.toJSON(), "unauthorized");
  await act(() => root.update(tree(2)));
  await settled();
  console.error = error;
  assert.equal(root.toJSON(), null);
  assert.equal(noted.at(-1).ready, true);
  await act(() => root.unmount());
});

test("a document is shown as it changes, by the reader that the session's view has", async () => {
  const told = sse("document", "c2", { document: "d", version: "v2" });
  const deleted = sse("document", "c3", { document: "d", deleted: true });
  const events = live(sse("snapshot", "c0", { ...SNAPSHOT, documents: [{ id: "d", version: "v1" }] }) + sse("ready", "c1", {}));
  const value = (version) => ({ id: "d", text: version, json: {}, version });
  const { client, asked } = scripted([events, answer(200, value("v1")), answer(200, value("v2"))]);
  const views = noting(useSession);
  const texts = noting((client, id) => useDocument(client.session(id), "d")?.text ?? null);
  const both = [views, texts].map(({ Noting }, key) => react.createElement(Noting, { client, key }));
  const root = await mounted(both);
  await settled();
  assert.equal(texts.noted.at(-1), "v1");
  events.say(told);
  await settled();
  await settled();
  assert.equal(texts.noted.at(-1), "v2");
  events.say(deleted);
  await settled();
  await settled();
  assert.equal(texts.noted.at(-1), null);
  await act(() => root.unmount());
  const paths = asked.map(({ path }) => path.replace("/v1/sessions/s", ""));
  assert.deepEqual(paths, ["/events", "/documents/d", "/documents/d"]);
});

test("what every region would refuse of a document reaches the error boundary", async () => {
  const first = sse("snapshot", "c0", { ...SNAPSHOT, documents: [{ id: "d", version: "v1" }] });
  const { client } = scripted([live(first + sse("ready", "c1", {})), answer(401, { code: "unauthorized" })]);
  class Boundary extends react.Component {
    state = {};
    static getDerivedStateFromError(error) {
      return { error };
    }
    render() {
      return this.state.error?.code ?? this.props.children;
    }
  }
  const { Noting } = noting((client, id) => useDocument(client.session(id), "d"));
  const { error } = console;
  console.error = () => {};
  const root = await mounted(react.createElement(Boundary, null, react.createElement(Noting, { client })));
  await settled();
  console.error = error;
  assert.equal(root.toJSON(), "unauthorized");
  await act(() => root.unmount());
});
