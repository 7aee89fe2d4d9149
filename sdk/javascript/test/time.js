/** Time for tests: it stands still until nothing else can happen, then the next timer rings. */

const TURNS_MAX = 10_000;

export class VirtualTime {
  #timers = [];
  nowMs = 0;
  /** The sleeps that were slept to their end, in milliseconds. */
  slept = [];

  now = () => this.nowMs;

  sleep = (ms, signal) =>
    new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const timer = { at: this.nowMs + ms, ms };
      const stop = () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
        reject(signal.reason);
      };
      timer.ring = () => {
        signal?.removeEventListener("abort", stop);
        resolve();
      };
      this.#timers.push(timer);
      signal?.addEventListener("abort", stop, { once: true });
    });

  /** How many sleeps go on. */
  get sleeping() {
    return this.#timers.length;
  }

  /** What the promise gives. */
  async run(promise) {
    let isOver = false;
    const over = () => (isOver = true);
    promise.then(over, over);
    await this.until(() => isOver);
    return promise;
  }

  /** Until the condition holds. */
  async until(isReached) {
    for (let turn = 0; turn < TURNS_MAX; turn += 1) {
      await new Promise(setImmediate);
      if (isReached()) return;
      this.#ring();
    }
    throw new Error(`not reached after ${TURNS_MAX} timers, at ${this.nowMs} ms`);
  }

  #ring() {
    if (this.#timers.length === 0) throw new Error(`nothing can happen any more, at ${this.nowMs} ms`);
    const next = this.#timers.reduce((one, other) => (other.at < one.at ? other : one));
    this.#timers = this.#timers.filter((other) => other !== next);
    this.nowMs = next.at;
    this.slept.push(next.ms);
    next.ring();
  }
}
