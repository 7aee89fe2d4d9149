/** Requests to the region that served the page, under the operator's grant. */

import { EventParser } from "./perdure.js";

const ANSWER_MS_MAX = 15_000;
/** Comparing everything, or cancelling what another region holds, may take its time. */
const ACTION_MS_MAX = 60_000;
const KEPT_AS = "perdure-admin-grant";

/** The region refused: `status`, `code` and its own words. */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the region answered ${status}`);
    this.status = status;
    this.code = problem.code ?? null;
  }
}

/** The grant comes with the fragment of the address, or is asked for; it is kept for this tab alone. */
export class GrantOfTab {
  #now = sessionStorage.getItem(KEPT_AS);

  constructor() {
    const found = /^#grant=([^&]+)(?:&view=(.*))?$/.exec(location.hash);
    if (found === null) return;
    this.set(decodeURIComponent(found[1]));
    // It shall not stay in the address, where it is copied and kept in the history.
    history.replaceState(null, "", `${location.pathname}${location.search}${found[2] ? `#${found[2]}` : ""}`);
  }

  get now() {
    return this.#now;
  }

  set(grant) {
    this.#now = grant;
    if (grant === null) sessionStorage.removeItem(KEPT_AS);
    else sessionStorage.setItem(KEPT_AS, grant);
  }

  /** The address of the same view of this page at another region, which takes the grant along. */
  addressAt(url) {
    const base = url.replace(/\/+$/, "");
    const view = location.hash.slice(1);
    if (this.#now === null) return `${base}/admin${location.hash}`;
    return `${base}/admin#grant=${encodeURIComponent(this.#now)}&view=${view}`;
  }
}

export class Calls {
  #grant;

  constructor(grant) {
    this.#grant = grant;
  }

  /** Below `admin/api`; relative, so that a proxy may put the region under a path of its own. */
  #url(path, query = {}) {
    const url = new URL(`admin/api/${path}`, document.baseURI);
    for (const [name, value] of Object.entries(query)) if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
    return url;
  }

  #headers() {
    return this.#grant.now === null ? {} : { Authorization: `Bearer ${this.#grant.now}` };
  }

  async #send(method, path, { query, body, signal, withinMs = ANSWER_MS_MAX } = {}) {
    const limits = [AbortSignal.timeout(withinMs), ...(signal ? [signal] : [])];
    const response = await fetch(this.#url(path, query), {
      method,
      headers: { ...this.#headers(), ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.any(limits),
      cache: "no-store",
    });
    if (!response.ok) throw new Refused(response.status, await problemOf(response));
    return response;
  }

  async get(path, query, signal) {
    return (await this.#send("GET", path, { query, signal })).json();
  }

  async act(method, path, body) {
    const response = await this.#send(method, path, { body, withinMs: ACTION_MS_MAX });
    return response.status === 204 ? {} : response.json();
  }

  /** A file to keep, as the region streams it. */
  async save(path, name) {
    const response = await this.#send("GET", path, { withinMs: ACTION_MS_MAX });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), ACTION_MS_MAX);
  }

  /** Events `{event, data, id}` until the stream ends, fails, or says nothing for so long. */
  async *events(path, signal, silenceMsMax, query) {
    const over = new AbortController();
    const silent = () => over.abort(new Error("nothing came for too long"));
    let timer = setTimeout(silent, silenceMsMax);
    try {
      const response = await fetch(this.#url(path, query), { headers: this.#headers(), signal: AbortSignal.any([signal, over.signal]), cache: "no-store" });
      if (!response.ok) throw new Refused(response.status, await problemOf(response));
      const [reader, parser] = [response.body.getReader(), new EventParser()];
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(silent, silenceMsMax);
        for (const { event, data, id } of parser.feed(value)) yield { event, data: JSON.parse(data), id };
      }
    } finally {
      clearTimeout(timer);
      over.abort();
    }
  }
}

async function problemOf(response) {
  try {
    return await response.json();
  } catch {
    return {};
  }
}
