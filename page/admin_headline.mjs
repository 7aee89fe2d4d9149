/**
 * What an operator should know first: whether every region is well, which one is not, and why, in words.
 * It is found out of an overview alone, so nothing here touches the page.
 *
 * A finding is `{level, key, regions, title, text}`; levels, the worst first: `trouble`, `warning`, `note`.
 * `key` stays the same while it is the same thing, whatever its figures.
 */

import { bytes, clock, counted, duration, listed, milliseconds } from "./admin_units.mjs";

const LEVELS = ["trouble", "unknown", "warning", "note", "well"];
/** Regions whose clocks are further apart say so: times of messages come from them. */
const CLOCK_OFFSET_MS_MAX = 500;
export const BEHIND_S_MAX = 5;
/** While the age is not known. */
const BEHIND_OPERATIONS_MAX = 10_000;
/** A region is called down after so long without a sign of life. */
const DOWN_S = 10;
/** Who was heard so shortly ago has no silence to speak of. */
const SOON_MS = 1_000;
/** Regions are asked every two seconds how they are: what is older than this is old. */
const VIEW_MS_MAX = 6_000;
/** A region that runs for less than this has just started. */
const STARTED_S = 15;
/** Problems of the region's own words that are found here already, from what the regions see. */
const FOUND_HERE = new Set(["link_down", "link_suspect", "unreachable", "behind", "clocks_apart", "different", "starting", "draining", "catching_up", "storage_failed", "name_in_use"]);
/** Others that need nobody to do something now. */
const NOTES = new Set(["old_wire", "not_erased"]);

const rank = ({ level }) => LEVELS.indexOf(level);

/** The worse of two levels. */
export function worse(one, other) {
  return LEVELS.indexOf(one) <= LEVELS.indexOf(other) ? one : other;
}

/**
 * The headline: `{level, key, title, text, findings}`. `contact`: `{state: "open"|"connecting"|"lost",
 * region, sinceMs, said}`, how it stands with the region that tells all this; `said`: why it refuses.
 */
export function headline(overview, contact = { state: "open" }) {
  if (contact.state === "lost") return lost(overview, contact);
  if (overview === null) return { level: "unknown", key: "connecting", title: "Asking the region…", text: "", findings: [] };
  const findings = found(overview);
  const [first] = findings;
  const regions = overview.regions.filter(({ is_gone: isGone }) => !isGone);
  if (first === undefined || first.level === "note") return well(regions, findings);
  const more = findings.filter((finding) => finding !== first && finding.level !== "note").length;
  return {
    level: first.level,
    key: findings.map(({ key }) => key).join(" "),
    title: first.title,
    text: first.text,
    more: more === 0 ? "" : `And ${more === 1 ? "one more thing is" : `${more} more things are`} not as it should be:`,
    findings: findings.slice(1),
  };
}

function lost(overview, { region, sinceMs, said }) {
  const name = region ?? overview?.region ?? "the region";
  const findings = overview === null ? [] : found(overview);
  const before = { level: "unknown", more: findings.length === 0 ? "" : "It said last:", findings };
  if (said) return { ...before, key: `refused:${said}`, title: `${name} tells nothing: ${said}`, text: "It is asked again every few seconds." };
  return { ...before, key: "lost", title: `No contact with ${name} since ${clock(sinceMs)}, trying again.`, text: lostText(overview, name) };
}

function lostText(overview, name) {
  if (overview === null) return "Either it is down, or your way to it is. Nothing is known of the other regions from here.";
  const others = overview.regions.some((view) => view.url && !view.is_gone && view.region !== overview.region);
  const elsewhere = others ? "Another region can show the same:" : "Open /admin at another region to see the same from there.";
  return `Either ${name} is down, or your way to it is. All that stands below is what it said last, and may be out of date. ${elsewhere}`;
}

function well(regions, findings) {
  const [only] = regions;
  return {
    level: "well",
    key: ["well", ...findings.map(({ key }) => key)].join(" "),
    title: regions.length === 1 ? `${only.region} is well. It is the only region.` : `All ${regions.length} regions are well.`,
    text:
      regions.length === 1
        ? "What it acknowledges is on its disk, and nowhere else."
        : `${listed(regions.map(({ region }) => region))} see each other, are in step and serve everybody.`,
    more: "",
    findings,
  };
}

/** All findings, the worst first. */
export function found(overview) {
  const regions = overview.regions.filter(({ is_gone: isGone }) => !isGone);
  const findings = [
    ...regions.flatMap((region) => reached(region, regions, overview)),
    ...linksBroken(regions),
    ...regions.flatMap((region) => [...stateOf(region), ...lagging(region, regions), ...said(region)]),
    ...clocks(regions),
    ...digests(regions),
    ...versions(regions),
  ];
  const once = findings.filter(({ key }, index) => findings.findIndex((other) => other.key === key) === index);
  return once.sort((one, other) => rank(one) - rank(other));
}

/** How it is with a region in all: the worst that was found of it. */
export function levelOf(findings, region) {
  return findings.filter(({ regions }) => regions.includes(region)).reduce((level, finding) => worse(level, finding.level), "well");
}

