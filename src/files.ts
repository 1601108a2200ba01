import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';

/** Where what can be made again is kept: neva's folder in the user's cache (XDG_CACHE_HOME, or ~/.cache). */
export const userCache = (): string => join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'neva');

/** A name beside `path` that no other process uses; whatever is written there is renamed to `path` when complete. */
export function besideName(path: string): string {
  return `${path}.${process.pid}.partial`;
}

/** Makes a rename or a new entry in `folder` survive a power cut. Does nothing where folders cannot be opened (Windows). */
export function syncFolder(folder: string): void {
  let handle: number;
  try {
    handle = openSync(folder, 'r');
  } catch {
    return;
  }
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}

/** Writes a whole file so that a reader, or a crash at any moment, sees the old content or the new one and never half. */
export function writeFileAtomic(path: string, content: string | Uint8Array): void {
  const beside = besideName(path);
  try {
    const handle = openSync(beside, 'w');
    try {
      writeFileSync(handle, content);
      fsyncSync(handle);
    } finally {
      closeSync(handle);
    }
    renameSync(beside, path);
  } catch (error) {
    rmSync(beside, { force: true });
    throw error;
  }
  syncFolder(dirname(path));
}

/** A file of lines of JSON, written beside `path` as they come; it takes its place when it is whole, or is dropped. */
export class LineFile {
  readonly #path: string;
  readonly #beside: string;
  #handle: number | null;

  constructor(path: string) {
    this.#path = path;
    this.#beside = besideName(path);
    this.#handle = openSync(this.#beside, 'w');
  }

  write(value: unknown): void {
    writeSync(this.#handle!, `${JSON.stringify(value)}\n`);
  }

  keep(): void {
    fsyncSync(this.#handle!);
    this.#close();
    renameSync(this.#beside, this.#path);
    syncFolder(dirname(this.#path));
  }

  /** Does nothing after `keep`. */
  drop(): void {
    if (this.#handle === null) return;
    this.#close();
    rmSync(this.#beside, { force: true });
  }

  #close(): void {
    closeSync(this.#handle!);
    this.#handle = null;
  }
}
