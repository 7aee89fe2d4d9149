/**
 * perdure: a transport for the chats of the Vercel AI SDK (`useChat`, 5 or newer).
 *
 * A chat is a session, and an answer is a run: it goes on without its reader, in whichever region an
 * agent holds it. What is read are the session's events, as chunks of the SDK's message stream.
 *
 * From top to bottom: the transport, from parts to chunks, from messages to the SDK's messages.
 */

import { standing } from "./perdure.js";

const OVER = new Set(["complete", "failed", "cancelled"]);
const ID_CHARS_MAX = 128;

/**
 * A `ChatTransport`: `useChat({ id, transport })`. The id of the chat is that of the session.
 *
 * Options: `agent`, who answers (`assistant`); `author`, who asks.
 */
export class PerdureChatTransport {
  /** A stream of `reconnectToStream` tells the whole answer, from its beginning. */
  resumeStreamIsReplay = true;
  #agent;
  #author;
  #client;
  // Of each chat, the run that was asked for or gone on with last; and that which must be told anew.
  #runs = new Map();
  #takenBack = new Map();

  constructor(client, { agent = "assistant", author } = {}) {
    this.#agent = agent;
    this.#author = author;
    this.#client = client;
  }

  /**
   * Send the newest of the user's messages, if the session does not have it yet, and ask the agent for
   * an answer to it. The stream is that answer as it is written, across regions. `abortSignal` ends the
   * reading and nothing else: the agent goes on (see `stop`). `body` becomes the metadata of the answer.
   */
  async sendMessages({ chatId, messages, trigger, messageId, abortSignal: signal, body: metadata }) {
    const session = this.#client.session(chatId);
    const asked = messages.at(-1);
    if (asked?.role !== "user") throw new TypeError("the newest message of the chat must be the user's");
    const isAgain = trigger === "regenerate-message" || messageId !== undefined;
    const { input, replaces } = await this.#sent(session, asked, isAgain, signal);
    const by = this.#author;
    const run = await session.requestRun(this.#agent, { input, by, metadata, replaces, signal });
    return this.#told(session, run.id, signal);
  }

  /**
   * The answer that is being written, from its beginning; null: there is none. Also one that has ended
   * meanwhile, where the stream before ended because text was taken back.
   */
  async reconnectToStream({ chatId, abortSignal: signal }) {
    const session = this.#client.session(chatId);
    const run = (await this.#open(session, signal))?.id ?? this.#takenBack.get(chatId);
    return run === undefined ? null : this.#told(session, run, signal);
  }

  /**
   * Stop the agent, whoever reads: what was written stays. The run as it is now; null: there is none
   * that is not over.
   */
  async stop(chatId, { signal } = {}) {
    const session = this.#client.session(chatId);
    const run = this.#runs.get(chatId);
    // A region may not have been told of this one yet. It may be over by now, and another have begun.
    let stopped = run === undefined ? null : await session.cancelRun(run, { signal });
    if (this.#runs.get(chatId) === run) this.#runs.delete(chatId);
    const open = await this.#open(session, signal);
    if (open !== undefined && open.id !== run) stopped = await session.cancelRun(open.id, { signal });
    return stopped?.status === "cancelled" ? stopped : null;
  }

  /** The agent's newest run that is not over. */
  async #open(session, signal) {
    try {
      const { runs } = await session.runs({ signal });
      return runs.findLast(({ agent, status }) => agent === this.#agent && !OVER.has(status));
    } catch (error) {
      if (error.code === "not_found") return undefined;
      throw error;
    }
  }

  /**
   * The id under which the session has this message, and that of what an answer to it stands for. A
   * message whose text was changed stands in the place of the first. `isAgain`: the session should have
   * it, and the chat shows nothing of what followed it.
   */
  async #sent(session, message, isAgain, signal) {
    const fields = { id: message.id, author: this.#author, metadata: metadataOf(message), signal };
    const text = textOf(message);
    // The chat goes on to call it by its first id, however often it is edited.
    const isOfIt = ({ id, replaces }) => id === message.id || replaces === message.id;
    let messages = isAgain ? await this.#held(session, signal) : [];
    if (!messages.some(isOfIt)) {
      // It never came, or not to this region yet: under its own id it is there once.
      try {
        return { input: (await session.send("user", text, fields)).id };
      } catch (error) {
        if (error.code !== "conflict" && !(isAgain && error.code === "deleted")) throw error;
      }
      messages = await this.#held(session, signal);
    }
    const shown = standing(messages);
    const at = shown.findLastIndex((one) => one.role === "user" && isOfIt(one) && one.text === text);
    if (at >= 0) return { input: shown[at].id, replaces: shown[at + 1]?.id };
    // Another one where the same text has stood before, and something else meanwhile.
    const id = `${message.id.slice(0, ID_CHARS_MAX - 17)}~${hashOf(`${text} ${messages.at(-1)?.id}`)}`;
    return { input: (await session.send("user", text, { ...fields, id, replaces: message.id })).id };
  }

  /** The newest messages of a session; none where the region knows of no session. */
  async #held(session, signal) {
    try {
      return (await session.snapshot({ signal })).messages;
    } catch (error) {
      if (error.code === "not_found") return [];
      throw error;
    }
  }

  /** An answer, followed from its beginning to its end, as a stream of chunks. */
  #told(session, run, signal) {
    const chatId = session.id;
    this.#runs.set(chatId, run);
    this.#takenBack.delete(chatId);
    const views = session.read({ signal });
    const telling = new Telling(run);
    const pull = async (controller) => {
      try {
        while (true) {
          const { done, value: view } = await views.next();
          if (done) {
            signal?.throwIfAborted();
            throw new Error("the session was deleted");
          }
          const chunks = telling.of(view);
          for (const chunk of chunks) controller.enqueue(chunk);
          if (telling.isTakenBack) this.#takenBack.set(chatId, run);
          if (telling.isOver) {
            if (!telling.isTakenBack && this.#runs.get(chatId) === run) this.#runs.delete(chatId);
            controller.close();
            await views.return();
            return;
          }
          if (chunks.length > 0) return;
        }
      } catch (error) {
        controller.error(error);
        await views.return();
      }
    };
    return new ReadableStream({ pull, cancel: () => views.return() }, { highWaterMark: 0 });
  }
}

// From parts to chunks

/** What of an answer has been told, so that the next view gives what is new. */
class Telling {
  #run;
  #message = null;
  // How far each part was told, by its number.
  #parts = [];
  isOver = false;
  isTakenBack = false;

  constructor(run) {
    this.#run = run;
  }

  /** The chunks that this view adds. */
  of(view) {
    if (view.deleted) return this.#end([{ type: "error", errorText: "the session was deleted" }]);
    const message = view.messages.findLast(({ id }) => id === this.#run);
    if (message === this.#message || (message === undefined && this.#message === null)) return [];
    if (message === undefined) return this.#end([{ type: "error", errorText: "the answer was deleted" }]);
    const chunks = this.#message === null ? [{ type: "start", messageId: this.#run }] : [];
    this.#message = message;
    const isOver = OVER.has(message.status);
    if (!this.#parts.every((known, at) => goesOn(known, message.parts[at]))) {
      this.isTakenBack = true;
      return this.#end([{ type: "error", errorText: "text was taken back: resume the stream" }]);
    }
    message.parts.forEach((part, at) => {
      this.#parts[at] ??= untold(part);
      chunks.push(...told(this.#parts[at], part, at, isOver || at < message.parts.length - 1));
    });
    return isOver ? this.#end([...chunks, endOf(message)]) : chunks;
  }

  #end(chunks) {
    this.isOver = true;
    return chunks;
  }
}

/** Nothing of a part was told. */
function untold({ type }) {
  return { type, text: "", isBegun: false, isCalled: false, isAnswered: false, isDone: false };
}

/** Whether a part, if it is still there, is what was told of it, and more. */
function goesOn({ type, text }, part) {
  return part !== undefined && part.type === type && part.text.startsWith(text);
}

/** What is new of a part; `known` notes what was told. */
function told(known, part, at, isClosed) {
  const tell = { text: tellText, reasoning: tellText, "tool-call": tellCall }[part.type] ?? tellWhole;
  const chunks = known.isDone ? [] : tell(known, part, at, isClosed);
  known.isDone ||= isClosed;
  return chunks;
}

function tellText(known, { type, text }, at, isClosed) {
  const id = String(at);
  const chunks = known.isBegun ? [] : [{ type: `${type}-start`, id }];
  known.isBegun = true;
  const delta = text.slice(known.text.length);
  known.text = text;
  if (delta !== "") chunks.push({ type: `${type}-delta`, id, delta });
  if (isClosed) chunks.push({ type: `${type}-end`, id });
  return chunks;
}

function tellCall(known, part, at, isClosed) {
  const toolCallId = part.id ?? String(at);
  const chunks = [];
  // The name may come after the part was opened, and is what the chunks begin with.
  if (part.name === undefined && !isClosed) return chunks;
  const toolName = part.name ?? "tool";
  if (!known.isBegun) chunks.push({ type: "tool-input-start", toolCallId, toolName });
  known.isBegun = true;
  const delta = part.text.slice(known.text.length);
  known.text = part.text;
  if (delta !== "") chunks.push({ type: "tool-input-delta", toolCallId, inputTextDelta: delta });
  if ((isClosed || part.output !== undefined) && !known.isCalled) {
    known.isCalled = true;
    const input = part.input ?? jsonOf(part.text);
    chunks.push({ type: "tool-input-available", toolCallId, toolName, input });
  }
  if (part.output !== undefined && !known.isAnswered) {
    known.isAnswered = true;
    chunks.push(outputOf(toolCallId, part.output, part.is_error));
  }
  return chunks;
}

/** What is told when it is whole. */
function tellWhole(known, part, at, isClosed) {
  known.text = part.text;
  if (!isClosed) return [];
  const { id, type, text, ...fields } = part;
  if (type === "source" && fields.url)
    return [{ type: "source-url", sourceId: id ?? String(at), url: fields.url, ...given({ title: fields.title }) }];
  if (type === "file" && fields.url)
    return [{ type: "file", url: fields.url, mediaType: fields.mediaType ?? fields.media_type ?? "application/octet-stream" }];
  // An output that did not fit into its call, or came when another part was open.
  if (fields.name === "tool-output" && fields.call) return [outputOf(fields.call, fields.output, fields.is_error)];
  if (fields.name === "output" && fields.of) return [outputOf(fields.of, jsonOf(text), false)];
  const { name = type, ...data } = fields;
  return [{ type: `data-${name}`, id: id ?? String(at), data: { ...data, ...(text === "" ? {} : { text }) } }];
}

function outputOf(toolCallId, output, isError) {
  if (isError) return { type: "tool-output-error", toolCallId, errorText: wordsOf(output) };
  return { type: "tool-output-available", toolCallId, output: output ?? null };
}

function endOf({ status, parts }) {
  if (status === "complete") return { type: "finish" };
  if (status === "cancelled") return { type: "abort", reason: "cancelled" };
  const { error } = parts.findLast(({ type, name }) => type === "data" && name === "response") ?? {};
  return { type: "error", errorText: error === undefined ? "the agent failed" : wordsOf(error.message ?? error) };
}

function jsonOf(text) {
  try {
    return text === "" ? {} : JSON.parse(text);
  } catch {
    return text;
  }
}

function wordsOf(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

// From messages to the SDK's messages, and back

/**
 * The messages of a view as the SDK's: `useChat({ messages: toUIMessages(view) })`. What was edited, or
 * answered anew, is there once, as the chat has shown it.
 */
export function toUIMessages(view) {
  return standing(view.messages).map(({ id, role, metadata, parts, status }) => {
    const { parts: others = [], ...rest } = metadata ?? {};
    const isOver = status !== "streaming";
    const shown = role === "user" ? [...others, ...parts.map(({ text }) => ({ type: "text", text }))] : uiParts(parts, isOver);
    return { id, role, parts: shown, ...(Object.keys(rest).length === 0 ? {} : { metadata: rest }) };
  });
}

/** The parts that the SDK makes of the chunks of these parts. */
function uiParts(parts, isOver) {
  const shown = [];
  const calls = new Map();
  parts.forEach((part, at) => {
    const isClosed = isOver || at < parts.length - 1;
    if (part.type === "text" || part.type === "reasoning")
      return shown.push({ type: part.type, text: part.text, state: isClosed ? "done" : "streaming" });
    for (const { type, ...chunk } of told(untold(part), part, at, isClosed)) {
      const call = calls.get(chunk.toolCallId);
      if (type === "tool-input-start") {
        const begun = { type: `tool-${chunk.toolName}`, toolCallId: chunk.toolCallId, state: "input-streaming", input: undefined };
        calls.set(chunk.toolCallId, begun);
        shown.push(begun);
      } else if (type === "tool-input-available") Object.assign(call, { state: "input-available", input: chunk.input });
      else if (type === "tool-output-available") Object.assign(call ?? {}, { state: "output-available", output: chunk.output });
      else if (type === "tool-output-error") Object.assign(call ?? {}, { state: "output-error", errorText: chunk.errorText });
      else if (type !== "tool-input-delta") shown.push({ type, ...chunk });
    }
  });
  return shown;
}

function textOf({ parts }) {
  return parts.filter(({ type }) => type === "text").map(({ text }) => text).join("");
}

/** What a message says besides its text. */
function metadataOf({ parts, metadata }) {
  const others = parts.filter(({ type }) => type !== "text");
  const all = { ...metadata, ...(others.length > 0 ? { parts: others } : {}) };
  return Object.keys(all).length > 0 ? all : undefined;
}

/** 16 hex digits of a text (FNV-1a, twice), so that the same change has the same id. */
function hashOf(text) {
  const hashes = [0x811c9dc5, 0x01000193].map((seed) => {
    let hash = seed;
    for (let at = 0; at < text.length; at += 1) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193);
    return (hash >>> 0).toString(16).padStart(8, "0");
  });
  return hashes.join("");
}

function given(values) {
  return Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));
}
