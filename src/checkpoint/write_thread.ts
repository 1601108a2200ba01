/**
 * A thread that writes a large file while this one reads, converts and sums up what comes next. It is called synchronously, as everything
 * around it is: bytes go into shared buffers, and whoever finds no free one waits. Where the file system can, it writes past the page cache
 * (O_DIRECT), which takes a fifth of the processor's time, and leaves the cache to the training data.
 */
import { Worker } from 'node:worker_threads';

/** Node's types leave it to the browser's. */
declare const WebAssembly: {
  Memory: new (pages: { initial: number; maximum: number; shared: true }) => { buffer: SharedArrayBuffer };
};

/** Shared memory: 64 KiB of counters, then the buffers. WebAssembly's memory is aligned to pages, as O_DIRECT asks. */
export const SLOTS = 4;
export const SLOT_BYTES = 4 << 20;
export const CONTROL_BYTES = 1 << 16;
/** Index in the counters: buffers filled, buffers written, length of a failure's text, whether the thread has begun. */
export const [FILLED, WRITTEN, FAILED, BEGUN] = [0, 1, 2, 3];
/** Where the orders begin, one a buffer, and where a failure's text does; bytes. */
export const [ORDERS, FAILURE] = [256, 4096];

/** The counters, orders ([plain handle, direct handle or −1, position, length]) and buffers in the shared memory. */
export function viewsOf(memory: SharedArrayBuffer) {
  return {
    counters: new Int32Array(memory, 0, 4),
    orders: Array.from({ length: SLOTS }, (_, i) => new Float64Array(memory, ORDERS + 32 * i, 4)),
    slots: Array.from({ length: SLOTS }, (_, i) => new Uint8Array(memory, CONTROL_BYTES + SLOT_BYTES * i, SLOT_BYTES)),
  };
}

/** Writes one file at a time, front to back. */
export class WriteThread {
  readonly #memory: SharedArrayBuffer;
  readonly #views: ReturnType<typeof viewsOf>;
  #plain = -1;
  #direct = -1;
  /** Of the file: where the buffer that is being filled will go, and how much is in it. */
  #position = 0;
  #length = 0;

  constructor() {
    const pages = (CONTROL_BYTES + SLOTS * SLOT_BYTES) / 65536;
    this.#memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer;
    this.#views = viewsOf(this.#memory);
    const file = new URL('./write_thread_worker.js', import.meta.url);
    // Flags of this thread (--input-type, --inspect-brk, …) are not the other's.
    new Worker(file, { workerData: this.#memory, execArgv: [] }).unref();
    if (Atomics.wait(this.#views.counters, BEGUN, 0, 30_000) === 'timed-out') {
      throw new Error('the thread that writes large files does not start');
    }
  }

  /** @param direct a handle of the same file, opened with O_DIRECT, or null */
  begin(plain: number, direct: number | null): void {
    [this.#plain, this.#direct, this.#position, this.#length] = [plain, direct ?? -1, 0, 0];
  }

  /** The bytes are copied. Throws what went wrong with those given before. */
  write(bytes: Uint8Array): void {
    const { counters, slots } = this.#views;
    for (let done = 0; done < bytes.length; ) {
      const filled = counters[FILLED]!;
      if (this.#length === 0) this.#waitFor(filled - SLOTS + 1);
      const part = bytes.subarray(done, done + SLOT_BYTES - this.#length);
      slots[filled % SLOTS]!.set(part, this.#length);
      this.#length += part.length;
      done += part.length;
      if (this.#length === SLOT_BYTES) this.#hand();
    }
  }

  /** Returns when all has been handed to the file system. */
  end(): void {
    if (this.#length > 0) this.#hand();
    this.#waitFor(this.#views.counters[FILLED]!);
  }

  /** After a failure: nothing is written any more when it returns. */
  abandon(): void {
    this.#length = 0;
    try {
      this.#waitFor(this.#views.counters[FILLED]!);
    } catch {
      // The caller knows of a failure, if not of this one.
    }
  }

  #hand(): void {
    const { counters, orders } = this.#views;
    orders[counters[FILLED]! % SLOTS]!.set([this.#plain, this.#direct, this.#position, this.#length]);
    this.#position += this.#length;
    this.#length = 0;
    Atomics.add(counters, FILLED, 1);
    Atomics.notify(counters, FILLED);
  }

  /** Waits until so many buffers were written. */
  #waitFor(count: number): void {
    const { counters } = this.#views;
    for (let written = Atomics.load(counters, WRITTEN); written < count; written = Atomics.load(counters, WRITTEN)) {
      Atomics.wait(counters, WRITTEN, written);
    }
    const length = Atomics.load(counters, FAILED);
    if (length === 0) return;
    // What was given meanwhile is skipped; the next file begins anew.
    for (let written = counters[WRITTEN]!; written < counters[FILLED]!; written = Atomics.load(counters, WRITTEN)) {
      Atomics.wait(counters, WRITTEN, written);
    }
    Atomics.store(counters, FAILED, 0);
    const { message, ...more } = JSON.parse(Buffer.from(this.#memory, FAILURE, length).toString()) as {
      message: string;
    };
    throw Object.assign(new Error(message), more);
  }
}
