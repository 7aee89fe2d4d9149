/** The view of the connections of this region, those first that are furthest behind. */

import { button, element, setText, Table } from "./admin_elements.mjs";
import { bytes, count, counted } from "./admin_units.mjs";
import { addressOf } from "./admin_sessions.mjs";

const LIMIT = 100;
/** So much waiting is more than a reader that keeps up ever has. */
const WAITING_BYTES = 65_536;
const WAITING_EVENTS = 64;
const KINDS = { sse: "SSE", websocket: "WebSocket", poll: "poll", stream: "producer's stream", work: "agent's feed", document: "shared document" };

/** How much it is behind, as a level. */
export function waitingLevel({ waiting_events: events, waiting_bytes: size }) {
  return events > WAITING_EVENTS || size > WAITING_BYTES ? "warning" : "well";
}

export class ConnectionsView {
  title = "Connections";
  everyMs = 2_000;
  #calls;
  #table;
  #said = element("p", { className: "said", role: "status" });

  constructor({ calls, actions, again, region }) {
    this.#calls = calls;
    this.#table = new Table("Connections, the slowest first", columns((connection) => actions.disconnect(connection, again)), "Nobody is connected.");
    this.element = element(
      "div",
      {},
      element("h2", { textContent: `Connections at ${region}` }),
      element("p", { className: "said", textContent: "Who does not take what waits for it stands first. Those of other regions are shown by their own pages." }),
      this.#said,
      this.#table.element,
    );
  }

  async load(signal) {
    const { connections } = await this.#calls.get("connections", { sort: "slowest", limit: LIMIT }, signal);
    const slow = connections.filter((connection) => waitingLevel(connection) !== "well").length;
    const size = connections.length < LIMIT ? counted(connections.length, "connection") : `the slowest ${LIMIT} connections`;
    setText(this.#said, connections.length === 0 ? "" : `${size}; ${slow === 0 ? "all keep up" : `${counted(slow, "of them does", "of them do")} not keep up`}.`);
    this.#table.draw(connections, ({ id }) => id);
  }
}

function columns(disconnect) {
  return [
    { name: "Waiting", kind: "nowrap", text: ({ waiting_events: events, waiting_bytes: size }) => `${counted(events, "event")}, ${bytes(size)}`, level: waitingLevel },
    { name: "Who", kind: "main", text: ({ subject, member }) => member ?? subject ?? "anybody" },
    { name: "Kind", text: ({ kind }) => KINDS[kind] ?? kind },
    { name: "Session", kind: "id", text: () => "", node: ({ session }) => (session ? element("a", { textContent: session, href: addressOf(session) }) : element("span", { textContent: "–" })) },
    { name: "Address", text: ({ address }) => address ?? "–" },
    { name: "Since", time: true, text: ({ since_ms: since }) => since },
    { name: "Sent", kind: "number", text: ({ sent_events: sent }) => count(sent) },
    { name: "Last taken", time: true, text: ({ last_taken_ms: taken }) => taken },
    { name: "Action", kind: "act", text: () => "", node: (connection) => button("Disconnect…", () => disconnect(connection)) },
  ];
}
