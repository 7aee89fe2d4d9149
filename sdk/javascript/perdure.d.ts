/** The JavaScript client of perdure. What crosses the wire: docs/PROTOCOL.md, part A. */

export type Status = "streaming" | "complete" | "failed" | "cancelled" | (string & {});
export type End = "complete" | "failed" | "cancelled";
export type Metadata = Record<string, unknown>;

export interface Part {
  id?: string;
  type: string;
  text: string;
  [field: string]: unknown;
}

/** `{part: {…}}` opens a part, `{set: {…}}` adds fields to the open one. */
export type Mark =
  { part: { id?: string; type: string; [field: string]: unknown } } | { set: Record<string, unknown> };

export interface Message {
  readonly id: string;
  /** Sorts, as a string, in the one order that all regions share. */
  readonly serial: string;
  readonly role: string;
  readonly author: string | null;
  readonly status: Status;
  /** The text of the parts of type `text`, joined. */
  readonly text: string;
  readonly parts: readonly Readonly<Part>[];
  /** How many items (tokens and marks) are shown. */
  readonly length: number;
  /** RFC 3339, UTC. */
  readonly created: string;
  readonly metadata: Readonly<Metadata>;
  readonly replaces?: string;
}

export interface MessageView extends Message {
  /** The region that is read is behind what is shown here. */
  readonly held: boolean;
}

/** Somebody who is present in a session. */
export interface Member {
  member: string;
  /** What was last given; null if nothing was. */
  data: unknown;
  region: string;
  connections: number;
  since: string;
}

/** One turn of an agent: the run and the message that it writes have the same id. */
export interface Run {
  id: string;
  session: string;
  status: "requested" | "running" | "suspended" | "interrupted" | "complete" | "failed" | "cancelled";
  agent: string;
  by: string | null;
  input: string | null;
  message: string;
  attempt: number;
  producer: string | null;
  epoch: string | null;
  created: string;
  detail: unknown;
  inputs: string[];
}

/** The assembled session. Plain data: it may be saved as JSON and given back to `read`. */
export interface SessionView {
  readonly id: string;
  /** By serial, the oldest first. */
  readonly messages: readonly MessageView[];
  readonly metadata: Readonly<Metadata>;
  /** Who is here. */
  readonly presence: readonly Readonly<Member>[];
  /** The runs that are not over. */
  readonly runs: readonly Readonly<Run>[];
  /** What the shared documents are, by id: a version is equal where the document is. */
  readonly documents: Readonly<Record<string, string>>;
  readonly cursor: string | null;
  /** The URL of the region that told the newest of it. */
  readonly region: string | null;
  /** Caught up at least once. */
  readonly ready: boolean;
  readonly deleted: boolean;
  /** There are older messages than these. */
  readonly more: boolean;
}

export interface SessionSnapshot {
  id: string;
  cursor: string;
  created: string | null;
  metadata: Metadata;
  messages: Message[];
  more: boolean;
  presence: Member[];
  runs: Run[];
  documents: { id: string; version: string }[];
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
  /** A JWT, where the regions ask for one; or a function that gives one for each request. */
  grant?: string | (() => string | Promise<string>);
  /** For so many milliseconds (60,000) a request is tried, at one region after the other. */
  giveUpMs?: number;
  /** How events come; `auto` (the default) takes the first that gets through to a region. */
  transport?: "auto" | "websocket" | "sse" | "poll";
  WebSocket?: typeof WebSocket;
  fetch?: typeof fetch;
  /** Resolves after so many milliseconds; rejects, and frees its timer, when the signal aborts. */
  sleep?: (ms: number, signal?: AbortSignal) => Promise<void>;
  /** From 0 up to 1. */
  random?: () => number;
  /** Milliseconds that only ever grow. */
  now?: () => number;
}

export interface RequestOptions {
  signal?: AbortSignal;
}

export interface Following extends RequestOptions {
  /** Called with the URL of each region that is connected to. */
  onRegion?: (url: string) => void;
}

/** A member that is here as long as the reader is, over whichever transport and region. */
export interface Present {
  presence?: string;
  presenceData?: unknown;
}

/** What `read` and `events` give: for `for await`; `return` ends it also while it waits. */
export interface Reading<T> {
  next(): Promise<IteratorResult<T, undefined>>;
  return(): Promise<IteratorResult<T, undefined>>;
  throw(error: unknown): Promise<IteratorResult<T, undefined>>;
  [Symbol.asyncIterator](): Reading<T>;
}

export interface MessageFields {
  id?: string;
  author?: string;
  /** The greatest serial the author has seen: the new message sorts after it. */
  after?: string;
  metadata?: Metadata;
  /** The id of the message in whose place this one stands. */
  replaces?: string;
}

