/** A data set by the form it has on disk: a file of records, or shards. */
import { closeSync, openSync, readSync } from 'node:fs';
import { constants, gunzipSync } from 'node:zlib';
import { gzippedTar } from '../tar_index.ts';
import { expandBraces } from './braces.ts';
import { READ } from './files.ts';
import { type DataRecord, parseRecord } from './parse-record.ts';
import { problem } from './problem.ts';
import { openRecords } from './records.ts';
import { openShards } from './shards.ts';

export interface Dataset {
  readonly path: string;
  readonly size: number;
  /** The record at that position, checked. */
  get(index: number): DataRecord;
  close(): void;
}

/** Opens a JSON, JSONL or gzipped file of records, or WebDataset shards: one tar archive, or a pattern of several. */
export async function openDataset(path: string): Promise<Dataset> {
  const paths = expandBraces(path);
  const dataset = paths.length > 1 || isTar(path) ? openShards(paths, path) : await openFile(path);
  if (dataset.size > 0) return dataset;
  dataset.close();
  throw problem('record', {
    where: path,
    problem: 'the data file holds no records',
    expected: 'a JSON array of {id, image, conversations} records, one such record a line, or a tar of samples',
  });
}

async function openFile(path: string): Promise<Dataset> {
  const file = await openRecords(path);
  return {
    path,
    size: file.size,
    get: (index) => parseRecord(file.read(index), index, `${path}, record ${index}`),
    close: () => file.close(),
  };
}

/** By its first header, whatever the name says; a gzipped one is refused. A file that cannot be opened is told of by who reads it. */
function isTar(path: string): boolean {
  const start = Buffer.alloc(4096);
  try {
    const file = openSync(path, READ);
    try {
      readSync(file, start, 0, start.length, 0);
    } finally {
      closeSync(file);
    }
  } catch {
    return false;
  }
  if (start.readUInt16BE() === 0x1f8b && hasTarMagic(beginning(start))) throw gzippedTar(path);
  return hasTarMagic(start);
}

const hasTarMagic = (bytes: Buffer): boolean => bytes.toString('latin1', 257, 262) === 'ustar';

/** What the first bytes of a gzipped file unpack to, as far as they go. */
function beginning(bytes: Buffer): Buffer {
  try {
    return gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH });
  } catch {
    return Buffer.alloc(0);
  }
}
