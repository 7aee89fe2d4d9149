"use client";
/**
 * perdure: hooks for React (18 or newer). A component shows a session as it grows.
 *
 * All components that use the same session of the same client share one reader. It is opened when the
 * first of them mounts, and closed when the last one unmounts.
 */

import { useCallback, useEffect, useMemo, useState, useSyncExternalStore } from "react";

import { newView } from "./perdure.js";

/** Sessions that nobody shows any more, whose views are kept for when somebody does again. */
const IDLE_MAX = 20;
/** Of each client, by its regions, its sessions by id; those that nobody shows in the order in which they were left. */
const sharedOf = new WeakMap();

/**
 * The view of a session, a new one when it has grown (see `Session.read`). `presence`: the member that
 * is here as long as the component is, with `presenceData`; of several components that give one, the
 * newest counts. `view`: show this one at first, and go on from it: on the server, and where the page
 * that the server made comes to life.
 *
 * What every region would refuse is thrown from the render, to the next error boundary.
 */
export function useSession(client, id, options) {
  return useShared(client, id, options, (view) => view, () => client.session(id));
}

/** Who is in a session. Renders when that changes, and not with every word. Options as `useSession`. */
export function usePresence(client, id, options) {
  return useShared(client, id, options, (view) => view.presence, () => client.session(id));
}

/**
 * A shared document of a session, `{id, text, json, version}`, a new one when it has changed; null: it is
 * not there, not yet or no more. Shares the reader of `useSession` and `usePresence`.
 */
export function useDocument(session, id) {
  const { regions } = session;
  const [version, region] = useDocumentVersion(session, id);
  const [read, setRead] = useState({ value: null, error: null });
  useEffect(() => {
    if (version === undefined) return setRead({ value: null, error: null });
    const reading = new AbortController();
    const { signal } = reading;
    // At the region that told of it: another may not have been told yet.
    session.document(id).read({ first: region, signal }).then(
      (value) => signal.aborted || setRead({ value, error: null }),
      (error) => signal.aborted || setRead({ value: null, error: isGone(error) ? null : error }),
    );
    return () => reading.abort(new Error("it has changed"));
  }, [regions, session.id, id, version]);
  if (read.error !== null) throw read.error;
  return read.value;
}

function isGone({ code }) {
  return code === "not_found" || code === "deleted";
}

/** Which version of a document a session's reader was told of last, and by which region. */
function useDocumentVersion(session, id) {
  const version = useShared(session, session.id, {}, (view) => view.documents?.[id], () => session);
  const region = sharedOf.get(session.regions)?.get(session.id)?.newest?.region ?? undefined;
  return [version, region];
}

function useShared({ regions }, id, { presence, presenceData, view } = {}, select, session) {
  // A component gives new objects each time that say the same.
  const data = presenceData === undefined ? undefined : JSON.stringify(presenceData);
  // What is shown until the reader says something is that of the first render.
  const first = useMemo(() => view ?? newView(id), [regions, id]);
  const subscribe = useCallback(
    (changed) => shared(regions, id, session).subscribe({ changed, presence, data, first }),
    [regions, id, presence, data, first],
  );
  const now = () => sharedOf.get(regions)?.get(id)?.view ?? first;
  return useSyncExternalStore(subscribe, () => select(now()), () => select(first));
}

function shared(regions, id, session) {
  if (!sharedOf.has(regions)) sharedOf.set(regions, new Map());
  const sessions = sharedOf.get(regions);
  if (!sessions.has(id)) sessions.set(id, new Shared(session(), sessions));
  return sessions.get(id);
}

/** One session for all components that show it. */
class Shared {
  #session;
  #sessions;
  #listeners = new Set();
  #view = null;
  #newest = null;
  #error = null;
  #timer = null;
  // The reader that is open, and for which member.
  #reading = null;

  constructor(session, sessions) {
    this.#session = session;
    this.#sessions = sessions;
  }

  /** The view that is shown now; null: none has come yet. Throws what ended the reader. */
  get view() {
    if (this.#error !== null) throw this.#error;
    return this.#view;
  }

  /** The view that has come last, shown or not. */
  get newest() {
    return this.#newest;
  }

  /** Show it to one more, `changed` being called with each new view; a function that ends this. */
  subscribe(listener) {
    this.#listeners.add(listener);
    if (this.#newest === null && listener.first.cursor !== null) this.#newest = this.#view = listener.first;
    this.#settleSoon();
    return () => {
      this.#listeners.delete(listener);
      this.#settleSoon();
    };
  }

  /** Not at once: React takes a component away and puts it back when what it asks for changes. */
  #settleSoon() {
    queueMicrotask(() => this.#settle());
  }

  #settle() {
    const listeners = [...this.#listeners];
    if (listeners.length === 0) return this.#rest();
    const { presence, data } = listeners.findLast((one) => one.presence !== undefined) ?? {};
    const key = JSON.stringify([presence, data]);
    if (this.#reading?.key === key || this.#error !== null) return;
    this.#reading?.abort.abort();
    this.#reading = { key, abort: new AbortController() };
    // Used again: it is no longer among those that may be forgotten.
    this.#sessions.delete(this.#session.id);
    this.#sessions.set(this.#session.id, this);
    const presenceData = data === undefined ? undefined : JSON.parse(data);
    this.#read(this.#reading.abort.signal, { presence, presenceData });
  }

  async #read(signal, bound) {
    try {
      for await (const view of this.#session.read({ view: this.#newest ?? undefined, signal, ...bound })) {
        if (signal.aborted) return;
        this.#newest = view;
        this.#showSoon();
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#error = error;
      this.#showSoon();
    }
  }

  /** What comes at once is shown at once, and not event by event. */
  #showSoon() {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#view = this.#newest;
      for (const { changed } of [...this.#listeners]) changed();
    }, 0);
  }

  /** Nobody shows it any more. */
  #rest() {
    this.#reading?.abort.abort();
    this.#reading = null;
    this.#error = null;
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#view = this.#newest;
    this.#sessions.delete(this.#session.id);
    this.#sessions.set(this.#session.id, this);
    const idle = [...this.#sessions.values()].filter((one) => one.#reading === null);
    for (const one of idle.slice(0, -IDLE_MAX)) this.#sessions.delete(one.#session.id);
  }
}