export interface RunFields {
  id?: string;
  /** The id of the message that the run answers. */
  input?: string;
  /** Who asks. */
  by?: string;
  role?: string;
  metadata?: Metadata;
  after?: string;
  /** The id of the message that the answer stands for, such as an earlier one. */
  replaces?: string;
}

export interface WriterOptions extends RequestOptions {
  producer?: string;
  /** When 8 MiB are not stable: wait, or let go of what is accepted. */
  onFull?: "block" | "release";
  bufferBytesMax?: number;
}

/** A region refused; or none answered (`unavailable`), or a writer's buffer is `buffer_lost`. */
export class PerdureError extends Error {
  constructor(problem: Record<string, unknown>);
  readonly code: string;
  readonly status: number;
  readonly problem: Record<string, unknown>;
}

/** An event does not fit what is held. */
export class OutOfStep extends Error {}

export class EventParser {
  feed(chunk: Uint8Array): { event: string; id: string; data: string }[];
}

export function newView(id: string): SessionView;
/** The view after one more event; the given one is not changed. Throws `OutOfStep`. */
export function apply(view: SessionView, name: string, data: any): SessionView;

/** The message's own status, or `interrupted` for one whose run waits for an agent. */
export function statusOf(
  view: Pick<SessionView, "runs">,
  message: Pick<Message, "id" | "status">,
): Status | "interrupted";

/**
 * The messages that still stand, of some in their order: what another one `replaces` is gone, with all
 * that followed it up to there.
 */
export function standing<M extends Pick<Message, "id" | "replaces">>(messages: readonly M[]): M[];

export class Regions {
  constructor(urls: string | readonly string[], options?: ClientOptions);
  readonly urls: string[];
  pick(after?: string | null): string;
  failed(url: string, ms?: number): void;
  worked(url: string): void;
  pause(): { nextMs(): number; reset(): void };
  granted(): Promise<string | undefined>;
  request(
    method: string,
    path: string,
    options?: RequestOptions & { body?: unknown; headers?: Record<string, string>; first?: string },
  ): Promise<{ value: any; region: string }>;
  once(
    region: string,
    method: string,
    path: string,
    options?: RequestOptions & { body?: unknown; headers?: Record<string, string> },
  ): Promise<any>;
  readonly sleep: (ms: number, signal?: AbortSignal) => Promise<void>;
  readonly now: () => number;
}

export class Client {
  constructor(urls: string | readonly string[], options?: ClientOptions);
  readonly regions: Regions;
  session(id: string): Session;
  agent(name: string, options?: AgentOptions): Agent;
  sessions(page?: RequestOptions & { after?: string; limit?: number }): Promise<{
    sessions: { id: string; created: string | null; messages: number; cursor: string }[];
    next: string | null;
  }>;
}

export class Session {
  private constructor();
  readonly id: string;
  readonly regions: Regions;
  /** How often an event did not fit, so that reading began anew. */
  readonly stepsLost: number;
  create(metadata?: Metadata, options?: RequestOptions): Promise<SessionSnapshot>;
  send(
    role: string,
    text: string,
    options?: RequestOptions & MessageFields & { run?: string },
  ): Promise<Message & { stable: boolean | null }>;
  snapshot(options?: RequestOptions): Promise<SessionSnapshot>;
  messages(
    page?: RequestOptions & { before?: string; limit?: number },
  ): Promise<{ messages: Message[]; more: boolean }>;
  message(id: string, options?: RequestOptions): Promise<Message>;
  /** Ask an agent for a turn: the run, whose message is there from now on. */
  requestRun(agent: string, options?: RequestOptions & RunFields): Promise<Run>;
  run(id: string, options?: RequestOptions): Promise<Run>;
  /** Those of the newest messages, also those that are over. */
  runs(page?: RequestOptions & { before?: string; limit?: number }): Promise<{ runs: Run[]; more: boolean }>;
  /** Stop a run; what was written stays. */
  cancelRun(run: string, options?: RequestOptions): Promise<Run>;
  /** Show something to who reads now; false when the region that was asked did not take it. */
  signal(name: string, data?: unknown, options?: RequestOptions & { from?: string }): Promise<boolean>;
  /** Be here for `ttl_s` seconds (60); call it again in time to stay. */
  join(member: string, data?: unknown, options?: { ttl_s?: number } & RequestOptions): Promise<Member>;
  /** Leave, through everything. */
  leave(member: string, options?: RequestOptions): Promise<void>;
  /** Who is here now. */
  presence(options?: RequestOptions): Promise<Member[]>;
  metadata(patch?: Metadata, options?: RequestOptions): Promise<Metadata>;
  cancel(message: string, options?: RequestOptions): Promise<Status>;
  delete(message?: string, options?: RequestOptions): Promise<void>;
  documents(options?: RequestOptions): Promise<{ id: string; version: string }[]>;
  document(id: string): Document;
  open(role?: string, options?: WriterOptions & MessageFields): Promise<Writer>;
  claim(message: string, options?: WriterOptions & { mode?: "continue" | "restart" }): Promise<Writer>;
  events(options?: Following & Present & { cursor?: string | null }): Reading<SessionEvent>;
  read(options?: Following & Present & { view?: SessionView }): Reading<SessionView>;
}

