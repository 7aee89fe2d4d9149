import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as client from "../perdure.js";

const read = (name) => readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
const { files, exports, types } = JSON.parse(read("package.json"));

test("the types declare what the module exports, and nothing else", () => {
  const declared = [...read("perdure.d.ts").matchAll(/^export (?:class|function) (\w+)/gm)];
  assert.deepEqual(declared.map(([, name]) => name).sort(), Object.keys(client).sort());
});

test("the types declare every method of a session and of a writer", () => {
  for (const { name, prototype } of [client.Session, client.Writer, client.Client]) {
    const [, body] = read("perdure.d.ts").match(new RegExp(`export class ${name} \\{\n(.*?)\n\\}`, "s"));
    for (const method of Object.getOwnPropertyNames(prototype)) {
      assert.match(body, new RegExp(`\\b${method}\\b`), `${name}.${method}`);
    }
  }
});

test("the package holds what it names, and depends on nothing", () => {
  for (const name of [...files, types, ...Object.values(exports["."])]) assert.ok(read(name).length > 0);
  assert.doesNotMatch(read("perdure.js"), /^import |\bimport\(|\brequire\(/m);
});
