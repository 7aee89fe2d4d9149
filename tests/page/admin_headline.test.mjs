// What an operator reads first, out of what the regions say of themselves and of each other.
import assert from "node:assert/strict";
import { test } from "node:test";

import { found, headline, levelOf, silentFor, worse } from "../../page/admin_headline.mjs";

const NAMES = ["ap", "eu", "us"];
const see = (region, more = {}) => ({ region, state: "up", rtt_ms: 80, behind_operations: 0, behind_bytes: 0, behind_s: 0, clock_offset_ms: 2, last_seen_ms: 300, last_anti_entropy_ms: 1000, digests: "equal", wire: 2, ...more });

/** Three regions; `views` and `sees` (`"eu us": {…}`) say what is different. */
function overview({ views = {}, sees = {}, names = NAMES } = {}) {
  const region = (name) => ({
    ...{ region: name, reachable: true, state: null, version: "0.1.0", is_gone: false, url: null, age_ms: 0, problems: [] },
    sees: names.filter((other) => other !== name).map((other) => see(other, sees[`${name} ${other}`])),
    ...views[name],
  });
  return { region: "eu", version: "0.1.0", state: null, now_ms: 0, regions: names.map(region) };
}

const down = (ms) => ({ state: ms >= 10_000 ? "down" : "suspect", last_seen_ms: ms, behind_operations: 900, behind_s: ms / 1000 });
/** `us` is gone, as the two others see it. */
const killed = (ms) => overview({ views: { us: { reachable: false, age_ms: ms } }, sees: { "eu us": down(ms), "ap us": down(ms + 2_500) } });

test("all is well", () => {
  const told = headline(overview());
  assert.equal(told.level, "well");
  assert.equal(told.title, "All 3 regions are well.");
  assert.deepEqual(told.findings, []);
  assert.match(told.text, /^ap, eu and us see each other/);
});

test("a region alone is not said to be safe elsewhere", () => {
  const told = headline(overview({ names: ["eu"] }));
  assert.equal(told.title, "eu is well. It is the only region.");
  assert.match(told.text, /on its disk, and nowhere else/);
});

test("a killed region: for how long, seen from where, and what it means; once, not for each link", () => {
  const told = headline(killed(12_000));
  assert.equal(told.level, "trouble");
  assert.equal(told.title, "us is down: no sign of life for 12 s, seen from ap and eu.");
  assert.match(told.text, /^Nothing is lost: ap and eu hold every session/);
  assert.deepEqual(told.findings, []);
  assert.equal(told.more, "");
});

test("how long nothing was heard of a region is not how old its figures are", () => {
  // Nobody has looked for a day: the figures are that old, and the region was heard 12 s ago.
  const old = { us: { reachable: false, age_ms: 86_400_000 } };
  const seen = overview({ views: old, sees: { "eu us": down(12_000), "ap us": down(14_500) } });
  assert.equal(silentFor("us", seen.regions), 12_000);
  assert.equal(silentFor("us", overview({ names: ["us"] }).regions), null);
});

test("a region that is only late is not called down", () => {
  const told = headline(killed(4_000));
  assert.equal(told.level, "warning");
  assert.equal(told.title, "us may be down: no sign of life for 4 s, seen from ap and eu.");
});

test("what has happened just now", () => {
  assert.equal(headline(killed(500)).title, "us may be down: heard just now, and not connected, seen from ap and eu.");
  const first = overview({ views: { us: { reachable: false } }, sees: { "eu us": { state: "suspect", last_seen_ms: 400 } } });
  assert.match(headline(first).title, /^us may be down/);
  const started = overview({ views: { us: { reachable: false } }, sees: { "ap us": { state: "suspect", last_seen_ms: 100 } } });
  assert.equal(headline(started).title, "us is there, and has not told eu yet how it is.");
});

