/**
 * The grant of this page: given by the regions of the demo to who looks at it, for two minutes, and asked
 * for again before it ends, at the first region that answers.
 */

const AGAIN_MS = 2_000;
const ANSWER_MS_MAX = 5_000;

export class Grant {
  #urls;
  #now = null;

  constructor(urls) {
    this.#urls = urls;
  }

  /** The grant to use now; null where the regions ask for none. */
  get now() {
    return this.#now;
  }

  /** Until there is one; from then on it is kept fresh. */
  async start() {
    const waitMs = (await this.#ask()) ?? AGAIN_MS;
    setTimeout(() => this.start(), waitMs);
  }

  /** When to ask again; null: no region answers. */
  async #ask() {
    for (const url of this.#urls) {
      try {
        const answer = await fetch(`${url}/demo/grant`, { signal: AbortSignal.timeout(ANSWER_MS_MAX) });
        const { grant, ttl_s: ttlS = 60 } = await answer.json();
        this.#now = grant;
        return (ttlS * 1_000) / 2;
      } catch {
        // The next region may answer.
      }
    }
    return null;
  }
}
