/** The other side of write_thread.ts. */
import { writeSync } from 'node:fs';
import { workerData } from 'node:worker_threads';
import { BEGUN, CONTROL_BYTES, FAILED, FAILURE, FILLED, SLOTS, viewsOf, WRITTEN } from './write_thread.ts';

/** O_DIRECT asks for positions and lengths that are multiples of the disk's block. */
const BLOCK = 4096;

const memory = workerData as SharedArrayBuffer;
const { counters, orders, slots } = viewsOf(memory);
Atomics.store(counters, BEGUN, 1);
Atomics.notify(counters, BEGUN);

for (let n = 0; ; n++) {
  // Woken by the notice of a buffer that it had found full already, it must look again.
  while (Atomics.load(counters, FILLED) === n) Atomics.wait(counters, FILLED, n);
  if (Atomics.load(counters, FAILED) === 0) {
    try {
      const [plain, direct, position, length] = orders[n % SLOTS] as unknown as [number, number, number, number];
      write(slots[n % SLOTS]!.subarray(0, length), plain, direct, position);
    } catch (error) {
      const { message, code } = error as NodeJS.ErrnoException;
      const text = Buffer.from(JSON.stringify({ message, code })).subarray(0, CONTROL_BYTES - FAILURE);
      new Uint8Array(memory, FAILURE).set(text);
      Atomics.store(counters, FAILED, text.length);
    }
  }
  Atomics.add(counters, WRITTEN, 1);
  Atomics.notify(counters, WRITTEN);
}

function write(bytes: Uint8Array, plain: number, direct: number, position: number): void {
  let done = 0;
  const blocks = bytes.length - (bytes.length % BLOCK);
  if (direct >= 0 && blocks > 0) {
    try {
      done = writeSync(direct, bytes, 0, blocks, position);
    } catch (error) {
      // The file system opens files so, and cannot write them so.
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
    }
  }
  // The end of a file, and what a full disk took only a part of.
  while (done < bytes.length) done += writeSync(plain, bytes, done, bytes.length - done, position + done);
}
