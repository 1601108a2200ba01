/**
 * The safetensors format (huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header, then one
 * buffer that the tensors fill without holes. Only headers are read here; values are mapped by the engine.
 */

import { closeSync, fstatSync, openSync, readSync, renameSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { crc32 } from 'node:zlib';
import type { DType } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { besideName, syncFolder } from '../files.ts';
import { duplicateKey } from './json.ts';
import { type ManifestEntry, manifestEntry } from './manifest.ts';
import { OutFile } from './out_file.ts';
import type { Piece } from './pieces.ts';

/** Where one tensor lies: `offset` bytes from the start of `file`, `nbytes` long, contiguous and little-endian. */
export interface TensorEntry {
  name: string;
  file: string;
  dtype: DType;
  shape: readonly number[];
  offset: number;
  nbytes: number;
  /** Where it is no single run of bytes: what it is put together from. `file` and `offset` are then those of the first piece. */
  pieces?: readonly Piece[];
}

export interface SafetensorsHeader {
  entries: Map<string, TensorEntry>;
  metadata: Record<string, string>;
}

/** A tensor to be written; `data` is asked for when its turn comes, so that only one need be in memory. */
export interface TensorToWrite {
  name: string;
  dtype: DType;
  shape: readonly number[];
  data: () => Uint8Array;
  /** The same bytes a part at a time, where they need not all be in memory; each part is valid until the next. */
  stream?: (take: (part: Uint8Array) => void) => void;
}

/** The reference implementation's own limit. */
const HEADER_LIMIT = 100_000_000;
/** The data begin at a multiple of this, so that mapped tensors are aligned for vector loads. */
const ALIGNMENT = 64;

/** Bytes are passed on in parts that stay in the processor's cache between being read, summed up and written. */
export const PART = 256 << 10;

const CODES: Record<DType, string> = {
  float64: 'F64',
  int64: 'I64',
  float32: 'F32',
  int32: 'I32',
  bfloat16: 'BF16',
  float16: 'F16',
  uint8: 'U8',
  bool: 'BOOL',
};
const DTYPES = new Map(Object.entries(CODES).map(([dtype, code]) => [code, dtype as DType]));

const BYTES: Record<DType, number> = {
  float64: 8,
  int64: 8,
  float32: 4,
  int32: 4,
  bfloat16: 2,
  float16: 2,
  uint8: 1,
  bool: 1,
};

export function bytesPerElement(dtype: DType): number {
  return BYTES[dtype];
}

/** Bytes of a contiguous tensor; NaN when that is no safe integer. */
export function byteLength(shape: readonly number[], dtype: DType): number {
  let count = 1;
  for (const size of shape) count *= size;
  const bytes = count * BYTES[dtype];
  return Number.isSafeInteger(bytes) ? bytes : Number.NaN;
}

/** Reads and checks a header. Throws a user error naming the file and what is wrong with it. */
export function readSafetensors(file: string): SafetensorsHeader {
  const { text, dataStart, dataBytes } = readHeaderText(file);
  const damaged = (problem: string, found?: string) =>
    mistake({
      where: file,
      problem: `not a valid safetensors file: ${problem}`,
      found,
      fix: 'fetch or save the file again',
    });
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (error) {
    throw damaged('its header is not JSON', (error as Error).message);
  }
  if (typeof header !== 'object' || header === null || Array.isArray(header))
    throw damaged('its header is no JSON object');
  const repeated = duplicateKey(text);
  if (repeated !== null) throw damaged(`its header has ${JSON.stringify(repeated)} twice`);

  const entries = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(header)) {
    if (name === '__metadata__') {
      if (!isStringRecord(value)) throw damaged('__metadata__ must map strings to strings');
      metadata = value;
      continue;
    }
    entries.set(name, readEntry(file, name, value, dataStart, dataBytes, damaged));
  }
  checkCoverage([...entries.values()], dataStart, dataBytes, damaged);
  return { entries, metadata };
}

type Damaged = (problem: string, found?: string) => Error;

function readHeaderText(file: string): { text: string; dataStart: number; dataBytes: number } {
  const handle = openSync(file, 'r');
  try {
    const { size } = fstatSync(handle);
    const damaged = (problem: string) =>
      mistake({
        where: file,
        problem: `not a valid safetensors file: ${problem}`,
        found: `${size} bytes`,
        fix: 'fetch or save the file again',
      });
    if (size < 10) throw damaged('too short to hold a header');
    const prefix = Buffer.alloc(8);
    readSync(handle, prefix, 0, 8, 0);
    const length = prefix.readBigUInt64LE();
    if (length > BigInt(Math.min(size - 8, HEADER_LIMIT))) {
      throw damaged(`the header's length is given as ${length} bytes`);
    }
    const bytes = Buffer.alloc(Number(length));
    if (readSync(handle, bytes, 0, bytes.length, 8) !== bytes.length) throw damaged('it ends inside the header');
    let text: string;
    try {
      text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw damaged('its header is not UTF-8');
    }
    return { text, dataStart: 8 + bytes.length, dataBytes: size - 8 - bytes.length };
  } finally {
    closeSync(handle);
  }
}

