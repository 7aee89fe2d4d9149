/** The JavaScript client of perdure. What crosses the wire: docs/PROTOCOL.md, part A. */

export type Status = "streaming" | "complete" | "failed" | "cancelled" | (string & {});

export interface Part {
  id?: string;
  type: string;
  text: string;
  [field: string]: unknown;
}

export interface Message {
  id: string;
  serial: string;
  role: string;
  author: string | null;
  status: Status;
  /** The text of the parts of type `text`, joined. */
  text: string;
  parts: Part[];
  /** How many items (tokens and marks) are shown. */
  length: number;
  created: string;
  metadata: Record<string, unknown>;
  replaces?: string;
}

export interface MessageView extends Message {
  /** The region that is read is behind what is shown here. */
  held: boolean;
}

/** The assembled session. Plain data: it may be saved as JSON and given back to `read`. */
export interface SessionView {
  id: string;
  /** By serial, the oldest first. */
  messages: MessageView[];
  metadata: Record<string, unknown>;
  cursor: string | null;
  region: string | null;
  /** Caught up at least once. */
  ready: boolean;
  deleted: boolean;
  /** There are older messages than these. */
  more: boolean;
}

export interface SessionSnapshot {
  id: string;
  cursor: string;
  created: string | null;
  metadata: Record<string, unknown>;
  messages: Message[];
  more: boolean;
  presence: unknown[];
  runs: unknown[];
}

export interface SessionEvent {
  event: string;
  /** The cursor after this event. */
  id: string;
  data: any;
  /** The URL of the region that sent it. */
  region: string;
}

export interface ClientOptions {
  /** A JWT, where the regions ask for one. */
  grant?: string;
  fetch?: typeof fetch;
  sleep?: (ms: number) => Promise<void>;
  random?: () => number;
  now?: () => number;
}

export interface Following {
  signal?: AbortSignal;
  onRegion?: (url: string) => void;
}

export class PerdureError extends Error {
  constructor(problem: Record<string, unknown>);
  readonly code: string;
  readonly status: number;
  readonly problem: Record<string, unknown>;
}

export class OutOfStep extends Error {}

export class EventParser {
  feed(chunk: Uint8Array): { event: string; id: string; data: string }[];
}

export function newView(id: string): SessionView;
export function apply(view: SessionView, name: string, data: any): void;

export class Regions {
  constructor(urls: string | string[], options?: ClientOptions);
  readonly urls: string[];
  pick(after?: string | null): string;
  failed(url: string): void;
  worked(url: string): void;
  request(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<any>;
}

export class Client {
  constructor(urls: string | string[], options?: ClientOptions);
  readonly regions: Regions;
  session(id: string): Session;
  sessions(page?: { after?: string; limit?: number }): Promise<{
    sessions: { id: string; created: string | null; messages: number; cursor: string }[];
    next: string | null;
  }>;
}

export class Session {
  readonly id: string;
  create(metadata?: Record<string, unknown>): Promise<SessionSnapshot>;
  send(
    role: string,
    text: string,
    options?: {
      id?: string;
      author?: string;
      after?: string;
      metadata?: Record<string, unknown>;
      replaces?: string;
    },
  ): Promise<Message & { stable: boolean | null }>;
  snapshot(): Promise<SessionSnapshot>;
  messages(page?: { before?: string; limit?: number }): Promise<{ messages: Message[]; more: boolean }>;
  metadata(patch?: Record<string, unknown>): Promise<Record<string, unknown>>;
  cancel(message: string): Promise<Status>;
  delete(message?: string): Promise<void>;
  events(options?: Following & { cursor?: string | null }): AsyncGenerator<SessionEvent, void, void>;
  read(options?: Following & { view?: SessionView }): AsyncGenerator<SessionView, void, void>;
}