/** How the others see a region: `[{by, see}]`, as far as they tell it now. */
function seenBy(name, regions) {
  return regions
    .filter(({ region, reachable }) => region !== name && reachable)
    .map(({ region, sees }) => ({ by: region, see: sees.find((see) => see.region === name) }))
    .filter(({ see }) => see !== undefined);
}

/** How long nothing was heard of a region by any other; null where nobody knows. Its own figures may be older: it is asked for them while somebody looks. */
export const silentFor = (name, regions) => silence(seenBy(name, regions));

/** The last sign of life that any other region had, as its age. */
function silence(seen) {
  const ages = seen.map(({ see }) => see.last_seen_ms).filter((age) => age !== null && age !== undefined);
  return ages.length === 0 ? null : Math.min(...ages);
}

function reached({ region: name, reachable }, regions, overview) {
  if (reachable) return [];
  const seen = seenBy(name, regions);
  const by = listed(seen.map((one) => one.by).sort());
  const silent = silence(seen);
  const heard = silent === null ? "nothing was heard of it yet" : silent < SOON_MS ? "heard just now, and not connected" : `no sign of life for ${duration(silent)}`;
  const others = regions.filter((other) => other.region !== name && other.reachable).map(({ region }) => region);
  const isSuspectHere = seen.some(({ by: one, see }) => one === overview.region && see.state === "suspect");
  if (!isSuspectHere && seen.some(({ see }) => see.state === "up")) return unanswered(name, seen, overview);
  if (seen.some(({ see }) => see.state === "suspect"))
    return [
      {
        level: "warning",
        key: `suspect:${name}`,
        regions: [name],
        title: `${name} may be down: ${heard}, seen from ${by}.`,
        text: `It is called down after ${DOWN_S} s. Until then nothing has to be done.`,
      },
    ];
  return [
    {
      level: "trouble",
      key: `down:${name}`,
      regions: [name],
      title: `${name} is down: ${heard}, seen from ${by}.`,
      text: downText(name, others),
    },
  ];
}

function downText(name, others) {
  const go = others.length === 1 ? `${others[0]} holds every session and goes on serving. While it is alone, what it takes is on its own disk only` : `${listed(others)} hold every session and go on serving`;
  return `Nothing is lost: ${go}. What ${name} had acknowledged and not yet passed on is on its disk, and comes when it is back. Look at its machine and at the network there.`;
}

/** The others hear of it, and it answers no question. */
function unanswered(name, seen, { region }) {
  if (seen.some(({ by, see }) => by === region && see.state === "up"))
    return [
      {
        level: "warning",
        key: `untold:${name}`,
        regions: [name],
        title: `${name} is there, and has not told ${region} yet how it is.`,
        text: "That is so for a moment when it has just started. If it stays so, it is busy, or of an older version.",
      },
    ];
  const by = listed(seen.filter(({ see }) => see.state === "up").map((one) => one.by).sort());
  return [
    {
      level: "warning",
      key: `unanswered:${name}`,
      regions: [name],
      title: `${name} lives, seen from ${by}, but does not tell ${region} how it is.`,
      text: `It is cut off from ${region}, and not from all. What stands below of ${name} is what was known last.`,
    },
  ];
}

/** Links that are broken between regions that both live. */
function linksBroken(regions) {
  const findings = [];
  // What a region said long ago, perhaps in an earlier life, is not how it sees the others now.
  const alive = regions.filter(({ reachable, age_ms: ageMs }) => reachable && !(ageMs > VIEW_MS_MAX));
  const state = (one, other) => one.sees.find((see) => see.region === other.region)?.state ?? "up";
  for (const [index, one] of alive.entries())
    for (const other of alive.slice(index + 1)) {
      const [there, back] = [state(one, other), state(other, one)];
      if (there === "up" && back === "up") continue;
      const started = [one, other].find(({ uptime_s: uptime }) => uptime < STARTED_S);
      if (started !== undefined) {
        findings.push(notYet(one.region, other.region, started.region));
        continue;
      }
      const isDown = there === "down" || back === "down";
      const between = alive.filter((third) => third !== one && third !== other && state(one, third) === "up" && state(other, third) === "up");
      findings.push({
        level: isDown ? "trouble" : "warning",
        key: `link:${one.region}:${other.region}`,
        regions: [one.region, other.region],
        title: linkTitle(one.region, other.region, there, back, isDown),
        text:
          between.length > 0
            ? `Nothing is lost: what each of them takes reaches the other one through ${listed(between.map(({ region }) => region), "or")}. Look at the network between them.`
            : "Nothing is lost: each goes on serving, and they exchange what they took when the link is back. Until then readers at one do not see what is written at the other.",
      });
    }
  return findings;
}

/** What one of them said before the other had started is no state of their link now. */
function notYet(one, other, started) {
  return {
    level: "warning",
    key: `started:${one}:${other}`,
    regions: [started],
    title: `${started} has just started: ${one} and ${other} are not both sure of each other yet.`,
    text: "That takes some seconds.",
  };
}

