// What somebody typed, as an edit of the shared text.
import assert from "node:assert/strict";
import { test } from "node:test";

import { change } from "../../page/draft.mjs";

const applied = (before, { index, count, text }) => before.slice(0, index) + text + before.slice(index + count);

test("the edit makes the one text out of the other", () => {
  const texts = ["", "a", "aa", "aaa", "ab", "ba", "abc", "xbz", "😀", "😁", "a😀b", "a😁b", "😀😀", "a\nb"];
  for (const before of texts)
    for (const after of texts)
      for (let caret = 0; caret <= after.length; caret++) {
        const edit = change(before, after, caret);
        assert.equal(applied(before, edit), after, JSON.stringify([before, after, caret]));
        // No half of a character goes or comes alone.
        assert(edit.text.isWellFormed?.() ?? true, JSON.stringify([before, after, caret]));
        assert(before.slice(edit.index, edit.index + edit.count).isWellFormed?.() ?? true);
      }
});

test("the caret tells where it was typed", () => {
  assert.deepEqual(change("aaa", "aaaa", 1), { index: 0, count: 0, text: "a" });
  assert.deepEqual(change("aaa", "aaaa", 4), { index: 3, count: 0, text: "a" });
  assert.deepEqual(change("aaa", "aa", 1), { index: 1, count: 1, text: "" });
  assert.deepEqual(change("one two", "one, two", 4), { index: 3, count: 0, text: "," });
});

test("a character that shares its first half with another one is replaced whole", () => {
  assert.deepEqual(change("a😀b", "a😁b", 3), { index: 1, count: 2, text: "😁" });
});
