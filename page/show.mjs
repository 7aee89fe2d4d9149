/** What the page shows of a session. Everything that people and agents said is text, and nothing else. */

import { statusOf } from "./perdure.js";

const AGENT = "bot";
const STATUS = {
  streaming: "is answering…",
  interrupted: "waits for its agent…",
  cancelled: "stopped",
  failed: "failed",
};

function element(name, className, text = "") {
  const made = document.createElement(name);
  if (className !== "") made.className = className;
  made.textContent = text;
  return made;
}

function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The messages, each an article that stays the same while its text grows. */
export class Messages {
  #list;
  #me;
  #articles = new Map();

  constructor(list, me) {
    this.#list = list;
    this.#me = me;
  }

  draw(view) {
    const { scrollHeight, scrollTop, clientHeight } = this.#list;
    // Who has scrolled up to read is left there.
    const isAtEnd = scrollHeight - scrollTop - clientHeight < 60;
    const names = new Map(view.presence.map(({ member, data }) => [member, data?.name]));
    const articles = view.messages.map((message) => this.#article(view, message, names));
    for (const [id, article] of this.#articles) {
      if (view.messages.some((message) => message.id === id)) continue;
      article.remove();
      this.#articles.delete(id);
    }
    // Moved only where the order has changed: a move would lose what is selected.
    articles.forEach((article, index) => {
      if (this.#list.children[index] !== article) this.#list.insertBefore(article, this.#list.children[index] ?? null);
    });
    if (isAtEnd) this.#list.scrollTop = this.#list.scrollHeight;
  }

  #article(view, message, names) {
    let article = this.#articles.get(message.id);
    if (article === undefined) {
      article = element("article", message.author === this.#me ? "own" : "");
      const head = element("header", "");
      head.append(element("b", ""), element("span", "status"));
      article.append(head, element("p", ""));
      article.dataset.id = message.id;
      this.#articles.set(message.id, article);
    }
    const status = statusOf(view, message);
    const run = view.runs.find(({ id }) => id === message.id);
    article.dataset.status = status;
    const [name, said] = article.firstChild.children;
    setText(name, message.metadata.name ?? names.get(message.author) ?? message.author ?? message.role);
    setText(said, run?.status === "requested" ? "was asked…" : (STATUS[status] ?? ""));
    setText(article.lastChild, message.text);
    return article;
  }
}

/** Who is here, and at which region. */
export function drawPeople(list, members, me, regions) {
  const sorted = [...members].sort((one, other) => (one.since < other.since ? -1 : 1));
  list.replaceChildren(
    ...sorted.map(({ member, data, region }) => {
      const isAgent = member === AGENT;
      const name = isAgent ? AGENT : typeof data?.name === "string" ? data.name : member;
      const item = element("li", isAgent ? "agent" : "");
      item.dataset.member = member;
      const face = element("span", "face", [...name][0]?.toUpperCase() ?? "?");
      face.setAttribute("aria-hidden", "true");
      const at = element("span", "region", region);
      at.dataset.number = regions.findIndex((known) => known.name === region);
      const what = isAgent ? `${name} (agent)` : member === me ? `${name} (you)` : name;
      item.append(face, element("span", "name", what), at);
      return item;
    }),
  );
}

/** Which region is read, and the choice of another. */
export class Regions {
  #state;
  #inputs = new Map();

  constructor(state, choice, regions, onPick) {
    this.#state = state;
    for (const { name, url } of regions) {
      const input = element("input", "");
      Object.assign(input, { type: "radio", name: "region", value: name });
      input.onchange = () => onPick(url);
      const label = element("label", "");
      label.append(input, element("span", "", name));
      choice.append(label);
      this.#inputs.set(name, input);
    }
  }

  open(name) {
    this.#state.dataset.state = "open";
    setText(this.#state, `reading from ${name}`);
    for (const [other, input] of this.#inputs) input.checked = other === name;
  }

  lost(name) {
    this.#state.dataset.state = "lost";
    setText(this.#state, name === null ? "no region answers yet…" : `${name} is gone, looking for another region…`);
  }
}

/** Who is typing: it is told as it happens, and never kept. */
export class Typing {
  #place;
  #names = new Map();

  constructor(place) {
    this.#place = place;
  }

  hear(member, name, where, forMs) {
    clearTimeout(this.#names.get(member)?.timer);
    this.#names.set(member, { text: `${name} is typing${where === "draft" ? " in the draft" : ""}…`, timer: setTimeout(() => this.drop(member), forMs) });
    this.#draw();
  }

  drop(member) {
    clearTimeout(this.#names.get(member)?.timer);
    if (this.#names.delete(member)) this.#draw();
  }

  #draw() {
    setText(this.#place, [...this.#names.values()].map(({ text }) => text).join(" "));
  }
}
