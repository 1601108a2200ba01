/** Reading a pickle's bytes: the literals of its instructions. Every length is checked against what is there. */
import { mistake, type UserError } from '../errors.ts';

export class PickleCursor {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #where: string;
  #at = 0;

  constructor(bytes: Uint8Array, where: string) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    this.#where = where;
  }

  damaged(problem: string): UserError {
    return mistake({
      where: this.#where,
      problem: `not a readable pickle: ${problem} at byte ${this.#at}`,
      fix: 'fetch or save the file again',
    });
  }

  byte(): number {
    return this.#bytes[this.#take(1)]!;
  }

  short(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  int(): number {
    return this.#view.getInt32(this.#take(4), true);
  }

  word(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** A 64-bit length of something that follows. */
  length(): number {
    const count = Number(this.#view.getBigUint64(this.#take(8), true));
    if (this.#at + count > this.#bytes.length) throw this.damaged('it is cut short');
    return count;
  }

  double(): number {
    return this.#view.getFloat64(this.#take(8), false);
  }

  chunk(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#bytes.subarray(at, at + length);
  }

  text(length: number, encoding: 'utf8' | 'latin1' = 'utf8'): string {
    const { buffer, byteOffset } = this.chunk(length);
    return Buffer.from(buffer, byteOffset, length).toString(encoding);
  }

  line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw this.damaged('it is cut short');
    const text = this.text(end - this.#at);
    this.#at++;
    return text;
  }

  /** A line of digits. */
  decimal(): number | bigint {
    const text = this.line().replace(/L$/, '');
    if (!/^-?\d{1,400}$/.test(text)) throw this.damaged('an integer that is none');
    return narrow(BigInt(text));
  }

  float(): number {
    const value = Number(this.line());
    if (Number.isNaN(value)) throw this.damaged('a float that is none');
    return value;
  }

  /** Little-endian two's complement of `length` bytes. */
  integer(length: number): number | bigint {
    if (length < 0 || length > 1024) throw this.damaged('an integer of an absurd length');
    const digits = this.chunk(length);
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(digits[i]!);
    return narrow(length > 0 ? BigInt.asIntN(8 * length, value) : 0n);
  }

  /** Position of the next `count` bytes, which are there. */
  #take(count: number): number {
    const at = this.#at;
    if (at + count > this.#bytes.length) throw this.damaged('it is cut short');
    this.#at += count;
    return at;
  }
}

const narrow = (value: bigint): number | bigint => {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
};

/** Instructions that push one value, which follows them. Names as in pickletools. */
export const LITERALS: Record<string, (cursor: PickleCursor) => unknown> = {
  N: () => null,
  '\x88': () => true,
  '\x89': () => false,
  I: (c) => c.decimal(), // INT; protocol 2 and later have NEWTRUE for what this wrote as 01
  L: (c) => c.decimal(),
  J: (c) => c.int(),
  K: (c) => c.byte(),
  M: (c) => c.short(),
  '\x8a': (c) => c.integer(c.byte()), // LONG1
  '\x8b': (c) => c.integer(c.int()), // LONG4
  F: (c) => c.float(),
  G: (c) => c.double(),
  X: (c) => c.text(c.word()), // BINUNICODE
  '\x8c': (c) => c.text(c.byte()), // SHORT_BINUNICODE
  '\x8d': (c) => c.text(c.length()), // BINUNICODE8
  T: (c) => c.text(c.word(), 'latin1'), // BINSTRING, Python 2's str
  U: (c) => c.text(c.byte(), 'latin1'), // SHORT_BINSTRING
  B: (c) => c.chunk(c.word()), // BINBYTES
  C: (c) => c.chunk(c.byte()), // SHORT_BINBYTES
  '\x8e': (c) => c.chunk(c.length()), // BINBYTES8
  '\x96': (c) => c.chunk(c.length()), // BYTEARRAY8
};
