// Quantities, plots, cells and entries of the operators' page, as people read them.
import assert from "node:assert/strict";
import { test } from "node:test";

import { outcome } from "../../page/admin_actions.mjs";
import { waitingLevel } from "../../page/admin_connections.mjs";
import { path, pieces, scaleTop } from "../../page/admin_plot.mjs";
import { Samples } from "../../page/admin_rates.mjs";
import { cell } from "../../page/admin_regions.mjs";
import { positions, positionsLevel } from "../../page/admin_sessions.mjs";
import { details, entryLevel, sentence } from "../../page/admin_timeline.mjs";
import { bytes, clock, count, counted, duration, listed, milliseconds, offset, rate, utc } from "../../page/admin_units.mjs";

test("sizes, counts and rates have their unit, and what is not known is a dash", () => {
  assert.deepEqual([0, 999, 1000, 1500, 31_400_000, 2.14e9, 1e18].map(bytes), ["0 B", "999 B", "1 KB", "1.5 KB", "31.4 MB", "2.14 GB", "1000 PB"]);
  assert.deepEqual([0, 0.04, 41.5, 4100].map(rate), ["0 /s", "<0.1 /s", "41.5 /s", "4,100 /s"]);
  assert.equal(counted(1, "session"), "1 session");
  assert.equal(counted(48_213, "session"), "48,213 sessions");
  for (const say of [bytes, count, rate, milliseconds, duration, offset, clock]) assert.equal(say(null), "–");
  assert.equal(milliseconds(Number.NaN), "–");
});

test("times are as long as they have to be", () => {
  assert.deepEqual([0, 999, 12_400, 60_000, 185_000, 7_440_000, 90_000_000, 345_600_000].map(duration), ["0 s", "0 s", "12 s", "1 min", "3 min 5 s", "2 h 4 min", "1 day 1 h", "4 days"]);
  assert.deepEqual([0, 0.004, 0.25, 3.2, 84.1, 151, 12_000].map(milliseconds), ["0 ms", "<0.01 ms", "0.25 ms", "3.2 ms", "84.1 ms", "151 ms", "12 s"]);
  assert.deepEqual([1.8, -1.8, 0].map(offset), ["+1.8 ms", "−1.8 ms", "0 ms"]);
  const at = Date.UTC(2026, 10, 26, 17, 5, 12);
  assert.equal(clock(at, at + 1000, "UTC"), "17:05:12");
  assert.equal(clock(at, at + 86_400_000, "UTC"), "26 Nov 2026, 17:05:12");
  assert.equal(utc(at), "2026-11-26 17:05:12 UTC");
  assert.deepEqual([[], ["eu"], ["eu", "us"], ["ap", "eu", "us"]].map((words) => listed(words)), ["", "eu", "eu and us", "ap, eu and us"]);
});

test("a plot has a gap where there are no data", () => {
  const samples = [[0, 1], [2000, 2], [4000, null], [6000, 4], [20_000, 5], [22_000, Number.NaN]];
  assert.deepEqual(pieces(samples, 1, 2000), [[[0, 1], [2000, 2]], [[6000, 4]], [[20_000, 5]]]);
  const drawn = path(pieces(samples, 1, 2000), { fromMs: 0, toMs: 22_000, top: 5 });
  assert.equal(drawn.match(/M/g).length, 3);
  assert.ok(!drawn.includes("NaN"));
  assert.equal(path([], { fromMs: 0, toMs: 1, top: 1 }), "");
});

test("the top of a scale is round and not below the highest value", () => {
  assert.deepEqual([0, 0.3, 1, 1.1, 4200, 50_001].map(scaleTop), [1, 0.5, 1, 2, 5000, 100_000]);
});

test("samples that come over the stream go behind those that were fetched, once", () => {
  const samples = new Samples();
  samples.set({ step_s: 2, names: ["readers"], samples: [[1000, 3], [3000, 4]] });
  samples.add({ step_s: 2, names: ["readers"], samples: [[3000, 4], [5000, 5]] });
  samples.add({ step_s: 2, names: ["readers"], samples: [] });
  assert.deepEqual(samples.all.samples, [[1000, 3], [3000, 4], [5000, 5]]);
  // Times are the region's: by the browser's clock they would be in the future, or long ago.
  assert.equal(samples.nowMs, 5000);
});

