/** Writing a large file front to back, with places that are filled in later. */
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs';

export class OutFile {
  readonly #handle: number;
  #position = 0;

  /** @param path a name beside the final one: the caller renames it when all is written */
  constructor(path: string) {
    this.#handle = openSync(path, 'wx');
  }

  get position(): number {
    return this.#position;
  }

  write(bytes: Uint8Array): void {
    this.#writeAt(this.#position, bytes);
    this.#position += bytes.length;
  }

  /** Overwrites what stands at `position`. */
  patch(position: number, bytes: Uint8Array): void {
    this.#writeAt(position, bytes);
  }

  /** Everything is on the disk when this returns. */
  finish(): void {
    fsyncSync(this.#handle);
    closeSync(this.#handle);
  }

  /** After a failure. */
  abandon(): void {
    try {
      closeSync(this.#handle);
    } catch {
      // It was closed already.
    }
  }

  #writeAt(position: number, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      done += writeSync(this.#handle, bytes, done, Math.min(bytes.length - done, 1 << 30), position + done);
    }
  }
}
