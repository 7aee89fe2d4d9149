/** Quantities, times and lists as people read them. Nothing here touches the page. */

const NONE = "–";
const DAY_MS = 86_400_000;
const BYTES = ["B", "KB", "MB", "GB", "TB", "PB"];

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)).replace(/\.0+$|(\.\d*[1-9])0+$/, "$1");

/** A whole number with its thousands apart. */
export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en") : NONE;
}

/** `12 sessions`, `1 session`. */
export function counted(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

export function bytes(value) {
  if (!isNumber(value)) return NONE;
  let [size, unit] = [Math.max(0, value), 0];
  while (size >= 999.5 && unit < BYTES.length - 1) [size, unit] = [size / 1000, unit + 1];
  return `${unit === 0 ? count(size) : fixed(size)} ${BYTES[unit]}`;
}

/** So many in a second. */
export function rate(value) {
  if (!isNumber(value)) return NONE;
  return value === 0 ? "0 /s" : value < 0.1 ? "<0.1 /s" : `${value >= 1000 ? count(value) : fixed(value)} /s`;
}

/** What takes milliseconds, or parts of one. */
export function milliseconds(value) {
  if (!isNumber(value)) return NONE;
  if (Math.abs(value) >= 10_000) return duration(value);
  return value !== 0 && Math.abs(value) < 0.01 ? "<0.01 ms" : `${value < 0 ? "−" : ""}${fixed(Math.abs(value))} ms`;
}

/** How far a clock is ahead of another one, or behind it. */
export function offset(value) {
  if (!isNumber(value)) return NONE;
  return `${value > 0 ? "+" : ""}${milliseconds(value)}`;
}

/** The two largest units of a time in milliseconds: `12 s`, `3 min 5 s`, `2 h 4 min`, `4 days 1 h`. */
export function duration(value) {
  if (!isNumber(value)) return NONE;
  const s = Math.max(0, Math.floor(Math.abs(value) / 1000));
  const sign = value <= -1000 ? "−" : "";
  const [min, h, days] = [Math.floor(s / 60), Math.floor(s / 3600), Math.floor(s / 86_400)];
  const two = (large, small, unit) => (small === 0 ? large : `${large} ${small} ${unit}`);
  if (min === 0) return `${sign}${s} s`;
  if (h === 0) return sign + two(`${min} min`, s % 60, "s");
  if (days === 0) return sign + two(`${h} h`, min % 60, "min");
  return sign + two(days === 1 ? "1 day" : `${days} days`, h % 24, "h");
}

/** The time of day here, with its date where that is not today's. */
export function clock(atMs, nowMs = Date.now(), zone = undefined) {
  if (!isNumber(atMs)) return NONE;
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: zone };
  if (Math.abs(nowMs - atMs) > DAY_MS / 2) Object.assign(options, { year: "numeric", month: "short", day: "numeric" });
  return new Date(atMs).toLocaleString("en-GB", options);
}

/** The same for everybody, wherever they are. */
export function utc(atMs) {
  return isNumber(atMs) ? `${new Date(atMs).toISOString().slice(0, 19).replace("T", " ")} UTC` : "";
}

/** `eu`, `eu and us`, `ap, eu and us`. */
export function listed(words, last = "and") {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`;
}