function linkTitle(one, other, there, back, isDown) {
  const how = isDown ? "is broken" : "is interrupted";
  if (there !== "up" && back !== "up") return `The link between ${one} and ${other} ${how}.`;
  const [deaf, heard] = there === "up" ? [other, one] : [one, other];
  return isDown ? `${deaf} does not hear ${heard}, though ${heard} hears ${deaf}.` : `${deaf} does not hear ${heard} just now.`;
}

const STATES = {
  storage_failed: ["trouble", "cannot use its disk.", "It takes no writes, and clients go to another region. What it had acknowledged before is on the disk and, but for the last moments, in the other regions. Free or replace the disk, then start it again."],
  name_in_use: ["trouble", "is running twice: another process has this name.", "The newer one refuses to serve. Stop the one that should not run."],
  catching_up: ["warning", "is catching up.", "It fetches what it does not hold yet from the others, and takes clients when it has it. Nothing has to be done."],
  starting: ["note", "is starting.", "It takes clients in a moment."],
  draining: ["warning", "is draining.", "Its clients are sent to the other regions and it takes no new ones, because somebody asked for that."],
};

function stateOf({ region, state, reachable }) {
  if (!reachable || state === null || state === undefined) return [];
  const [level, title, text] = STATES[state] ?? ["warning", `is not ready (${state}).`, "It does not take clients now."];
  return [{ level, key: `${state}:${region}`, regions: [region], title: `${region} ${title}`, text }];
}

/** Regions that have not confirmed what others sent them a while ago. */
function lagging({ region: name, reachable }, regions) {
  if (!reachable) return [];
  const late = seenBy(name, regions).filter(({ see }) => {
    if (see.state !== "up") return false;
    return see.behind_s === null || see.behind_s === undefined ? see.behind_operations > BEHIND_OPERATIONS_MAX : see.behind_s > BEHIND_S_MAX;
  });
  if (late.length === 0) return [];
  const worst = late.reduce((one, other) => ((other.see.behind_s ?? 0) > (one.see.behind_s ?? 0) ? other : one));
  const { behind_operations: operations, behind_bytes: size, behind_s: seconds } = worst.see;
  const figures = [
    counted(operations, "operation"),
    ...(typeof size === "number" ? [bytes(size)] : []),
    ...(typeof seconds === "number" ? [`the oldest ${duration(seconds * 1000)} old`] : []),
  ];
  return [
    {
      level: "warning",
      key: `behind:${name}`,
      regions: [name],
      title: `${name} is behind ${listed(late.map(({ by }) => by).sort())}: ${figures.join(", ")}.`,
      text: `Readers at ${name} see what is written elsewhere so much later. Nothing is lost: it is kept where it was written until ${name} has it.`,
    },
  ];
}

/** What the region itself says that is not seen from outside: its disk, what it could not erase … */
function said({ region, reachable, problems }) {
  return (problems ?? [])
    .filter(({ code }) => reachable && !FOUND_HERE.has(code))
    .map(({ code, text, level }) => ({
      level: LEVELS.includes(level) ? level : NOTES.has(code) ? "note" : "warning",
      key: `${code}:${region}`,
      regions: [region],
      title: text.includes(region) ? text : `${region}: ${text}`,
      text: "",
    }));
}

function clocks(regions) {
  const apart = new Map();
  for (const { region, sees, reachable } of regions)
    for (const see of reachable ? sees : []) {
      const offset = Math.abs(see.clock_offset_ms ?? 0);
      const pair = [region, see.region].sort().join(" and ");
      if (see.state === "up" && offset > CLOCK_OFFSET_MS_MAX) apart.set(pair, Math.max(offset, apart.get(pair) ?? 0));
    }
  return [...apart].map(([pair, offset]) => ({
    level: "warning",
    key: `clocks:${pair}`,
    regions: pair.split(" and "),
    title: `The clocks of ${pair} are ${milliseconds(offset)} apart.`,
    text: "No token is lost by that; new messages may stand in an unexpected order. See to NTP on both machines.",
  }));
}

function digests(regions) {
  const differ = new Set();
  for (const { region, sees, reachable } of regions)
    for (const see of reachable ? sees : [])
      if (see.state === "up" && see.digests === "different" && see.behind_operations === 0) differ.add([region, see.region].sort().join(" and "));
  return [...differ].map((pair) => ({
    level: "warning",
    key: `digests:${pair}`,
    regions: pair.split(" and "),
    title: `${pair} do not hold the same.`,
    text: "They compare what they hold by themselves and fetch what differs. Verify compares now; if it still differs after some minutes, that is a fault to report.",
  }));
}

function versions(regions) {
  const running = new Map();
  for (const { region, version, reachable } of regions) if (reachable && version) running.set(version, [...(running.get(version) ?? []), region]);
  if (running.size < 2) return [];
  const parts = [...running].map(([version, names]) => `${listed(names)} ${names.length === 1 ? "runs" : "run"} ${version}`);
  return [
    {
      level: "note",
      key: "versions",
      regions: [],
      title: `Different versions run at once: ${listed(parts)}.`,
      text: "That is so during an upgrade, and does no harm.",
    },
  ];
}