test("a cell of the matrix says the worst that is known, and what is not known", () => {
  const [eu, us] = [{ region: "eu", reachable: true }, { region: "us", reachable: true }];
  const see = { state: "up", rtt_ms: 84.1, behind_operations: 0, behind_s: 0, last_seen_ms: 300 };
  const short = ({ level, text, step }) => [level, text, step];
  assert.deepEqual(short(cell(eu, us, see)), ["well", "84.1 ms", "in step"]);
  assert.deepEqual(short(cell(eu, us, { ...see, behind_operations: 7, behind_s: 0.2 })), ["well", "84.1 ms", "in step"]);
  assert.deepEqual(short(cell(eu, us, { ...see, behind_operations: 7, behind_s: 9 })), ["warning", "84.1 ms", "9 s behind"]);
  assert.deepEqual(short(cell(eu, us, { ...see, state: "suspect", last_seen_ms: 4000 })), ["warning", "4 s silent", "may be down"]);
  assert.deepEqual(short(cell(eu, us, { ...see, state: "down", last_seen_ms: 12_000 })), ["trouble", "12 s silent", "down"]);
  assert.deepEqual(short(cell(eu, us, { ...see, state: "down", last_seen_ms: null })), ["trouble", "not heard", "down"]);
  assert.deepEqual(short(cell({ ...eu, reachable: false }, us, see)), ["unknown", "not told", ""]);
  assert.deepEqual(short(cell(eu, us, undefined)), ["unknown", "unknown", ""]);
  assert.equal(cell(eu, eu, undefined).level, null);
});

test("an entry of the timeline is a sentence, also with nothing but its kind", () => {
  const say = (kind, more = {}) => sentence({ kind, message: "m", run: null, epoch: null, producer: null, detail: {}, ...more });
  assert.equal(say("opened", { producer: "bot", epoch: "1-5f" }), "bot opened the message, epoch 1");
  assert.equal(say("claimed", { producer: "bot-2", epoch: "2-aa", detail: { base: 212 } }), "bot-2 took the message over, epoch 2, behind 212 items");
  assert.equal(say("retry", { producer: "bot", detail: { items: 12, times: 3 } }), "bot repeated 12 items that were there already: nothing was doubled (3 times)");
  assert.equal(say("ended", { detail: { status: "complete", length: 40 } }), "the message ended: complete, 40 items");
  const kinds = ["opened", "claimed", "cancelled", "ended", "fenced", "retry", "resumed", "deleted", "lapsed", "step", "requested", "sent"];
  for (const kind of kinds) {
    assert.ok(say(kind).length > kind.length, kind);
    assert.ok(!/undefined|null|NaN/.test(say(kind)), say(kind));
  }
  assert.equal(say("of-a-later-version"), "of-a-later-version");
  assert.equal(entryLevel({ kind: "fenced" }), "warning");
  assert.equal(details({ epoch: "2-aa", producer: null, detail: { base: 2, of: { a: 1 } } }), 'epoch: 2-aa\nbase: 2\nof: {"a":1}');
});

test("how it went to compare all regions", () => {
  assert.deepEqual(outcome({ equal: true, regions: { ap: "equal", us: "equal" }, sessions: 3 }), ["well", "ap and us hold the same: 3 sessions."]);
  assert.deepEqual(outcome({ equal: false, regions: { ap: "equal", us: "unreachable" }, sessions: 1, different: [] }), ["unknown", "ap holds the same: 1 session. Not reached, so not compared: us."]);
  const [level, text] = outcome({ equal: false, regions: { us: "different" }, different: ["chat"] });
  assert.equal(level, "warning");
  assert.match(text, /^us differs in chat\. What is under way counts/);
  assert.deepEqual(outcome({ equal: true, regions: {} }), ["well", "There is no other region to compare with."]);
});

test("where a session is, and who does not keep up", () => {
  assert.equal(positions({ us: "behind", ap: "equal" }), "equal at ap; behind at us");
  const level = (found, tokens = 0) => positionsLevel({ positions: found, tokens_per_s: tokens });
  assert.deepEqual([{ ap: "equal" }, { ap: "unknown" }, { ap: "unknown", us: "behind" }].map((found) => level(found)), ["well", "unknown", "warning"]);
  assert.equal(level({ us: "behind" }, 41.5), "note");
  assert.equal(positions({}), "–");
  assert.equal(waitingLevel({ waiting_events: 0, waiting_bytes: 0 }), "well");
  assert.equal(waitingLevel({ waiting_events: 65, waiting_bytes: 1 }), "warning");
});
