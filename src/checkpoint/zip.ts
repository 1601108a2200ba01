/**
 * Where the members of a zip lie in a file, so that stored ones can be mapped. The libraries that know zips either hold the
 * whole of it in memory or read through callbacks, and opening weights is synchronous; of the format, only the central
 * directory is needed here (APPNOTE.TXT 4.3). Anything unusual is refused: two readers must never see different members.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { crc32, inflateRawSync } from 'node:zlib';
import { mistake, type UserError } from '../errors.ts';

/** Part of a file: `nbytes` from `offset`. Deflated: the `deflated` bytes at `offset` inflate to `nbytes`. */
export interface Region {
  file: string;
  offset: number;
  nbytes: number;
  deflated?: number;
  /** Instead of the file's: bytes that are put together when they are asked for, `nbytes` from `offset`. */
  made?: (offset: number, nbytes: number) => Uint8Array;
}

export interface ZipMember extends Region {
  crc: number;
}

/** A directory of 64 MiB has some 500,000 members. */
const DIRECTORY_LIMIT = 64 << 20;
/** The most that deflate can do. */
const DEFLATE_RATIO = 1032;
const [END, END64, LOCATOR64, CENTRAL, LOCAL] = [0x06054b50, 0x06064b50, 0x07064b50, 0x02014b50, 0x04034b50];
const UNKNOWN = 0xffffffff;

/** Members by name. `where` is named in messages; `within` is the part of a file that is the zip. */
export function readZip(within: Region, where: string): Map<string, ZipMember> {
  const handle = openSync(within.file, 'r');
  try {
    return new ZipReader(handle, within, where).members();
  } finally {
    closeSync(handle);
  }
}

/**
 * The bytes of a region, inflated. Refuses one above `limit` before it is allocated.
 * @param scratch used instead of memory of its own where it suffices; the result is then valid until the next use
 */
export function readRegion(region: Region, where: string, limit: number, scratch?: Buffer): Buffer {
  const damaged = (problem: string) => mistake({ where, problem, fix: 'fetch or save the file again' });
  if (region.nbytes > limit) throw damaged(`${region.nbytes} bytes where at most ${limit} can be`);
  if (region.made) {
    const { buffer, byteOffset, length } = region.made(region.offset, region.nbytes);
    return Buffer.from(buffer, byteOffset, length);
  }
  const handle = openSync(region.file, 'r');
  try {
    const length = region.deflated ?? region.nbytes;
    const stored = scratch && scratch.length >= length ? scratch.subarray(0, length) : Buffer.allocUnsafeSlow(length);
    for (let done = 0; done < stored.length; ) {
      const read = readSync(handle, stored, done, Math.min(stored.length - done, 1 << 30), region.offset + done);
      if (read === 0) throw damaged('it is cut short');
      done += read;
    }
    if (region.deflated === undefined) return stored;
    const inflated = inflateRawSync(stored, { maxOutputLength: Math.max(1, region.nbytes) });
    if (inflated.length !== region.nbytes) throw damaged('a compressed member has another length than it says');
    return inflated;
  } catch (error) {
    const { code } = error as { code?: string };
    if (code === 'ERR_BUFFER_TOO_LARGE' || code?.startsWith('Z_')) throw damaged('a compressed member is damaged');
    throw error;
  } finally {
    closeSync(handle);
  }
}

let partBuffer = Buffer.alloc(0);

/** The bytes of a region that is not compressed, at most `size` at a time; a part is overwritten by the next. */
export function readParts({ file, offset, nbytes }: Region, size: number, take: (part: Uint8Array) => void): void {
  if (partBuffer.length < size) partBuffer = Buffer.allocUnsafeSlow(size);
  const handle = openSync(file, 'r');
  try {
    for (let done = 0; done < nbytes; ) {
      const read = readSync(handle, partBuffer, 0, Math.min(size, nbytes - done), offset + done);
      if (read === 0) throw mistake({ where: file, problem: 'it is cut short', fix: 'fetch or save the file again' });
      take(partBuffer.subarray(0, read));
      done += read;
    }
  } finally {
    closeSync(handle);
  }
}

/** A whole member, after its checksum was compared. */
export function readMember(member: ZipMember, where: string, limit: number): Buffer {
  const bytes = readRegion(member, where, limit);
  if (crc32(bytes) === member.crc) return bytes;
  throw mistake({ where, problem: 'it does not match its checksum', fix: 'fetch or save the file again' });
}

class ZipReader {
  readonly #handle: number;
  readonly #base: number;
  readonly #length: number;
  readonly #file: string;
  readonly #where: string;

  constructor(handle: number, { file, offset, nbytes }: Region, where: string) {
    this.#handle = handle;
    this.#file = file;
    this.#base = offset;
    this.#length = Math.min(nbytes, fstatSync(handle).size - offset);
    this.#where = where;
  }