test("it is the same thing while only its figures change, and another one when that changes", () => {
  assert.equal(headline(killed(12_000)).key, headline(killed(95_000)).key);
  assert.notEqual(headline(killed(4_000)).key, headline(killed(12_000)).key);
  assert.notEqual(headline(overview()).key, headline(killed(12_000)).key);
});

test("when all others are down, what one alone holds is said", () => {
  const gone = { reachable: false };
  const told = headline(overview({ views: { us: gone, ap: gone }, sees: { "eu us": down(20_000), "eu ap": down(20_000) } }));
  assert.equal(told.level, "trouble");
  assert.match(told.text, /eu holds every session and goes on serving\. While it is alone, what it takes is on its own disk only/);
  assert.equal(told.findings.length, 1);
  assert.equal(told.more, "And one more thing is not as it should be:");
});

test("a region that was never heard of", () => {
  const never = { state: "down", last_seen_ms: null };
  const told = headline(overview({ views: { us: { reachable: false, sees: [] } }, sees: { "eu us": never, "ap us": never } }));
  assert.equal(told.title, "us is down: nothing was heard of it yet, seen from ap and eu.");
});

test("a broken link between two that live, and through whom they still hear each other", () => {
  const told = headline(overview({ sees: { "ap us": down(15_000), "us ap": down(15_000) } }));
  assert.equal(told.title, "The link between ap and us is broken.");
  assert.match(told.text, /reaches the other one through eu/);
  assert.deepEqual(told.findings, []);
});

test("a broken link that nobody else is between", () => {
  const told = headline(overview({ names: ["eu", "us"], sees: { "eu us": down(15_000), "us eu": down(15_000) } }));
  assert.equal(told.title, "The link between eu and us is broken.");
  assert.match(told.text, /each goes on serving, and they exchange what they took when the link is back/);
});

test("a link that works one way only", () => {
  const told = headline(overview({ sees: { "ap us": down(15_000) } }));
  assert.equal(told.title, "ap does not hear us, though us hears ap.");
});

test("a region that has just started is not sure of the others yet, and no link is called broken", () => {
  const told = headline(overview({ views: { us: { uptime_s: 3 } }, sees: { "ap us": down(15_000) } }));
  assert.equal(told.level, "warning");
  assert.equal(told.title, "us has just started: ap and us are not both sure of each other yet.");
  const earlier = overview({ views: { us: { uptime_s: 400, age_ms: 16_000 } }, sees: { "ap us": down(15_000) } });
  assert.equal(headline(earlier).level, "well");
  const later = headline(overview({ views: { us: { uptime_s: 20 } }, sees: { "ap us": down(15_000) } }));
  assert.equal(later.level, "trouble");
});

test("a region that lives for others, and does not answer here", () => {
  const told = headline(overview({ views: { us: { reachable: false } }, sees: { "eu us": down(15_000) } }));
  assert.equal(told.level, "warning");
  assert.equal(told.title, "us lives, seen from ap, but does not tell eu how it is.");
});

test("states of a region are said in words, the worst first", () => {
  const told = headline(overview({ views: { ap: { state: "draining" }, us: { state: "storage_failed" } } }));
  assert.equal(told.level, "trouble");
  assert.equal(told.title, "us cannot use its disk.");
  assert.deepEqual(
    told.findings.map(({ title }) => title),
    ["ap is draining."],
  );
  assert.match(headline(overview({ views: { us: { state: "brooding" } } })).title, /us is not ready \(brooding\)/);
});

test("who is behind, by how much", () => {
  const late = { behind_operations: 3_210, behind_bytes: 1_200_000, behind_s: 14.2 };
  const told = headline(overview({ sees: { "eu us": late } }));
  assert.equal(told.title, "us is behind eu: 3,210 operations, 1.2 MB, the oldest 14 s old.");
  assert.equal(headline(overview({ sees: { "eu us": { ...late, behind_s: 0.4 } } })).level, "well");
  const ageless = { behind_operations: 20_000, behind_bytes: null, behind_s: null };
  assert.equal(headline(overview({ sees: { "eu us": ageless } })).title, "us is behind eu: 20,000 operations.");
});

