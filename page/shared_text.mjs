/**
 * The text of a Yjs document: the root `text`, a `Y.Text`, as updates of format V1 tell of it.
 *
 * Everybody who has the same updates shows the same text, in whatever order they came (YATA; Nicolaescu,
 * Jahns, Derntl and Klamma, "Near real-time peer-to-peer shared editing on extensible data types",
 * 2016). What else a document holds is kept as it came, so that it can be told on, and not looked into.
 */

import { Reader, Writer } from "./lib0.mjs";
import { GC, Piece, SKIP, STRING, parsed, same, write } from "./pieces.mjs";

const ROOT = "text";
export class SharedText {
  #client;
  #pieces = new Map();
  #first = null;

  /** `client`: an id that nobody else has, of 32 bits. */
  constructor(client) {
    this.#client = client;
  }

  toString() {
    let text = "";
    for (let piece = this.#first; piece !== null; piece = piece.right) text += piece.shown;
    return text;
  }

  /** Delete `count` UTF-16 units at `index`, put `text` there, and give the update that tells of it. */
  edit(index, count, text) {
    const before = this.#known();
    const deleted = new Map();
    let [left, right] = this.#around(index);
    for (let next = right; count > 0 && next !== null; next = next.right) {
      if (next.shown === "") continue;
      if (next.length > count) this.#split(next, count);
      count -= next.length;
      next.delete();
      note(deleted, next);
    }
    if (text !== "") {
      const fields = { client: this.#client, clock: this.#next(this.#client), kind: STRING, content: text };
      Object.assign(fields, { length: text.length, origin: left?.lastId, parent: ROOT });
      if (right !== null) fields.rightOrigin = { client: right.client, clock: right.clock };
      const piece = new Piece(fields);
      this.#link(piece, left);
      this.#store(piece);
    }
    const update = this.#encoded(before, deleted);
    this.#tidy();
    return update;
  }

  /** What has been taken in: the state vector. */
  get vector() {
    const known = this.#known();
    const out = new Writer();
    out.uint(known.size);
    for (const [client, clock] of known) {
      out.uint(client);
      out.uint(clock);
    }
    return out.bytes;
  }

  /** Everything that is missing where this state vector is from. */
  missing(vector) {
    const reader = new Reader(vector);
    const known = new Map();
    for (let left = reader.uint(); left > 0; left--) known.set(reader.uint(), reader.uint());
    const deleted = new Map();
    for (const pieces of this.#pieces.values())
      for (const piece of pieces) if (piece.isDeleted) note(deleted, piece);
    return this.#encoded(known, deleted);
  }

  /**
   * Take in an update. False, and nothing is taken, for one that builds on what is not here: ask for
   * what is missing then.
   */
  apply(update) {
    const { blocks, deletes } = parsed(update);
    if (!this.#fits(blocks, deletes)) return false;
    const waiting = new Map(blocks);
    // Each follows what it refers to, which may be another client's piece of the same update.
    for (let isMoving = true; isMoving; ) {
      isMoving = false;
      for (const [client, pieces] of waiting) {
        let count = 0;
        while (count < pieces.length && this.#isReady(pieces[count])) this.#integrate(pieces[count++]);
        isMoving ||= count > 0;
        waiting.set(client, pieces.slice(count));
      }
    }
    for (const [client, ranges] of deletes)
      for (const [clock, length] of ranges) this.#delete(client, clock, length);
    this.#tidy();
    return true;
  }

  /** The place behind the character before `index`, wherever that will be; null: the beginning. */
  anchor(index) {
    const [left] = this.#around(index);
    return left?.lastId ?? null;
  }

  /** Where an anchor is now. */
  indexOf(anchor) {
    if (anchor === null) return 0;
    const target = this.#at(anchor);
    let index = 0;
    for (let piece = this.#first; piece !== target && piece !== null; piece = piece.right)
      index += piece.shown.length;
    return target.shown === "" ? index : index + anchor.clock - target.clock + 1;
  }

  /** The pieces on both sides of a place in what is shown. */
  #around(index) {
    let left = null;
    let right = this.#first;
    while (index > 0 && right !== null) {
      if (right.shown.length > index) this.#split(right, index);
      index -= right.shown.length;
      [left, right] = [right, right.right];
    }
    return [left, right];
  }

  // Pieces by their ids

  #next(client) {
    return this.#pieces.get(client)?.at(-1)?.end ?? 0;
  }

  #known() {
    return new Map([...this.#pieces.keys()].map((client) => [client, this.#next(client)]));
  }

  /** Where in the pieces of its client the one is that holds this id. */
  #position({ client, clock }) {
    const pieces = this.#pieces.get(client);
    let [low, high] = [0, pieces.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (pieces[middle].clock <= clock) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #at(id) {
    return this.#pieces.get(id.client)[this.#position(id)];
  }

  /** The piece that ends, or begins, with this id. */
  #endingAt(id) {
    const piece = this.#at(id);
    if (piece.end > id.clock + 1 && piece.kind !== GC) this.#split(piece, id.clock + 1 - piece.clock);
    return piece;
  }

  #startingAt(id) {
    const piece = this.#at(id);
    if (piece.clock === id.clock || piece.kind === GC) return piece;
    return this.#split(piece, id.clock - piece.clock);
  }

  /** Cut a piece after so many clocks; the second half. */
  #split(piece, count) {
    const rest = Object.assign(new Piece(piece), { isDeleted: piece.isDeleted });
    rest.behead(count);
    piece.curtail(count);
    this.#pieces.get(piece.client).splice(this.#position(piece) + 1, 0, rest);
    if (piece.inText) this.#link(rest, piece);
    return rest;
  }

  #store(piece) {
    const pieces = this.#pieces.get(piece.client);
    if (pieces === undefined) this.#pieces.set(piece.client, [piece]);
    else pieces.push(piece);
  }

  #link(piece, left) {
    piece.inText = true;
    piece.left = left;
    piece.right = left === null ? this.#first : left.right;
    if (left === null) this.#first = piece;
    else left.right = piece;
    if (piece.right !== null) piece.right.left = piece;
  }

