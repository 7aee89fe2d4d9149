/**
 * The encoding of Yjs's bytes (lib0), as far as a shared text needs it: numbers, strings, byte
 * strings; `any` values are passed over whole.
 */

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const TO_UTF8 = new TextEncoder();
const DEPTH_MAX = 64;
/** How many bytes follow what leads an `any` value, where that is fixed. */
const FIXED = new Map([[127, 0], [126, 0], [124, 4], [123, 8], [122, 8], [121, 0], [120, 0]]);
const [BYTES, ARRAY, OBJECT, STRING, INTEGER] = [116, 117, 118, 119, 125];

/** Reads from the front; throws `RangeError` for what ends too early or is too large. */
export class Reader {
  constructor(bytes) {
    this.bytes = bytes;
    this.at = 0;
  }

  get isDone() {
    return this.at >= this.bytes.length;
  }

  byte() {
    if (this.isDone) throw new RangeError("the bytes end too early");
    return this.bytes[this.at++];
  }

  /** A number of 53 bits at most, seven bits in each byte. Shifts would cut it to 32. */
  uint() {
    let number = 0;
    for (let unit = 1; ; unit *= 128) {
      const byte = this.byte();
      number += (byte & 0x7f) * unit;
      if (number > Number.MAX_SAFE_INTEGER) throw new RangeError("a number is too large");
      if (byte < 0x80) return number;
    }
  }

  take(length) {
    const end = this.at + length;
    if (end > this.bytes.length) throw new RangeError("the bytes end too early");
    const taken = this.bytes.subarray(this.at, end);
    this.at = end;
    return taken;
  }

  /** Bytes with their length in front. */
  octets() {
    return this.take(this.uint());
  }

  text() {
    return UTF8.decode(this.octets());
  }

  /** What `pass` reads, as the bytes that it was. */
  raw(pass) {
    const from = this.at;
    pass();
    return this.bytes.slice(from, this.at);
  }

  passAny(depth = 1) {
    if (depth > DEPTH_MAX) throw new RangeError("values are too deep");
    const tag = this.byte();
    if (FIXED.has(tag)) this.take(FIXED.get(tag));
    else if (tag === STRING || tag === BYTES) this.octets();
    else if (tag === INTEGER) while (this.byte() > 0x7f);
    else if (tag === ARRAY) for (let left = this.uint(); left > 0; left--) this.passAny(depth + 1);
    else if (tag === OBJECT) {
      for (let left = this.uint(); left > 0; left--) {
        this.octets();
        this.passAny(depth + 1);
      }
    } else throw new RangeError(`there are no values of type ${tag}`);
  }
}

/** Gathers bytes. */
export class Writer {
  #bytes = [];

  byte(byte) {
    this.#bytes.push(byte);
  }

  uint(number) {
    while (number > 0x7f) {
      this.#bytes.push((number % 128) | 0x80);
      number = Math.floor(number / 128);
    }
    this.#bytes.push(number);
  }

  raw(bytes) {
    for (const byte of bytes) this.#bytes.push(byte);
  }

  octets(bytes) {
    this.uint(bytes.length);
    this.raw(bytes);
  }

  text(text) {
    this.octets(TO_UTF8.encode(text));
  }

  get bytes() {
    return Uint8Array.from(this.#bytes);
  }
}
