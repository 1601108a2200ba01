/** Writing a large file front to back, with places that are filled in later. */
import { closeSync, constants, fsyncSync, openSync, writeSync } from 'node:fs';
import { WriteThread } from './write_thread.ts';

/** From this size on, another thread does the writing: starting it takes some 40 ms. */
const LARGE = 64 << 20;
let thread: WriteThread | null = null;

export class OutFile {
  readonly #handle: number;
  readonly #direct: number | null = null;
  readonly #thread: WriteThread | null = null;
  readonly #patches: [position: number, bytes: Uint8Array][] = [];
  #position = 0;

  /**
   * @param path a name beside the final one: the caller renames it when all is written
   * @param expected its size, as far as it is known: how it is written depends on it. Of large ones, only one is written at a time.
   */
  constructor(path: string, expected = 0, large = LARGE) {
    this.#handle = openSync(path, 'wx');
    if (expected < large) return;
    thread ??= new WriteThread();
    this.#thread = thread;
    this.#direct = openDirect(path);
    thread.begin(this.#handle, this.#direct);
  }

  get position(): number {
    return this.#position;
  }

  /** May fail with what was wrong with an earlier call's bytes. */
  write(bytes: Uint8Array): void {
    if (this.#thread) this.#thread.write(bytes);
    else this.#writeAt(this.#position, bytes);
    this.#position += bytes.length;
  }

  /** Overwrites what stands at `position`. */
  patch(position: number, bytes: Uint8Array): void {
    if (this.#thread) this.#patches.push([position, Uint8Array.from(bytes)]);
    else this.#writeAt(position, bytes);
  }

  /** Everything is on the disk when this returns. */
  finish(): void {
    this.#thread?.end();
    for (const [position, bytes] of this.#patches) this.#writeAt(position, bytes);
    fsyncSync(this.#handle);
    this.#close();
  }

  /** After a failure. */
  abandon(): void {
    this.#thread?.abandon();
    try {
      this.#close();
    } catch {
      // It was closed already.
    }
  }

  #close(): void {
    if (this.#direct !== null) closeSync(this.#direct);
    closeSync(this.#handle);
  }

  #writeAt(position: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.#handle, bytes, done, Math.min(bytes.length - done, 1 << 30), position + done);
    }
  }
}

/** Null where the system or the file system has no such thing. */
function openDirect(path: string): number | null {
  if (constants.O_DIRECT === undefined) return null;
  try {
    return openSync(path, constants.O_WRONLY | constants.O_DIRECT);
  } catch {
    return null;
  }
}