test("clocks apart are told once for two regions, ahead or behind", () => {
  const told = headline(overview({ sees: { "eu us": { clock_offset_ms: -1_800 }, "us eu": { clock_offset_ms: 1_790 } } }));
  assert.equal(told.title, "The clocks of eu and us are 1800 ms apart.");
  assert.deepEqual(told.findings, []);
});

test("different digests matter when nothing is under way", () => {
  assert.equal(headline(overview({ sees: { "eu us": { digests: "different" } } })).title, "eu and us do not hold the same.");
  assert.equal(headline(overview({ sees: { "eu us": { digests: "different", behind_operations: 4 } } })).level, "well");
});

test("what a region says of itself is in its own words, and not twice", () => {
  const problems = [
    { code: "disk_nearly_full", text: "812 MiB are free on its disk" },
    { code: "link_down", text: "it does not hear us" },
  ];
  const told = headline(overview({ views: { ap: { problems } } }));
  assert.equal(told.level, "warning");
  assert.equal(told.title, "ap: 812 MiB are free on its disk");
  assert.deepEqual(told.findings, []);
});

test("what a region said before it died is not said of it now, and nothing is said twice", () => {
  const problems = [{ code: "disk_nearly_full", text: "812 MiB are free on its disk" }, { code: "disk_nearly_full", text: "811 MiB are free on its disk" }];
  assert.equal(headline(overview({ views: { ap: { problems } } })).findings.length, 0);
  const told = headline(overview({ views: { us: { reachable: false, problems } }, sees: { "eu us": down(12_000), "ap us": down(12_000) } }));
  assert.deepEqual([told.title, told.findings], ["us is down: no sign of life for 12 s, seen from ap and eu.", []]);
});

test("an upgrade under way is to know, and no trouble", () => {
  const told = headline(overview({ views: { us: { version: "0.2.0" } } }));
  assert.equal(told.level, "well");
  assert.equal(told.title, "All 3 regions are well.");
  assert.equal(told.findings[0].title, "Different versions run at once: ap and eu run 0.1.0 and us runs 0.2.0.");
});

test("a region that is forgotten for good is no trouble", () => {
  const told = headline(overview({ views: { us: { is_gone: true, reachable: false } }, sees: { "eu us": down(20_000), "ap us": down(20_000) } }));
  assert.equal(told.title, "All 2 regions are well.");
});

test("without contact nothing is said to be well, and what was known last stands below", () => {
  const told = headline(killed(12_000), { state: "lost", region: "eu", sinceMs: Date.now() });
  assert.equal(told.level, "unknown");
  assert.match(told.title, /^No contact with eu since \d\d:\d\d:\d\d, trying again\.$/);
  assert.equal(told.more, "It said last:");
  assert.match(told.findings[0].title, /^us is down/);
  const said = "too many operators look at this region";
  assert.equal(headline(overview(), { state: "lost", region: "eu", sinceMs: 0, said }).title, `eu tells nothing: ${said}`);
  assert.match(told.text, /Open \/admin at another region/);
  const known = overview({ views: { us: { url: "https://us.example" } } });
  assert.match(headline(known, { state: "lost", sinceMs: 0 }).text, /Another region can show the same:$/);
  assert.match(headline(null, { state: "lost", sinceMs: Date.now() }).title, /^No contact with the region/);
  assert.equal(headline(null, { state: "connecting" }).level, "unknown");
});

test("whom a finding concerns, and which is worse", () => {
  const findings = found(killed(12_000));
  assert.deepEqual(
    NAMES.map((name) => levelOf(findings, name)),
    ["well", "well", "trouble"],
  );
  assert.equal(worse("well", "warning"), "warning");
  assert.equal(worse("trouble", "unknown"), "trouble");
});
