/**
 * perdure: a shared document that is edited live with Yjs, through an unmodified provider of y-websocket,
 * which is moved to another region when the one that it is connected to fails.
 */

import { PerdureError } from "./perdure.js";

/** A connection that held for so long was a good one: the next failure is the first of a new series. */
const STEADY_MS = 5_000;
/** A provider hears something every 10 s: what has not opened by then is tried elsewhere. */
const OPEN_MS_MAX = 5_000;
/** Closing codes that tell of a refusal are 4000 and its status. */
const REFUSED = 4_000;
const RETRY_STATUSES = new Set([408, 429, 500, 502, 503, 504, 507]);
/** What is refused under a code of WebSockets. */
const REFUSALS = new Map([[1003, 415], [1007, 400], [1009, 413]]);
const CODES = new Map([[400, "invalid_update"], [413, "too_large"], [415, "invalid_update"]]);

/**
 * Edit a document of a session live: `live(session.document("draft"), { WebsocketProvider, doc })`, with
 * the class of y-websocket and a `Y.Doc`, whose text is `doc.getText("text")` and whose map is
 * `doc.getMap("json")`. Other options are given to the provider. `onError` is called with what every
 * region would refuse; then nothing is tried any more.
 */
export function live(document, options) {
  return new Live(document, options);
}

/** A Yjs document in sync with one region after another. From `live`. */
export class Live {
  #document;
  #regions;
  #onError;
  #pause;
  #region;
  #since = null;
  #closing = new AbortController();
  #opening = null;

  constructor(document, { WebsocketProvider, doc, onError = () => {}, ...options }) {
    this.doc = doc;
    this.error = null;
    /** How often it has gone to another region. */
    this.moves = 0;
    this.#document = document;
    this.#regions = document.session.regions;
    this.#onError = onError;
    this.#pause = this.#regions.pause();
    this.#region = this.#regions.pick();
    const { id } = document;
    this.provider = new WebsocketProvider(this.#server(), id, doc, { ...options, connect: false });
    this.provider.on("connection-close", this.#closed);
    this.provider.on("sync", this.#synced);
    this.#connect();
  }

  /** Who is here: the provider's awareness. */
  get awareness() {
    return this.provider.awareness;
  }

  /** The URL of the region that it is in sync with; null: none. */
  get region() {
    return this.provider.synced ? this.#region : null;
  }

  /** Until it is in sync with a region; rejects with what every region would refuse. */
  synced() {
    return new Promise((resolve, reject) => {
      const { provider } = this;
      const { signal } = this.#closing;
      const settle = () => {
        if (!provider.synced && !signal.aborted) return;
        provider.off("sync", settle);
        signal.removeEventListener("abort", settle);
        if (provider.synced) resolve();
        else reject(signal.reason);
      };
      provider.on("sync", settle);
      signal.addEventListener("abort", settle);
      settle();
    });
  }

  /** Leave. What was edited while no region was in reach stays in the `Y.Doc` alone. */
  close() {
    this.#end(new Error("it was left"));
    this.provider.destroy();
  }

  #end(why) {
    this.#closing.abort(why);
    this.#opening?.abort();
    this.provider.off("connection-close", this.#closed);
    this.provider.off("sync", this.#synced);
    this.provider.shouldConnect = false;
  }

  #server() {
    const { path, id } = this.#document;
    return this.#region.replace(/^http/, "ws") + path.slice(0, -id.length - 1);
  }

  /** As a browser sends it: the grant goes among the protocols. */
  async #connect() {
    const { provider } = this;
    try {
      const grant = await this.#regions.granted();
      if (this.#closing.signal.aborted) return;
      provider.protocols = ["perdure.v1", ...(grant ? [`bearer.${grant}`] : [])];
      provider.serverUrl = this.#server();
      provider.connect();
      await this.#open();
    } catch (error) {
      this.#fail(error);
    }
  }

  /** A region that takes the connection and says nothing is no region. */
  async #open() {
    this.#opening?.abort();
    const { signal } = (this.#opening = new AbortController());
    const isLate = await this.#regions.sleep(OPEN_MS_MAX, signal).then(() => true, () => false);
    if (isLate && !this.provider.synced) this.provider.ws?.close();
  }

  #synced = (isSynced) => {
    if (!isSynced) return;
    this.#opening?.abort();
    this.#since = this.#regions.now();
    this.#regions.worked(this.#region);
  };

  #closed = (event) => {
    const wasSynced = this.#since !== null;
    // The provider would come back to the same region by itself.
    this.provider.shouldConnect = false;
    this.#opening?.abort();
    this.#next(event ?? {}, wasSynced).catch((error) => this.#fail(error));
  };

  async #next({ code = 0, reason = "" }, wasSynced) {
    const { signal } = this.#closing;
    const refusal = refusalOf(code, reason);
    if (refusal !== null) throw refusal;
    // Why a handshake was refused, a browser does not say: the region says the same of a read.
    if (!wasSynced) await this.#checked(signal);
    if (wasSynced && this.#regions.now() - this.#since >= STEADY_MS) this.#pause = this.#regions.pause();
    this.#since = null;
    this.#regions.failed(this.#region);
    await this.#regions.sleep(this.#pause.nextMs(), signal);
    const next = this.#regions.pick(this.#region);
    if (next !== this.#region) this.moves += 1;
    this.#region = next;
    await this.#connect();
  }

  async #checked(signal) {
    try {
      await this.#regions.once(this.#region, "GET", this.#document.path, { signal });
    } catch (error) {
      // The document is not there yet, which is no reason.
      if (error.code !== "not_found") throw error;
    }
  }

  #fail(error) {
    if (this.#closing.signal.aborted) return;
    this.error = error;
    this.#end(error);
    this.#onError(error);
  }
}

/** The refusal of which a closing code tells; null where it can be tried elsewhere. */
function refusalOf(code, reason) {
  const status = REFUSALS.get(code) ?? code - REFUSED;
  if (status < 400 || RETRY_STATUSES.has(status)) return null;
  const detail = `the region does not take the document as it is edited here: ${reason || status}`;
  return new PerdureError({ code: CODES.get(status) ?? (reason || "internal"), status, detail });
}
