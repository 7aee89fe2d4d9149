/** The newest text of a session as it comes: read as any reader does, where an operator may. */

import { element, setText } from "./admin_elements.mjs";
import { Client, OutOfStep, apply, newView, statusOf } from "./perdure.js";

const MESSAGES_SHOWN = 6;
/** Of a long message its end. */
const CHARS_SHOWN = 2_000;
const AGAIN_MS = 2_000;

/** A grant without a tenant reads the sessions without one; what a tenant's people said is theirs. */
const isReadable = (session) => /^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}$/.test(session);

export class LiveText {
  #session;
  #grant;
  #reading = null;
  #view;
  #list = element("ol", { className: "text", "aria-label": "Newest messages" });
  #said = element("p", { className: "said" });
  element = element("div", {}, this.#said, this.#list);

  constructor(session, grant) {
    [this.#session, this.#grant] = [session, grant];
    setText(this.#said, isReadable(session) ? "Reading…" : "The text of a tenant's session is for that tenant's own grants, and is not shown here. What happened to it is, below.");
  }

  start() {
    if (this.#reading !== null || !isReadable(this.#session)) return;
    this.#reading = new AbortController();
    this.#view = newView(this.#session);
    this.#follow(this.#reading.signal);
  }

  stop() {
    this.#reading?.abort();
    this.#reading = null;
  }

  async #follow(signal) {
    const home = new URL(".", document.baseURI).href.replace(/\/$/, "");
    const session = new Client([home], { transport: "sse", grant: () => this.#grant.now }).session(this.#session);
    while (!signal.aborted) {
      try {
        for await (const { event, id, data } of session.events({ cursor: this.#view.cursor, signal })) {
          if (event === "signal") continue;
          this.#view = { ...apply(this.#view, event, data), cursor: id || this.#view.cursor };
          this.#draw();
        }
        setText(this.#said, "This session is deleted.");
        return;
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