/** Appends to one message, and keeps what is not stable until it is. From `open` and `claim`. */
export class Writer {
  private constructor();
  readonly message: string;
  readonly producer: string;
  readonly epoch: string;
  /** The URL of the region that is written to. */
  readonly region: string;
  /** What a claimed message showed already. */
  readonly text: string;
  readonly parts: readonly Readonly<Part>[];
  /** How many items are on disk in a region; in two. */
  readonly accepted: number;
  readonly stableCount: number;
  /** How often the writer has gone to another region. */
  readonly moves: number;
  /** The seq of the next item. */
  readonly next: number;
  /** Whether this writer has ended the message. */
  readonly hasEnd: boolean;
  write(token: string): Promise<void>;
  mark(mark: Mark): Promise<void>;
  flush(): Promise<void>;
  end(status?: End): Promise<void>;
  stable(): Promise<void>;
  pipe(tokens: AsyncIterable<string | Mark> | Iterable<string | Mark>): Promise<void>;
  close(): Promise<void>;
}

/** A shared document as a region has it. */
export interface DocumentValue {
  readonly id: string;
  readonly text: string;
  readonly json: Readonly<Record<string, unknown>>;
  /** Equal where the document is. */
  readonly version: string;
}

/** One shared document of a session. From `session.document(id)`. */
export class Document {
  private constructor();
  readonly id: string;
  readonly session: Session;
  readonly path: string;
  read(options?: RequestOptions & { first?: string }): Promise<DocumentValue>;
  /** Make the text this one, or patch the map (null deletes), or both. */
  write(
    change: { text?: string; json?: Record<string, unknown> },
    options?: RequestOptions,
  ): Promise<DocumentValue>;
  /** Add to the end of the text, once. */
  append(text: string, options?: RequestOptions): Promise<DocumentValue>;
  delete(options?: RequestOptions): Promise<void>;
  /** As it is now, and each time that it has changed, until it is deleted. */
  follow(options?: RequestOptions): Reading<DocumentValue>;
}

export interface AgentOptions {
  /** A name of this process alone, drawn anew at each start; with it the feed renews all leases. */
  worker?: string;
  /** Whether an interrupted run is continued (the default), or started over. */
  mode?: "continue" | "restart";
  /** For so many seconds (15) a worker that says nothing is taken to be at work. */
  lease_s?: number;
}

/** A worker of an agent. From `client.agent(name)`. */
export class Agent {
  private constructor();
  readonly name: string;
  readonly worker: string | undefined;
  runs(options?: RequestOptions): Promise<Run[]>;
  events(options?: RequestOptions): Reading<SessionEvent>;
  turns(options?: RequestOptions): Reading<Turn>;
  /** Have the handler carry out each turn, until `signal` aborts. */
  work(
    handler: (turn: Turn) => unknown,
    options?: RequestOptions & { concurrency?: number; onError?: (turn: Turn, error: unknown) => void },
  ): Promise<void>;
}

/** A run that this worker holds, and whose lease it renews. From `work` and `turns`. */
export class Turn {
  private constructor();
  readonly id: string;
  readonly session: Session;
  readonly run: Run;
  readonly inputs: Message[];
  readonly attempt: number;
  readonly writer: Writer;
  /** What the message showed when it was claimed. */
  readonly text: string;
  readonly parts: readonly Readonly<Part>[];
  /** Aborts when the turn is held no more. */
  readonly signal: AbortSignal;
  readonly isOver: boolean;
  /** What took it away, if something did. */
  readonly error: unknown;
  /** Write all of it, end the run, and wait until that is in two regions. */
  pipe(tokens: AsyncIterable<string | Mark> | Iterable<string | Mark>): Promise<void>;
  end(status?: End): Promise<void>;
  suspend(detail?: unknown): Promise<void>;
  resume(detail?: unknown): Promise<void>;
  newInputs(): Reading<Message>;
  /** What is to be answered, the oldest first: of the `limit` (100) messages before this one those that stand. */
  history(options?: { limit?: number }): Promise<Message[]>;
  stopped(): Promise<void>;
  /** Let go of it, to be claimed. */
  close(): Promise<void>;
  /** For the worker: a region tells of the run. */
  heard(run: Run): void;
}