  members(): Map<string, ZipMember> {
    const { at: start, size, count } = this.#directory();
    if (size > DIRECTORY_LIMIT) throw this.#damaged('its directory is absurdly large');
    const directory = this.#bytes(start, size);
    const members = new Map<string, ZipMember>();
    const spans: { from: number; to: number; name: string }[] = [];
    let at = 0;
    for (let i = 0; i < count; i++) {
      if (at + 46 > size || directory.readUInt32LE(at) !== CENTRAL) throw this.#damaged('its directory is damaged');
      const [nameLength, extraLength, commentLength] = [28, 30, 32].map((o) => directory.readUInt16LE(at + o)) as [
        number,
        number,
        number,
      ];
      const next = at + 46 + nameLength + extraLength + commentLength;
      if (next > size) throw this.#damaged('its directory is damaged');
      const header = directory.subarray(at, next);
      const name = header.toString('utf8', 46, 46 + nameLength);
      if (members.has(name)) throw this.#damaged(`it has ${JSON.stringify(name)} twice`);
      const { member, from } = this.#member(header, name, nameLength, extraLength);
      const to = member.offset - this.#base + (member.deflated ?? member.nbytes);
      if (to > start) throw this.#damaged(`${JSON.stringify(name)} lies outside it`);
      spans.push({ from, to, name });
      members.set(name, member);
      at = next;
    }
    if (at !== size) throw this.#damaged('its directory is damaged');
    spans.sort((a, b) => a.from - b.from);
    for (const [i, { from, name }] of spans.entries()) {
      const before = spans[i - 1];
      if (before && before.to > from) throw this.#damaged(`${before.name} and ${name} overlap`);
    }
    return members;
  }

  /** Where the central directory is, from the record at the end. */
  #directory(): { at: number; size: number; count: number } {
    const tail = this.#bytes(Math.max(0, this.#length - 65557), Math.min(this.#length, 65557));
    let end = tail.length - 22;
    while (end >= 0 && tail.readUInt32LE(end) !== END) end--;
    if (end < 0) throw this.#damaged('its end is missing: the file is cut short, or was written by torch before 1.6');
    let [count, size, at] = [tail.readUInt16LE(end + 10), tail.readUInt32LE(end + 12), tail.readUInt32LE(end + 16)];
    if (count === 0xffff || size === UNKNOWN || at === UNKNOWN) {
      if (end < 20 || tail.readUInt32LE(end - 20) !== LOCATOR64) throw this.#damaged('its end is damaged');
      const record = this.#bytes(this.#number(tail, end - 12), 56);
      if (record.readUInt32LE(0) !== END64) throw this.#damaged('its end is damaged');
      [count, size, at] = [this.#number(record, 32), this.#number(record, 40), this.#number(record, 48)];
    }
    if (at + size > this.#length) throw this.#damaged('its directory lies outside it');
    return { at, size, count };
  }

  #member(h: Buffer, name: string, nameLength: number, extraLength: number): { member: ZipMember; from: number } {
    const [flags, method, crc] = [h.readUInt16LE(8), h.readUInt16LE(10), h.readUInt32LE(16)];
    let [packed, nbytes, from] = [h.readUInt32LE(20), h.readUInt32LE(24), h.readUInt32LE(42)];
    if (packed === UNKNOWN || nbytes === UNKNOWN || from === UNKNOWN) {
      const wide = this.#wide(h.subarray(46 + nameLength, 46 + nameLength + extraLength));
      const next = (value: number) => {
        if (value !== UNKNOWN) return value;
        const number = wide.shift();
        if (number === undefined) throw this.#damaged('its directory is damaged');
        return number;
      };
      nbytes = next(nbytes);
      packed = next(packed);
      from = next(from);
    }
    if (flags & 1) throw this.#damaged(`${JSON.stringify(name)} is encrypted`);
    if (method !== 0 && method !== 8) throw this.#damaged(`${JSON.stringify(name)} is compressed by method ${method}`);
    if (method === 0 ? packed !== nbytes : nbytes > packed * DEFLATE_RATIO) {
      throw this.#damaged(`${JSON.stringify(name)} cannot have ${nbytes} bytes`);
    }
    const local = this.#bytes(from, 30);
    if (local.readUInt32LE(0) !== LOCAL) throw this.#damaged('a member is not where the directory says');
    const localName = local.readUInt16LE(26);
    if (this.#bytes(from + 30, localName).toString('utf8') !== name) {
      throw this.#damaged(`directory and member disagree on the name ${JSON.stringify(name)}`);
    }
    const offset = this.#base + from + 30 + localName + local.readUInt16LE(28);
    const member = { file: this.#file, offset, nbytes, crc, ...(method === 8 ? { deflated: packed } : {}) };
    return { member, from };
  }

  /** The 64-bit numbers of the zip64 extra field. */
  #wide(extra: Buffer): number[] {
    for (let at = 0; at + 4 <= extra.length; ) {
      const [tag, size] = [extra.readUInt16LE(at), extra.readUInt16LE(at + 2)];
      if (tag === 1 && at + 4 + size <= extra.length) {
        return Array.from({ length: Math.floor(size / 8) }, (_, i) => this.#number(extra, at + 4 + 8 * i));
      }
      at += 4 + size;
    }
    throw this.#damaged('its directory is damaged');
  }

  #number(bytes: Buffer, at: number): number {
    const value = Number(bytes.readBigUInt64LE(at));
    if (!Number.isSafeInteger(value)) throw this.#damaged('it gives an absurd size');
    return value;
  }

  #bytes(at: number, length: number): Buffer {
    if (at + length > this.#length) throw this.#damaged('it is cut short');
    const bytes = Buffer.alloc(length);
    if (readSync(this.#handle, bytes, 0, length, this.#base + at) !== length) throw this.#damaged('it is cut short');
    return bytes;
  }

  #damaged(problem: string): UserError {
    return mistake({
      where: this.#where,
      problem: `not a usable zip archive: ${problem}`,
      fix: 'fetch or save the file again',
    });
  }
}
