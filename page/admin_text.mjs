/** The newest text of a session as it comes, of any tenant: that it is read is in the audit log. */

import { element, setText } from "./admin_elements.mjs";
import { OutOfStep, apply, newView, statusOf } from "./perdure.js";

const MESSAGES_SHOWN = 6;
/** Of a long message its end. */
const CHARS_SHOWN = 2_000;
const AGAIN_MS = 2_000;
/** Longer than the time between two keep-alives. */
const SILENCE_MS_MAX = 45_000;

export class LiveText {
  #session;
  #calls;
  #reading = null;
  #view;
  #list = element("ol", { className: "text", "aria-label": "Newest messages" });
  #said = element("p", { className: "said" });
  element = element("div", {}, this.#said, this.#list);

  constructor(session, calls) {
    [this.#session, this.#calls] = [session, calls];
    setText(this.#said, "Reading…");
  }

  start() {
    if (this.#reading !== null) return;
    this.#reading = new AbortController();
    this.#view = newView(this.#session);
    this.#follow(this.#reading.signal);
  }

  stop() {
    this.#reading?.abort();
    this.#reading = null;
  }

  async #follow(signal) {
    const path = `sessions/${encodeURIComponent(this.#session)}/events`;
    while (!signal.aborted) {
      try {
        const events = this.#calls.events(path, signal, SILENCE_MS_MAX, { cursor: this.#view.cursor });
        for await (const { event, id, data } of events) {
          if (event === "signal" || event === "expired" || event === "reconnect") continue;
          this.#view = { ...apply(this.#view, event, data), cursor: id || this.#view.cursor };
          this.#draw();
          if (event !== "deleted") continue;
          setText(this.#said, "This session is deleted.");
          return;
        }
        // The region has ended it, so that it is asked for again.
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof OutOfStep) this.#view = { ...this.#view, cursor: null };
        else setText(this.#said, `It cannot be read: ${error.message}`);
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    }
  }

  #draw() {
    const shown = this.#view.messages.slice(-MESSAGES_SHOWN);
    setText(this.#said, shown.length === 0 ? "Nothing was said yet." : "");
    while (this.#list.children.length > shown.length) this.#list.firstChild.remove();
    while (this.#list.children.length < shown.length) this.#list.append(element("li", {}, element("p", { className: "by" }), element("p", { className: "quote" })));
    shown.forEach((message, index) => {
      const [by, quote] = this.#list.children[index].children;
      setText(by, `${message.author ?? message.role} · ${message.id} · ${statusOf(this.#view, message)}`);
      setText(quote, message.text.length > CHARS_SHOWN ? `… ${message.text.slice(-CHARS_SHOWN)}` : message.text);
    });
  }
}