  #tidy() {
    for (const [client, pieces] of this.#pieces) {
      const kept = [];
      for (const piece of pieces) if (!kept.at(-1)?.absorb(piece)) kept.push(piece);
      this.#pieces.set(client, kept);
    }
  }

  // Taking in

  #fits(blocks, deletes) {
    const after = this.#known();
    for (const [client, pieces] of blocks) {
      if (pieces[0].clock > (after.get(client) ?? 0)) return false;
      after.set(client, Math.max(pieces.at(-1).end, after.get(client) ?? 0));
    }
    const isThere = ({ client, clock }) => clock < (after.get(client) ?? 0);
    for (const [client, pieces] of blocks) {
      const news = pieces.filter(({ end }) => end > this.#next(client));
      if (news.some((piece) => piece.kind === SKIP || !references(piece).every(isThere))) return false;
    }
    return [...deletes].every(([client, ranges]) =>
      ranges.every(([clock, length]) => isThere({ client, clock: clock + length - 1 })),
    );
  }

  #isReady(piece) {
    return references(piece).every(({ client, clock }) => clock < this.#next(client));
  }

  #integrate(piece) {
    const known = this.#next(piece.client);
    if (piece.end <= known) return;
    if (piece.clock < known) piece.behead(known - piece.clock);
    const left = piece.origin && this.#endingAt(piece.origin);
    const right = piece.rightOrigin && this.#startingAt(piece.rightOrigin);
    if (left?.kind === GC || right?.kind === GC) {
      // What it lies in is gone.
      Object.assign(piece, { kind: GC, content: null, isDeleted: true, origin: null, rightOrigin: null });
    }
    piece.parent ??= left?.parent ?? right?.parent ?? null;
    piece.key ??= left?.key ?? right?.key ?? null;
    if (piece.kind !== GC && piece.parent === ROOT && piece.key === null)
      this.#link(piece, this.#leftOf(piece, left, right));
    this.#store(piece);
  }

  /**
   * What the piece comes after: `left`, or one of those that others put between `left` and `right` without
   * knowing of the piece. Of those with the same origin the smaller client's comes first, with
   * everything that follows from it: no two runs are ever mixed.
   */
  #leftOf(piece, left, right) {
    const passed = new Set();
    let since = new Set();
    const after = (other) => {
      left = other;
      since = new Set();
    };
    for (let other = left === null ? this.#first : left.right; other !== null && other !== right; other = other.right) {
      passed.add(other);
      since.add(other);
      if (same(other.origin, piece.origin)) {
        if (other.client < piece.client) after(other);
        else if (same(other.rightOrigin, piece.rightOrigin)) break;
        continue;
      }
      const from = other.origin && this.#at(other.origin);
      if (from === null || !passed.has(from)) break;
      if (!since.has(from)) after(other);
    }
    return left;
  }

  #delete(client, clock, length) {
    const end = clock + length;
    while (clock < end) {
      const piece = this.#startingAt({ client, clock });
      if (piece.end > end && piece.kind !== GC) this.#split(piece, end - clock);
      piece.delete();
      clock = piece.end;
    }
  }

  // Telling

  /** What comes after these clocks, and what is deleted. */
  #encoded(known, deleted) {
    const out = new Writer();
    const from = (client) => known.get(client) ?? 0;
    const clients = [...this.#pieces.keys()].filter((client) => this.#next(client) > from(client));
    out.uint(clients.length);
    for (const client of clients.sort((one, other) => other - one)) {
      const pieces = this.#pieces.get(client).filter(({ end }) => end > from(client));
      out.uint(pieces.length);
      out.uint(client);
      out.uint(Math.max(from(client), pieces[0].clock));
      for (const piece of pieces) write(out, piece, Math.max(0, from(client) - piece.clock));
    }
    out.uint(deleted.size);
    for (const [client, ranges] of deleted) {
      const whole = joined(ranges);
      out.uint(client);
      out.uint(whole.length);
      for (const number of whole.flat()) out.uint(number);
    }
    return out.bytes;
  }
}

function references({ origin, rightOrigin, parent }) {
  return [origin, rightOrigin, parent].filter((id) => id !== null && typeof id === "object");
}

/** One more piece among those that are deleted. */
function note(deleted, { client, clock, length }) {
  if (!deleted.has(client)) deleted.set(client, []);
  deleted.get(client).push([clock, length]);
}

/** Ranges of clocks in order, and apart. */
function joined(ranges) {
  const found = [];
  for (const [clock, length] of ranges.sort(([one], [other]) => one - other)) {
    const last = found.at(-1);
    if (last !== undefined && last[0] + last[1] === clock) last[1] += length;
    else found.push([clock, length]);
  }
  return found;
}
