"use client";
/**
 * perdure: hooks for React (18 or newer). A component shows a session as it grows.
 *
 * All components that use the same session of the same client share one reader. It is opened when the
 * first of them mounts, and closed when the last one unmounts.
 */

import { useCallback, useMemo, useSyncExternalStore } from "react";

import { newView } from "./perdure.js";

/** Sessions that nobody shows any more, whose views are kept for when somebody does again. */
const IDLE_MAX = 20;
/** Of each client, its sessions by id; those that nobody shows in the order in which they were left. */
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
  return useShared(client, id, options, (view) => view);
}

/** Who is in a session. Renders when that changes, and not with every word. Options as `useSession`. */
export function usePresence(client, id, options) {
  return useShared(client, id, options, (view) => view.presence);
}

function useShared(client, id, { presence, presenceData, view } = {}, select) {
  // A component gives new objects each time that say the same.
  const data = presenceData === undefined ? undefined : JSON.stringify(presenceData);
  // What is shown until the reader says something is that of the first render.
  const first = useMemo(() => view ?? newView(id), [client, id]);
  const subscribe = useCallback(
    (changed) => shared(client, id).subscribe({ changed, presence, data, first }),
    [client, id, presence, data, first],
  );
  const now = () => sharedOf.get(client)?.get(id)?.view ?? first;
  return useSyncExternalStore(subscribe, () => select(now()), () => select(first));
}

function shared(client, id) {
  if (!sharedOf.has(client)) sharedOf.set(client, new Map());
  const sessions = sharedOf.get(client);
  if (!sessions.has(id)) sessions.set(id, new Shared(client.session(id), sessions));
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
