/**
 * Records of a JSON array or JSONL file by position, without holding them: one scan finds where each record begins and ends,
 * and `read` parses one of them. A 1 GB file costs 16 bytes a record.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { mistake } from '../errors.ts';
import { gunzipToDescriptor, READ } from './files.ts';
import { problem } from './problem.ts';

export interface RecordFile {
  readonly path: string;
  readonly size: number;
  /** The parsed record; malformed JSON is a problem of kind `json`. */
  read(index: number): unknown;
  close(): void;
}

const CHUNK = 1 << 20;
const [QUOTE, BACKSLASH, COMMA, OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT, NEWLINE] = [
  ...Buffer.from('"\\,[]{}\n'),
] as [number, number, number, number, number, number, number, number];
const isSpace = (byte: number) => byte === 32 || byte === 10 || byte === 13 || byte === 9;

/** Opens a file of records: a JSON array, or one JSON value a line (told apart by the first character), perhaps gzipped. */
export async function openRecords(path: string): Promise<RecordFile> {
  let file: number;
  try {
    file = openSync(path, READ);
  } catch (error) {
    throw mistake({
      where: path,
      problem: 'cannot read the data file',
      found: (error as NodeJS.ErrnoException).code,
      fix: 'set model.data.data_path to a LLaVA-style .json or .jsonl file',
    });
  }
  try {
    const status = fstatSync(file);
    if (!status.isFile()) {
      const what = status.isDirectory() ? 'is a folder' : 'is not a plain file';
      throw mistake({ where: path, problem: `the data file ${what}`, expected: 'a .json or .jsonl file' });
    }
    if (isGzip(file)) {
      closeSync(file);
      file = -1;
      file = await gunzipToDescriptor(path);
    }
    const { starts, ends } = scan(file, path);
    return new FileOfRecords(path, file, starts, ends);
  } catch (error) {
    if (file >= 0) closeSync(file);
    throw error;
  }
}

/** By its first bytes, whatever the name says. */
function isGzip(file: number): boolean {
  const magic = Buffer.alloc(2);
  return readSync(file, magic, 0, 2, 0) === 2 && magic[0] === 0x1f && magic[1] === 0x8b;
}

class FileOfRecords implements RecordFile {
  readonly path: string;
  readonly size: number;
  readonly #file: number;
  readonly #starts: Float64Array;
  readonly #ends: Float64Array;
  #closed = false;

  constructor(path: string, file: number, starts: number[], ends: number[]) {
    this.path = path;
    this.size = starts.length;
    this.#file = file;
    this.#starts = Float64Array.from(starts);
    this.#ends = Float64Array.from(ends);
  }

  read(index: number): unknown {
    const start = this.#starts[index];
    const end = this.#ends[index];
    if (start === undefined || end === undefined) throw new RangeError(`record ${index} of ${this.size}`);
    const bytes = Buffer.allocUnsafe(end - start);
    let filled = 0;
    while (filled < bytes.length) {
      const count = readSync(this.#file, bytes, filled, bytes.length - filled, start + filled);
      if (count === 0) break;
      filled += count;
    }
    try {
      return JSON.parse(bytes.toString('utf8', 0, filled));
    } catch (error) {
      throw problem('json', {
        where: `${this.path}, record ${index}`,
        problem: `not valid JSON: ${(error as Error).message}`,
        found: `${JSON.stringify(bytes.toString('utf8', 0, Math.min(filled, 60)))} at byte ${start}`,
      });
    }
  }

  close(): void {
    if (!this.#closed) closeSync(this.#file);
    this.#closed = true;
  }
}

/** Byte ranges of the records. Nesting and strings are followed, so that commas and brackets inside records do not count. */
function scan(file: number, path: string): { starts: number[]; ends: number[] } {
  const starts: number[] = [];
  const ends: number[] = [];
  const chunk = Buffer.allocUnsafe(CHUNK);
  let offset = 0;
  let array: boolean | null = null;
  let depth = 0;
  let inString = false;
  let escaped = false;
  let start = -1;
  let last = -1;
  let finished = false;
  for (;;) {
    const count = readSync(file, chunk, 0, CHUNK, offset);
    if (count === 0) break;
    const view = chunk.subarray(0, count);
    /** Next backslash from the last place that one was looked for; −1: none in this chunk. */
    let slash = -2;
    let at = 0;
    // A byte-order mark is not JSON, but editors leave it.
    if (offset === 0 && count >= 3 && chunk[0] === 0xef && chunk[1] === 0xbb && chunk[2] === 0xbf) at = 3;
    for (; at < count; at++) {
      const byte = chunk[at] as number;
      if (array === null) {
        if (isSpace(byte)) continue;
        array = byte === OPEN_ARRAY;
        if (array) continue;
      }
      if (!array) {
        if (byte === NEWLINE) {
          if (start >= 0) {
            starts.push(start);
            ends.push(last + 1);
            start = -1;
          }
        } else if (!isSpace(byte)) {
          if (start < 0) start = offset + at;
          last = offset + at;
        }
        continue;
      }
      if (inString) {
        if (escaped) escaped = false;
        else {
          // Most of a file is strings: on to what may end one. Backslashes are rare, so the next one is kept.
          if (slash !== -1 && slash < at) slash = view.indexOf(BACKSLASH, at);
          const quote = view.indexOf(QUOTE, at);
          const isEscape = slash >= 0 && (quote < 0 || slash < quote);
          at = isEscape ? slash : quote >= 0 ? quote : count - 1;
          if (isEscape) escaped = true;
          else if (quote >= 0) inString = false;
        }
        last = offset + at;
        continue;
      }
      if (isSpace(byte)) continue;
      if (finished) throw malformed(path, offset + at, 'text after the end of the array');
      if (depth === 0 && (byte === COMMA || byte === CLOSE_ARRAY)) {
        if (start < 0 && (byte === COMMA || starts.length > 0)) throw malformed(path, offset + at, 'an empty element');
        if (start >= 0) {
          starts.push(start);
          ends.push(last + 1);
          start = -1;
        }
        finished = byte === CLOSE_ARRAY;
        continue;
      }
      if (start < 0) start = offset + at;
      last = offset + at;
      if (byte === QUOTE) inString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) depth++;
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) depth--;
    }
    offset += count;
  }
  if (array && !finished) throw malformed(path, offset, 'the file ends inside the array');
  if (start >= 0) {
    starts.push(start);
    ends.push(last + 1);
  }
  return { starts, ends };
}

function malformed(path: string, offset: number, what: string): Error {
  return mistake({
    where: path,
    problem: `not valid JSON: ${what} (byte ${offset})`,
    expected: 'a JSON array of records, or one JSON record a line',
    fix: 'complete or repair the file; a copy that was cut short is the usual cause',
  });
}
