/** What an operator does: said in words and confirmed first, then answered in the region's own words. */

import { button, element, setText } from "./admin_elements.mjs";
import { counted, duration, listed } from "./admin_units.mjs";

/** Of what differs, so many are named. */
const SHOWN_MAX = 10;

/** One question at a time, in a dialog that also shows how it went. */
class Question {
  #dialog;
  #title = element("h2", { id: "question-title" });
  #text = element("p", { id: "question-text" });
  #typed = element("input", { id: "question-typed", autocomplete: "off", spellcheck: false, maxLength: 64 });
  #label = element("label", { htmlFor: "question-typed" });
  #said = element("p", { className: "result", role: "status" });
  #yes = button("", () => this.#do());
  #no = button("Leave it", () => this.#dialog.close());
  #asked = null;

  constructor(dialog) {
    this.#dialog = dialog;
    const form = element("form", { method: "dialog" }, this.#title, this.#text, this.#label, this.#typed, this.#said, element("p", { className: "actions" }, this.#no, this.#yes));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#yes.disabled && !this.#yes.hidden) this.#do();
    });
    this.#typed.addEventListener("input", () => this.#check());
    dialog.append(form);
  }

  /** `asked`: `{title, text, yes, isDanger, typed, act() -> what happened, in words}`. */
  ask(asked) {
    this.#asked = asked;
    setText(this.#title, asked.title);
    setText(this.#text, asked.text);
    setText(this.#yes, asked.yes);
    setText(this.#no, "Leave it");
    setText(this.#said, "");
    setText(this.#label, asked.typed ? `Type “${asked.typed}” to confirm:` : "");
    delete this.#said.dataset.level;
    this.#yes.className = asked.isDanger ? "danger" : "go";
    this.#typed.value = "";
    this.#typed.hidden = this.#label.hidden = asked.typed === undefined;
    this.#yes.hidden = false;
    this.#check();
    if (!this.#dialog.open) this.#dialog.showModal();
    (asked.typed ? this.#typed : this.#no).focus();
  }

  #check() {
    this.#yes.disabled = this.#asked.typed !== undefined && this.#typed.value !== this.#asked.typed;
  }

  async #do() {
    const asked = this.#asked;
    this.#yes.disabled = true;
    setText(this.#said, "Asking the region…");
    let [level, text] = ["well", ""];
    try {
      const answer = await asked.act();
      [level, text] = typeof answer === "string" ? ["well", answer] : answer;
    } catch (error) {
      const code = error.code ? ` (${error.code})` : "";
      [level, text] = ["trouble", `It was not done: ${error.message}${code}`];
    }
    if (this.#asked !== asked) return;
    this.#said.dataset.level = level;
    setText(this.#said, text);
    setText(this.#no, "Close");
    this.#yes.hidden = this.#typed.hidden = this.#label.hidden = true;
    this.#no.focus();
  }
}

export class Actions {
  #calls;
  #question;

  constructor(calls, dialog) {
    this.#calls = calls;
    this.#question = new Question(dialog);
  }

  drain(region, isUndo) {
    this.#question.ask({
      title: isUndo ? `End the drain of ${region}?` : `Drain ${region}?`,
      text: isUndo
        ? `${region} takes clients again. Those that went to other regions stay there until they connect anew.`
        : `${region} says that it is not ready, takes no new clients and sends those that it has to the other regions, where they go on without losing a token. It stays up until you stop it, or end the drain here.`,
      yes: isUndo ? "End the drain" : `Drain ${region}`,
      act: async () => {
        const { flushed } = await this.#calls.act("POST", "drain", { undo: isUndo });
        if (isUndo) return `${region} takes clients again.`;
        if (flushed === false) return ["warning", `${region} is draining. Some of what it had accepted is not in another region yet: look again before it is stopped.`];
        return `${region} is draining, and all that it had accepted is in another region too. When it has no readers left, it can be stopped.`;
      },
    });
  }

  forget(region, silentMs) {
    const silent = typeof silentMs === "number" ? ` Nothing was heard of it for ${duration(silentMs)}.` : "";
    this.#question.ask({
      title: `Forget ${region} for good?`,
      text: `The other regions stop waiting for ${region} and let go of what they kept for it.${silent} What it alone had acknowledged and never passed on is lost, and it cannot come back: a new region in its place needs an empty disk and another name. Do this only if it never returns.`,
      yes: "Forget it for good",
      isDanger: true,
      typed: region,
      act: async () => {
        await this.#calls.act("POST", `regions/${encodeURIComponent(region)}/forget`, { confirm: region });
        return `${region} is forgotten. Take it out of the configuration of the other regions too.`;
      },
    });
  }

  cancel(session, message, again) {
    this.#question.ask({
      title: "Cancel this run?",
      text: `Nothing more is taken of ${message}, in any region, and its agent is told. The text that is there stays. This cannot be undone; it can be asked for anew.`,
      yes: "Cancel the run",
      isDanger: true,
      act: async () => {
        const answer = await this.#calls.act("POST", `sessions/${encodeURIComponent(session)}/cancel`, { message });
        again();
        return answer.status ? `It is ${answer.status}.` : "It is cancelled.";
      },
    });
  }

  disconnect({ id, kind, subject, member, session }, again) {
    this.#question.ask({
      title: `Disconnect ${member ?? subject ?? "this client"}?`,
      text: `This closes ${kind === "sse" ? "the SSE stream" : `the connection (${kind})`}${session ? ` to ${session}` : ""}. The client connects again by itself and goes on where it was: it loses nothing, and what waited for it here is let go. To keep somebody out, revoke the grant.`,
      yes: "Disconnect",
      act: async () => {
        await this.#calls.act("POST", `connections/${encodeURIComponent(id)}/disconnect`, {});
        again();
        return "It is disconnected.";
      },
    });
  }

  /** `session` null: everything. */
  verify(session) {
    this.#question.ask({
      title: session === null ? "Compare all regions?" : "Compare this session?",
      text: `Every region that can be reached is asked for the digests of ${session === null ? "all that it holds" : session}. This changes nothing; with very many sessions it takes some seconds.`,
      yes: "Compare now",
      act: async () => outcome(await this.#calls.act("POST", "verify", session === null ? {} : { session })),
    });
  }

  save(session) {
    this.#question.ask({
      title: "Export this session?",
      text: `All of ${session}, with what people and agents wrote in it, is saved by this browser as lines of JSON. It is noted in the audit log that you did.`,
      yes: "Export",
      act: async () => {
        await this.#calls.save(`sessions/${encodeURIComponent(session)}/export`, `${session.replaceAll(":", "_")}.ndjson`);
        return "It is saved with your downloads.";
      },
    });
  }
}

/** The answer of `verify` in words, with its level. */
export function outcome({ regions = {}, sessions, different = [] }) {
  const those = (state) => Object.keys(regions).filter((region) => regions[region] === state).sort();
  const [equal, differ, silent] = [those("equal"), those("different"), those("unreachable")];
  const parts = [];
  if (Object.keys(regions).length === 0) parts.push("There is no other region to compare with.");
  if (equal.length > 0) parts.push(`${listed(equal)} ${equal.length === 1 ? "holds" : "hold"} the same${typeof sessions === "number" ? `: ${counted(sessions, "session")}` : ""}.`);
  if (differ.length > 0) {
    const shown = different.slice(0, SHOWN_MAX);
    const which = shown.length === 0 ? "" : ` in ${listed(shown)}${different.length > shown.length ? ", and others" : ""}`;
    parts.push(`${listed(differ)} ${differ.length === 1 ? "differs" : "differ"}${which}. What is under way counts as different: compare again in a minute.`);
  }
  if (silent.length > 0) parts.push(`Not reached, so not compared: ${listed(silent)}.`);
  return [differ.length > 0 ? "warning" : silent.length > 0 ? "unknown" : "well", parts.join(" ")];
}
