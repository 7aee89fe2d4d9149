/** The pieces that a Yjs document consists of, and their bytes in updates of format V1. */

import { Reader } from "./lib0.mjs";

export const [GC, DELETED, BINARY, STRING, EMBED, FORMAT, TYPE, ANY, SKIP] = [0, 1, 3, 4, 5, 6, 7, 8, 10];
const [HAS_LEFT, HAS_RIGHT, HAS_KEY, KIND_BITS] = [0x80, 0x40, 0x20, 0x1f];
const XML_ELEMENT = 3;

/** A run of clocks of one client. `left` and `right` are its neighbours in the text, if it is in it. */
export class Piece {
  left = null;
  right = null;
  inText = false;

  constructor(fields) {
    const { client, clock, kind, length, content = null, isDeleted = false } = fields;
    const { origin = null, rightOrigin = null, parent = null, key = null } = fields;
    Object.assign(this, { client, clock, kind, length, content, origin, rightOrigin, parent, key });
    this.isDeleted = isDeleted || kind === DELETED || kind === GC;
  }

  get end() {
    return this.clock + this.length;
  }

  get lastId() {
    return { client: this.client, clock: this.end - 1 };
  }

  /** The text that it shows. */
  get shown() {
    return this.inText && !this.isDeleted && this.kind === STRING ? this.content : "";
  }

  /** Drop the first `count` clocks: as a piece of its own, that what is left follows. */
  behead(count) {
    this.clock += count;
    this.length -= count;
    if (this.kind === STRING || this.kind === ANY) this.content = this.content.slice(count);
    if (this.kind !== GC) this.origin = { client: this.client, clock: this.clock - 1 };
  }

  curtail(count) {
    this.length = count;
    if (this.kind === STRING || this.kind === ANY) this.content = this.content.slice(0, count);
  }

  /** Its place stays, for what others put beside it. */
  delete() {
    this.isDeleted = true;
    if (this.kind === STRING || this.kind === ANY) [this.kind, this.content] = [DELETED, null];
  }

  /** Take in the next one, when together they are as if they had been written at once. */
  absorb(next) {
    if (next.client !== this.client || next.clock !== this.end || next.kind !== this.kind) return false;
    if (next.kind !== GC) {
      if (!this.inText || this.right !== next || (next.kind !== STRING && next.kind !== DELETED)) return false;
      if (!same(next.origin, this.lastId) || !same(next.rightOrigin, this.rightOrigin)) return false;
      this.right = next.right;
      if (next.right !== null) next.right.left = this;
    }
    this.length += next.length;
    if (next.kind === STRING) this.content += next.content;
    return true;
  }
}

/** Whether two ids, or none, are the same. */
export function same(one, other) {
  return one?.client === other?.client && one?.clock === other?.clock;
}

/** The pieces of each client, and the ranges of clocks that are deleted. */
export function parsed(update) {
  const reader = new Reader(update);
  const blocks = [];
  for (let clients = reader.uint(); clients > 0; clients--) {
    const count = reader.uint();
    const client = reader.uint();
    let clock = reader.uint();
    const pieces = [];
    while (pieces.length < count) {
      pieces.push(readPiece(reader, client, clock));
      clock = pieces.at(-1).end;
    }
    if (count > 0) blocks.push([client, pieces]);
  }
  const deletes = [];
  for (let clients = reader.uint(); clients > 0; clients--) {
    const client = reader.uint();
    const ranges = [];
    for (let left = reader.uint(); left > 0; left--) ranges.push([reader.uint(), reader.uint()]);
    deletes.push([client, ranges]);
  }
  return { blocks, deletes };
}

function readPiece(reader, client, clock) {
  const info = reader.byte();
  const kind = info & KIND_BITS;
  if (kind === GC || kind === SKIP) return new Piece({ client, clock, kind, length: reader.uint() });
  const id = () => ({ client: reader.uint(), clock: reader.uint() });
  const fields = { client, clock, kind };
  if (info & HAS_LEFT) fields.origin = id();
  if (info & HAS_RIGHT) fields.rightOrigin = id();
  if ((info & (HAS_LEFT | HAS_RIGHT)) === 0) {
    fields.parent = reader.uint() === 1 ? reader.text() : id();
    if (info & HAS_KEY) fields.key = reader.text();
  }
  return new Piece({ ...fields, ...readContent(reader, kind) });
}

function readContent(reader, kind) {
  if (kind === STRING) {
    const content = reader.text();
    return { content, length: content.length };
  }
  if (kind === DELETED) return { length: reader.uint() };
  if (kind === ANY) {
    const content = [];
    for (let left = reader.uint(); left > 0; left--) content.push(reader.raw(() => reader.passAny()));
    return { content, length: content.length };
  }
  const pass = {
    [BINARY]: () => reader.octets(),
    [EMBED]: () => reader.octets(),
    [FORMAT]: () => [reader.octets(), reader.octets()],
    [TYPE]: () => reader.uint() === XML_ELEMENT && reader.octets(),
  }[kind];
  if (pass === undefined) throw new RangeError(`pieces of kind ${kind} are not read here`);
  return { content: reader.raw(pass), length: 1 };
}

/** A piece, without its first `offset` clocks. */
export function write(out, piece, offset) {
  const { client, clock, kind, content } = piece;
  if (kind === GC) {
    out.uint(GC);
    out.uint(piece.length - offset);
    return;
  }
  const origin = offset > 0 ? { client, clock: clock + offset - 1 } : piece.origin;
  const flags = (origin ? HAS_LEFT : 0) | (piece.rightOrigin ? HAS_RIGHT : 0) | (piece.key === null ? 0 : HAS_KEY);
  out.byte(kind | flags);
  for (const id of [origin, piece.rightOrigin]) if (id) writeId(out, id);
  if (!origin && !piece.rightOrigin) {
    out.uint(typeof piece.parent === "string" ? 1 : 0);
    if (typeof piece.parent === "string") out.text(piece.parent);
    else writeId(out, piece.parent);
    if (piece.key !== null) out.text(piece.key);
  }
  if (kind === STRING) out.text(content.slice(offset));
  else if (kind === DELETED) out.uint(piece.length - offset);
  else if (kind === ANY) {
    out.uint(piece.length - offset);
    for (const value of content.slice(offset)) out.raw(value);
  } else out.raw(content);
}

function writeId(out, { client, clock }) {
  out.uint(client);
  out.uint(clock);
}
