/** The view of what this region has on its disk. */

import { element, setFacts, Table } from "./admin_elements.mjs";
import { bytes, clock, count, milliseconds, rate, utc } from "./admin_units.mjs";

const LOG_COLUMNS = [
  { name: "From", kind: "main", text: ({ origin }) => (typeof origin === "object" ? `${origin.region} ${origin.incarnation}` : origin) },
  { name: "Records", kind: "number", text: ({ records }) => count(records) },
  { name: "Size", kind: "number", text: (log) => bytes(log.bytes) },
  { name: "Oldest", kind: "number", time: true, text: ({ oldest_ms: oldest }) => oldest },
];

const seconds = (value) => (typeof value === "number" ? milliseconds(value * 1000) : "–");
const when = (at) => (typeof at === "number" ? clock(at) : "never");

export class StorageView {
  title = "Storage";
  everyMs = 3_000;
  #calls;
  #disk = element("dl", { className: "facts" });
  #commits = element("dl", { className: "facts" });
  #sessions = element("dl", { className: "facts" });
  #logs = new Table("Logs", LOG_COLUMNS, "All that was logged is in the images of sessions, and in every region.");

  constructor({ calls, region }) {
    this.#calls = calls;
    this.element = element(
      "div",
      {},
      element("h2", { textContent: `Storage at ${region}` }),
      element("h3", { textContent: "Disk" }),
      this.#disk,
      element("h3", { textContent: "Commits" }),
      this.#commits,
      element("h3", { textContent: "Sessions" }),
      this.#sessions,
      element("h3", { textContent: "Logs, by the start of the region that was first to accept" }),
      this.#logs.element,
    );
  }

  async load(signal) {
    const found = await this.#calls.get("storage", {}, signal);
    setFacts(this.#disk, [
      ["Database", bytes(found.database_bytes)],
      ["Write-ahead log", bytes(found.wal_bytes)],
      ["Logs for peers", bytes(found.log_bytes)],
      ["Free", bytes(found.free_bytes)],
      ["Encrypted", found.encrypted ? "yes" : "no"],
      ["Last checkpoint", when(found.last_checkpoint_ms), utc(found.last_checkpoint_ms)],
      ["Last backup", when(found.last_backup_ms), utc(found.last_backup_ms)],
    ]);
    setFacts(this.#commits, [
      ["Commits", typeof found.commits === "number" ? count(found.commits) : rate(null)],
      ["Half take under", seconds(found.commit_p50_s)],
      ["99 of 100 under", seconds(found.commit_p99_s)],
      ["Writes in each", typeof found.writes_per_commit === "number" ? found.writes_per_commit.toFixed(1) : "–"],
    ]);
    setFacts(this.#sessions, [
      ["In memory", count(found.in_memory)],
      ["Not in images yet", count(found.dirty)],
      ["Left memory", count(found.evicted)],
      ["Messages sealed", count(found.sealed)],
      ["Found damaged", `${found.damaged > 0 ? "! " : ""}${count(found.damaged)}`],
      ["Not understood", `${found.undecodable > 0 ? "! " : ""}${count(found.undecodable)}`],
    ]);
    this.#logs.draw(found.logs, ({ origin }) => JSON.stringify(origin));
  }
}
