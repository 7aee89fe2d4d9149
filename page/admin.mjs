/**
 * The page for who runs the regions: which view is open, what it shows again and again, and the headline above
 * it. What a region tells comes through `admin_calls.mjs`; how it is said is found in `admin_headline.mjs`.
 */

import { Actions } from "./admin_actions.mjs";
import { Calls, GrantOfTab, Refused } from "./admin_calls.mjs";
import { ConnectionsView } from "./admin_connections.mjs";
import { button, element, mark, setAttribute, setFacts, setMark, setText } from "./admin_elements.mjs";
import { ErrorsView } from "./admin_errors.mjs";
import { headline } from "./admin_headline.mjs";
import { Live } from "./admin_live.mjs";
import { RatesView, Samples } from "./admin_rates.mjs";
import { RegionsView, leaveFor, totals } from "./admin_regions.mjs";
import { SessionView } from "./admin_session.mjs";
import { SessionsView } from "./admin_sessions.mjs";
import { StorageView } from "./admin_storage.mjs";

const VIEWS = { regions: ["Regions", RegionsView], rates: ["Rates", RatesView], sessions: ["Sessions", SessionsView], connections: ["Connections", ConnectionsView], storage: ["Storage", StorageView], errors: ["Errors", ErrorsView] };
const FIRST = "regions";

const at = (id) => document.getElementById(id);
const grant = new GrantOfTab();
const calls = new Calls(grant);
const actions = new Actions(calls, at("question"));
const samples = new Samples();
const live = new Live(calls, {
  overview: (told) => {
    overview = told;
    draw();
  },
  history: (sample) => {
    samples.add(sample);
    view?.history?.();
  },
  contact: (told) => {
    contact = { ...told, region: overview?.region };
    draw();
  },
  refused: askForGrant,
});
let overview = null;
let contact = { state: "connecting" };
let announced = "";
let view = null;
let opened = null;
let loading = null;

// The headline

function draw() {
  const told = headline(overview, contact);
  setAttribute(at("headline"), "data-level", told.level);
  setMark(at("sign"), told.level);
  setText(at("title"), told.title);
  setText(at("text"), told.text);
  setText(at("more"), told.more ?? "");
  at("more").hidden = !told.more;
  drawFindings(told.findings);
  drawWhere();
  // Said once, and not with each second that passes.
  if (told.key !== announced) setText(at("announced"), told.title);
  announced = told.key;
  if (overview === null) return;
  setFacts(at("totals"), totals(overview));
  document.title = `${{ well: "✓", note: "✓", warning: "!", trouble: "✕", unknown: "?" }[told.level]} perdure ${overview.region}`;
  if (view === null) open();
  else view.overview?.(overview);
}

function drawFindings(findings) {
  const list = at("findings");
  list.hidden = findings.length === 0;
  while (list.children.length > findings.length) list.lastChild.remove();
  while (list.children.length < findings.length) list.append(element("li", {}, mark(), element("div", {}, element("strong"), element("span"))));
  findings.forEach(({ level, title, text }, index) => {
    const [sign, words] = list.children[index].children;
    setMark(sign, level);
    setText(words.firstChild, title);
    setText(words.lastChild, text === "" ? "" : ` ${text}`);
  });
}

function drawWhere() {
  setText(at("region"), overview === null ? "" : `at ${overview.region}`);
  setText(at("contact"), contact.state === "open" ? "live" : contact.state === "lost" ? "not live" : "connecting…");
  setAttribute(at("contact"), "data-state", contact.state);
  setAttribute(document.body, "data-stale", contact.state === "lost" ? "true" : null);
  const others = (overview?.regions ?? []).filter(({ region, url, is_gone: isGone }) => url && !isGone && region !== overview.region);
  const place = at("elsewhere");
  place.hidden = contact.state !== "lost" || others.length === 0;
  const names = others.map(({ url }) => url).join(" ");
  if (place.dataset.names === names) return;
  place.dataset.names = names;
  place.replaceChildren(...others.map(({ region, url }) => button(`Open this page at ${region}`, () => leaveFor(grant, url), { title: url })));
}

// Views

const context = () => ({ calls, actions, samples, grant, again, region: overview.region });

function open() {
  if (overview === null || location.hash === opened) return;
  // The link that skips to the view opens none.
  if (location.hash === "#view" && view !== null) return;
  const [name, rest] = location.hash.slice(1).split("/", 2);
  const isFirst = opened === null;
  view?.close?.();
  opened = location.hash;
  view = name === "session" && rest ? new SessionView(context(), decodeURIComponent(rest)) : new VIEWS[Object.hasOwn(VIEWS, name) ? name : FIRST][1](context());
  at("view").replaceChildren(view.element);
  complain(null);
  view.overview?.(overview);
  markCurrent(name === "session" ? "sessions" : Object.hasOwn(VIEWS, name) ? name : FIRST);
  if (!isFirst) at("view").focus({ preventScroll: true });
  again();
}

function markCurrent(name) {
  for (const link of at("views").children) setAttribute(link, "aria-current", link.hash === `#${name}` ? "page" : null);
}

/** Load what the open view shows now, and again and again as long as it is open and looked at. */
function again() {
  loading?.abort();
  if (view?.load === undefined) return;
  loading = new AbortController();
  keepLoading(view, loading.signal);
}

async function keepLoading(shown, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await load(shown, signal);
    if (signal.aborted) return;
    await new Promise((resolve) => setTimeout(resolve, shown.everyMs));
  }
}

async function load(shown, signal) {
  try {
    await shown.load(signal);
    if (!signal.aborted) complain(null);
  } catch (error) {
    if (signal.aborted) return;
    // That there is no contact is said at the top.
    if (error instanceof Refused) complain(error);
    else if (contact.state === "open") complain(new Error(`this view could not be read: ${error.message}`));
  }
}

function complain(error) {
  at("problem").hidden = error === null;
  setText(at("problem"), error === null ? "" : `${error.message}${error.code ? ` (${error.code})` : ""}`);
}

// Who comes in

function askForGrant({ status, message }) {
  const tried = grant.now !== null;
  setText(at("entrance-said"), tried ? `It was refused: ${message} (${status})` : "");
  at("entrance-said").dataset.level = "trouble";
  grant.set(null);
  if (!at("entrance").open) at("entrance").showModal();
  at("grant").focus();
}

at("entrance").addEventListener("cancel", (event) => event.preventDefault());
at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  grant.set(at("grant").value.trim());
  at("grant").value = "";
  at("entrance").close();
  live.start();
});

at("views").append(...Object.entries(VIEWS).map(([name, [title]]) => element("a", { href: `#${name}`, textContent: title })));
window.addEventListener("hashchange", open);
window.addEventListener("pagehide", () => live.stop());
window.addEventListener("pageshow", (event) => event.persisted && live.start());
live.start();
