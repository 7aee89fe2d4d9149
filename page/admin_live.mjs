/** What the region tells as it happens; again and again, and honest about when it does not. */

import { Refused } from "./admin_calls.mjs";

/** Something comes every second. */
const SILENCE_MS_MAX = 5_000;
const AGAIN_MS = 1_000;
const AGAIN_MS_MAX = 5_000;

export class Live {
  #calls;
  #on;
  #stopped = null;

  /** `on`: `{overview, history, contact, refused}`, each a function of what came. */
  constructor(calls, on) {
    this.#calls = calls;
    this.#on = on;
  }

  start() {
    this.stop();
    this.#stopped = new AbortController();
    this.#run(this.#stopped.signal);
  }

  stop() {
    this.#stopped?.abort();
  }

  async #run(signal) {
    let waitMs = AGAIN_MS;
    let heardMs = null;
    let said = null;
    while (!signal.aborted) {
      try {
        for await (const { event, data } of this.#calls.events("live", signal, SILENCE_MS_MAX)) {
          if (signal.aborted) return;
          if (event === "overview") {
            [heardMs, waitMs] = [Date.now(), AGAIN_MS];
            this.#on.contact({ state: "open" });
          }
          if (event === "expired") {
            this.#on.refused({ status: 401, message: `the grant is over: ${data.reason}` });
            return;
          }
          this.#on[event]?.(data);
        }
        said = null;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Refused && [401, 403].includes(error.status)) {
          this.#on.refused(error);
          return;
        }
        said = error instanceof Refused ? error.message : null;
      }
      if (signal.aborted) return;
      heardMs ??= Date.now();
      this.#on.contact({ state: "lost", sinceMs: heardMs, said });
      await new Promise((resolve) => setTimeout(resolve, waitMs));
      waitMs = Math.min(waitMs * 1.5, AGAIN_MS_MAX);
    }
  }
}
