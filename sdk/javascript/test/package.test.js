import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as ai from "../ai.js";
import * as fetching from "../fetch.js";
import * as client from "../perdure.js";
import * as yjs from "../yjs.js";

const read = (name) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
const { files, exports, types } = JSON.parse(read("package.json"));

test("the types declare what the modules export, and nothing else", () => {
  for (const [types, module] of [["perdure.d.ts", client], ["fetch.d.ts", fetching], ["ai.d.ts", ai], ["yjs.d.ts", yjs]]) {
    const declared = [...read(types).matchAll(/^export (?:class|function) (\w+)/gm)];
    assert.deepEqual(declared.map(([, name]) => name).sort(), Object.keys(module).sort());
  }
});

test("the types declare every method of a session, a writer, a document, an agent and a turn", () => {
  for (const { name, prototype } of [client.Session, client.Writer, client.Client, client.Document, client.Agent, client.Turn]) {
    const [, body] = read("perdure.d.ts").match(new RegExp(`export class ${name} \\{\n(.*?)\n\\}`, "s"));
    for (const method of Object.getOwnPropertyNames(prototype)) {
      assert.match(body, new RegExp(`\\b${method}\\b`), `${name}.${method}`);
    }
  }
});

test("the types of the hooks, which need React, declare them", () => {
  const [declared, exported] = ["react.d.ts", "react.js"].map((file) =>
    [...read(file).matchAll(/^export function (\w+)/gm)].map(([, name]) => name),
  );
  assert.deepEqual(declared, exported);
  assert.ok(exported.length > 0);
});

test("the package holds what it names, and depends on nothing", () => {
  const exported = Object.values(exports).flatMap((one) => Object.values(one));
  for (const name of [...files, types, ...exported]) assert.ok(read(name).length > 0);
  for (const name of exported) assert.ok(files.includes(name.slice(2)), name);
  assert.doesNotMatch(read("perdure.js"), /^import |\bimport\(|\brequire\(/m);
});
