/**
 * Lengths of all records, by which `group_by_modality_length` sorts: words and pictures, counted once for a data file (a second for
 * 100 MB) and kept in the user's cache, eight bytes a record, for the starts that follow.
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { expandBraces } from './braces.ts';
import type { DataRecord } from './parse-record.ts';
import { isRecordProblem } from './problem.ts';

interface Records {
  readonly size: number;
  get(number: number): DataRecord;
}

/** Words and pictures of each record, one after the other: [words, pictures, words, …]. */
export function recordCounts(records: Records, dataPaths: readonly string[], cacheFolder: string | null): Int32Array {
  const file = cacheFolder && join(cacheFolder, `lengths-${stampOf(dataPaths)}`);
  const known = file ? readCounts(file, records.size) : null;
  if (known) return known;
  const counts = new Int32Array(2 * records.size);
  for (let number = 0; number < records.size; number++) {
    try {
      const { turns, images } = records.get(number);
      counts[2 * number] = turns.reduce((sum, { text }) => sum + countWords(text), 0);
      counts[2 * number + 1] = images.length;
    } catch (error) {
      // Such a record is reported when its turn comes.
      if (!isRecordProblem(error)) throw error;
    }
  }
  if (cacheFolder && file) keep(cacheFolder, file, counts);
  return counts;
}

/** Words and image positions of each of `members`, negative without a picture: near enough to positions, and no tokenizing. */
export function groupingLengths(counts: Int32Array, members: Int32Array, featuresPerImage: number): Int32Array {
  return members.map((number) => {
    const [words, images] = [counts[2 * number]!, counts[2 * number + 1]!];
    return images > 0 ? words + images * featuresPerImage : -words;
  });
}

/** Stretches without white space: Python's `len(text.split())`, as LLaVA counts. */
export function countWords(text: string): number {
  let words = 0;
  for (const _ of text.matchAll(/\S+/g)) words++;
  return words;
}

/** Changes with the name, size or time of change of any of the files. */
function stampOf(dataPaths: readonly string[]): string {
  const files = dataPaths.flatMap(expandBraces).map((path) => {
    const { size, mtimeMs } = statSync(path);
    return [resolve(path), size, mtimeMs];
  });
  return createHash('sha256')
    .update(JSON.stringify([1, files]))
    .digest('hex')
    .slice(0, 24);
}

function readCounts(file: string, records: number): Int32Array | null {
  try {
    const bytes = readFileSync(file);
    // Copied: a small file's bytes lie anywhere in a pool of Node's.
    return bytes.length === 8 * records ? new Int32Array(Uint8Array.from(bytes).buffer) : null;
  } catch {
    return null;
  }
}

function keep(folder: string, file: string, counts: Int32Array): void {
  try {
    mkdirSync(folder, { recursive: true });
    writeFileAtomic(file, new Uint8Array(counts.buffer));
  } catch {
    // Without a place to write they are counted again at the next start.
  }
}
