/**
 * A checkpoint's manifest.json: size and CRC-32 of each of its files. It guards against damage, not against forgery, and a CRC-32 takes a
 * third of the time of a SHA-256, which is what manifests had before: those are still compared.
 */
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { isUserError } from '../errors.ts';
import { readJsonObject } from './json.ts';

export interface ManifestEntry {
  bytes: number;
  /** Eight hexadecimal digits. */
  crc32: string;
}

export const manifestEntry = ({ bytes, sum }: { bytes: number; sum: number }): ManifestEntry => ({
  bytes,
  crc32: sum.toString(16).padStart(8, '0'),
});

export function manifestText(files: Readonly<Record<string, ManifestEntry>>): string {
  return `${JSON.stringify({ format: 2, files }, null, 2)}\n`;
}

/** The entry of a file that is there. */
export function entryOfFile(path: string): ManifestEntry {
  let [sum, bytes] = [0, 0];
  readThrough(path, (part) => {
    sum = crc32(part, sum);
    bytes += part.length;
  });
  return manifestEntry({ bytes, sum });
}

/** What is wrong with a checkpoint folder by its manifest: size and checksum of every file are compared. Null: it is whole. */
export function damageOf(folder: string): string | null {
  const manifestFile = join(folder, 'manifest.json');
  if (!existsSync(manifestFile)) return 'manifest.json is missing';
  let files: [string, { bytes: number; crc32?: string; sha256?: string }][];
  try {
    files = Object.entries(readJsonObject(manifestFile).files as object);
  } catch (error) {
    return isUserError(error) ? 'manifest.json cannot be read' : 'manifest.json lists no files';
  }
  for (const [name, expected] of files) {
    const path = join(folder, name);
    const size = statSync(path, { throwIfNoEntry: false })?.size;
    if (size === undefined) return `${name} is missing`;
    if (size !== expected.bytes) return `${name} has ${size} bytes instead of ${expected.bytes}`;
    const matches =
      expected.sha256 === undefined ? entryOfFile(path).crc32 === expected.crc32 : sha256(path) === expected.sha256;
    if (!matches) return `${name} does not match its checksum`;
  }
  return null;
}

function sha256(path: string): string {
  const digest = createHash('sha256');
  readThrough(path, (part) => digest.update(part));
  return digest.digest('hex');
}

function readThrough(path: string, take: (part: Uint8Array) => void): void {
  const chunk = Buffer.allocUnsafe(256 << 10);
  const handle = openSync(path, 'r');
  try {
    for (let read = readSync(handle, chunk); read > 0; read = readSync(handle, chunk)) take(chunk.subarray(0, read));
  } finally {
    closeSync(handle);
  }
}
