/** Shared documents that are edited live with Yjs, through an unmodified provider of y-websocket. */

import type { Document } from "./perdure.js";

/** What is asked of the class of y-websocket. */
export interface Provider {
  serverUrl: string;
  protocols: string[];
  shouldConnect: boolean;
  readonly synced: boolean;
  readonly awareness: any;
  connect(): void;
  destroy(): void;
  on(event: any, listener: any): any;
  off(event: any, listener: any): any;
}

export interface LiveOptions<Doc, P> {
  WebsocketProvider: new (serverUrl: string, room: string, doc: Doc, options?: any) => P;
  doc: Doc;
  /** Called with what every region would refuse. */
  onError?: (error: unknown) => void;
  /** Anything else is the provider's: `awareness`, `disableBc`, `WebSocketPolyfill`, … */
  [option: string]: unknown;
}

/** Edit a document of a session live. */
export function live<Doc, P extends Provider>(document: Document, options: LiveOptions<Doc, P>): Live<Doc, P>;

/** A Yjs document in sync with one region after another. From `live`. */
export class Live<Doc = unknown, P = Provider> {
  private constructor();
  readonly doc: Doc;
  readonly provider: P;
  /** Who is here: the provider's awareness. */
  readonly awareness: any;
  /** The URL of the region that it is in sync with; null: none. */
  readonly region: string | null;
  /** How often it has gone to another region. */
  readonly moves: number;
  /** What every region would refuse, if something was. */
  readonly error: unknown;
  /** Until it is in sync with a region. */
  synced(): Promise<void>;
  close(): void;
}
