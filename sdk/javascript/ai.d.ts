/** A transport for the chats of the Vercel AI SDK. */

import type { ChatTransport, UIMessage } from "ai";

import type { Client, RequestOptions, Run, SessionView } from "./perdure.js";

export interface PerdureChatTransportOptions {
  /** The agent that answers (`assistant`). */
  agent?: string;
  /** Who asks. */
  author?: string;
}

/** `useChat({ id, transport })`: the id of the chat is that of the session. */
export class PerdureChatTransport<M extends UIMessage = UIMessage> implements ChatTransport<M> {
  constructor(client: Client, options?: PerdureChatTransportOptions);
  readonly resumeStreamIsReplay: boolean;
  /** Send the user's newest message, ask for an answer, and follow it. An abort ends the reading only. */
  sendMessages: ChatTransport<M>["sendMessages"];
  /** The answer that is being written, from its beginning; null: there is none. */
  reconnectToStream: ChatTransport<M>["reconnectToStream"];
  /** Stop the agent, whoever reads; what was written stays. Null: no run is open. */
  stop(chatId: string, options?: RequestOptions): Promise<Run | null>;
}

/** The messages of a view that still stand, as the SDK's, for `useChat({ messages })`. */
export function toUIMessages<M extends UIMessage = UIMessage>(view: Pick<SessionView, "messages">): M[];
