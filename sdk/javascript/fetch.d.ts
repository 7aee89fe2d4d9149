/** A `fetch` that outlives regions. */

import type { ClientOptions } from "./perdure.js";

export interface DurableFetchOptions
  extends Pick<ClientOptions, "grant" | "giveUpMs" | "fetch" | "sleep" | "random" | "now"> {}

/**
 * A `fetch` over these regions, in the order of preference. Takes a path (`/v1/…`) or a URL at one of
 * them; a URL elsewhere goes to the plain `fetch`. What may be repeated is asked at other regions until
 * one answers, and a GET's event stream that breaks goes on at another with `Last-Event-ID`.
 */
export function durableFetch(urls: string | readonly string[], options?: DurableFetchOptions): typeof fetch;