function readEntry(
  file: string,
  name: string,
  value: unknown,
  dataStart: number,
  dataBytes: number,
  damaged: Damaged,
): TensorEntry {
  const { dtype: code, shape, data_offsets: range } = (value ?? {}) as Record<string, unknown>;
  const isSize = (n: unknown): n is number => Number.isSafeInteger(n) && (n as number) >= 0;
  if (typeof code !== 'string' || !Array.isArray(shape) || !shape.every(isSize)) {
    throw damaged(`tensor ${name} has no proper dtype and shape`, JSON.stringify(value));
  }
  if (!Array.isArray(range) || range.length !== 2 || !range.every(isSize)) {
    throw damaged(`tensor ${name} has no proper data_offsets`, JSON.stringify(value));
  }
  const dtype = DTYPES.get(code);
  if (dtype === undefined) {
    throw mistake({
      where: file,
      problem: `tensor ${name} has a type that neva cannot read`,
      expected: [...DTYPES.keys()].join(', '),
      found: code,
      fix: 'use the model in float32, bfloat16 or float16 (quantised weights cannot be trained)',
    });
  }
  const [begin, end] = range as [number, number];
  if (begin > end || end > dataBytes) {
    throw damaged(`tensor ${name} lies at bytes ${begin} to ${end} of ${dataBytes}: the file is cut short or altered`);
  }
  if (byteLength(shape, dtype) !== end - begin) {
    throw damaged(`tensor ${name} is ${code} [${shape.join(', ')}] but has ${end - begin} bytes`);
  }
  return { name, file, dtype, shape, offset: dataStart + begin, nbytes: end - begin };
}

/** The format allows neither overlaps nor holes: a hole would hide bytes, an overlap would alias weights. */
function checkCoverage(entries: TensorEntry[], dataStart: number, dataBytes: number, damaged: Damaged): void {
  let position = dataStart;
  let before = 'the header';
  for (const entry of entries.sort((a, b) => a.offset - b.offset || a.nbytes - b.nbytes)) {
    if (entry.offset < position) throw damaged(`tensor ${entry.name} overlaps ${before}`);
    if (entry.offset > position)
      throw damaged(`${entry.offset - position} bytes before tensor ${entry.name} belong to none`);
    position = entry.offset + entry.nbytes;
    before = entry.name;
  }
  const rest = dataStart + dataBytes - position;
  if (rest > 0) throw damaged(`the last ${rest} bytes belong to no tensor`);
}

/** `writeTensors`, with what a manifest says of the file. */
export function writeSafetensors(
  file: string,
  tensors: readonly TensorToWrite[],
  metadata?: Record<string, string>,
): ManifestEntry {
  let sum = 0;
  const bytes = writeTensors(file, tensors, metadata, (part) => {
    sum = crc32(part, sum);
  });
  return manifestEntry({ bytes, sum });
}

/**
 * Writes a file one tensor at a time: beside, synced, renamed. Returns its size.
 * Wide types come first, whatever the order given, so that every tensor is aligned to its own element size.
 * @param observe is given every byte that is written, in order
 */
export function writeTensors(
  file: string,
  tensors: readonly TensorToWrite[],
  metadata: Record<string, string> = { format: 'pt' },
  observe: (bytes: Uint8Array) => void = () => {},
): number {
  const order = [...tensors].sort((a, b) => BYTES[b.dtype] - BYTES[a.dtype]);
  const header: [string, unknown][] = [['__metadata__', metadata]];
  let position = 0;
  for (const { name, dtype, shape } of order) {
    const end = position + byteLength(shape, dtype);
    header.push([name, { dtype: CODES[dtype], shape, data_offsets: [position, end] }]);
    position = end;
  }
  if (new Set(order.map((t) => t.name)).size !== order.length) throw new Error(`${file}: a tensor name is given twice`);
  let text = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  text = Buffer.concat([text, Buffer.alloc((ALIGNMENT - ((8 + text.length) % ALIGNMENT)) % ALIGNMENT, ' ')]);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(text.length));

  const total = 8 + text.length + position;
  const beside = besideName(file);
  rmSync(beside, { force: true });
  const out = new OutFile(beside, total);
  const write = (bytes: Uint8Array) => {
    observe(bytes);
    out.write(bytes);
  };
  try {
    write(prefix);
    write(text);
    for (const tensor of order) {
      const { name, dtype, shape } = tensor;
      const written = streamed(tensor, write);
      if (written !== byteLength(shape, dtype)) {
        throw new Error(`${file}: ${name} is ${dtype} [${shape.join(', ')}] but was given ${written} bytes`);
      }
    }
    out.finish();
    renameSync(beside, file);
  } catch (error) {
    out.abandon();
    rmSync(beside, { force: true });
    throw error;
  }
  syncFolder(dirname(file));
  return total;
}

/** Gives a tensor's bytes to `take`, in as many parts as it likes; returns how many there were. */
export function streamed({ data, stream }: TensorToWrite, take: (part: Uint8Array) => void): number {
  let count = 0;
  const counted = (part: Uint8Array) => {
    count += part.length;
    take(part);
  };
  if (stream) stream(counted);
  else inParts(data(), PART, counted);
  return count;
}

/** Memory, at most `size` bytes at a time. */
export function inParts(bytes: Uint8Array, size: number, take: (part: Uint8Array) => void): void {
  for (let at = 0; at < bytes.length; at += size) take(bytes.subarray(at, at + size));
}

export function isStringRecord(value: unknown): value is Record<string, string> {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((v) => typeof v === 'string')
  );
}
