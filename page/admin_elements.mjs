/** Elements of the page. What comes from outside becomes text, and nothing else; what has not changed is left alone. */

import { clock, utc } from "./admin_units.mjs";

const SIGNS = { well: "✓", note: "i", warning: "!", trouble: "✕", unknown: "?" };
export const WORDS = { well: "well", note: "to know", warning: "look at this", trouble: "in trouble", unknown: "unknown" };

/** An element with properties (`data-…` and `aria-…` become attributes) and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.includes("-") || key === "role" || key === "for" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** A mark that says a level by its shape, its sign and its word, and last by its colour. */
export function mark(level = "unknown") {
  const made = element("span", { className: "mark", role: "img" });
  setMark(made, level);
  return made;
}

export function setMark(node, level) {
  // Nothing is said, and its place is kept.
  node.classList.toggle("none", level === null);
  if (level === null) return;
  if (node.dataset.level === level) return;
  node.dataset.level = level;
  node.setAttribute("aria-label", WORDS[level]);
  node.textContent = SIGNS[level];
}

/** A time as it is here; the same in UTC when one points at it. */
export function setTime(node, atMs) {
  setText(node, clock(atMs));
  setAttribute(node, "title", utc(atMs) || null);
  setAttribute(node, "datetime", typeof atMs === "number" ? new Date(atMs).toISOString() : null);
}

export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", textContent: text, onclick, ...properties });
}

/** Names and values; `rows`: `[[name, text, title]]`. The elements stay while the names do. */
export function setFacts(list, rows) {
  const names = rows.map(([name]) => name).join("\n");
  if (list.dataset.names !== names) {
    list.dataset.names = names;
    list.replaceChildren(...rows.map(([name]) => element("div", {}, element("dt", { textContent: name }), element("dd"))));
  }
  rows.forEach(([, text, title], index) => {
    const value = list.children[index].lastChild;
    setText(value, text);
    setAttribute(value, "title", title ?? null);
  });
}

/**
 * A table whose rows stay the same elements while their keys do, so that focus, selection and scrolling stay
 * where they are. On a narrow screen each row is a card; the roles are said, for such a layout takes them away.
 *
 * A column: `{name, text(row), title?(row), level?(row), time?: true, node?(row) -> element made once for a key,
 * update?(element, row), kind?: "number"|"main"|"id"|"act"|"nowrap"}`; with `time`, `text` gives milliseconds.
 */
export class Table {
  #columns;
  #body = element("tbody", { role: "rowgroup" });
  #empty;
  #rows = new Map();

  constructor(label, columns, empty) {
    this.#columns = columns;
    this.#empty = element("p", { className: "empty", textContent: empty });
    const heads = columns.map(({ name, kind }) => element("th", { scope: "col", role: "columnheader", textContent: name, className: kind ?? "" }));
    const head = element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads));
    this.table = element("table", { className: "rows", role: "table", "aria-label": label }, head, this.#body);
    this.element = element("div", { className: "table" }, this.table, this.#empty);
  }

  draw(rows, keyOf) {
    const kept = new Map();
    rows.forEach((row, index) => {
      const key = keyOf(row);
      const line = this.#rows.get(key) ?? this.#make(row);
      this.#fill(line, row);
      kept.set(key, line);
      if (this.#body.children[index] !== line) this.#body.insertBefore(line, this.#body.children[index] ?? null);
    });
    for (const [key, line] of this.#rows) if (!kept.has(key)) line.remove();
    this.#rows = kept;
    this.#empty.hidden = rows.length > 0;
    this.table.hidden = rows.length === 0;
  }

  #make(row) {
    const cells = this.#columns.map(({ name, kind, node, level, time }) => {
      const cell = element(kind === "main" ? "th" : "td", { className: kind ?? "", "data-label": name, role: kind === "main" ? "rowheader" : "cell", ...(kind === "main" ? { scope: "row" } : {}) });
      if (node !== undefined) cell.append(node(row));
      else if (level !== undefined) cell.append(mark(), element("span"));
      else cell.append(element(time ? "time" : "span"));
      return cell;
    });
    return element("tr", { role: "row" }, ...cells);
  }

  #fill(line, row) {
    this.#columns.forEach(({ text, title, level, time, node, update }, index) => {
      const cell = line.children[index];
      const value = cell.lastChild;
      if (node !== undefined) update?.(cell.firstChild, row);
      else if (time) setTime(value, text(row));
      else setText(value, text(row));
      if (level !== undefined) setMark(cell.firstChild, level(row));
      if (title !== undefined) setAttribute(value, "title", title(row));
    });
  }
}
