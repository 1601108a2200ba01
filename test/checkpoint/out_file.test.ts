import assert from 'node:assert/strict';
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { OutFile } from '../../src/checkpoint/out_file.ts';
import {
  BEGUN,
  CONTROL_BYTES,
  FILLED,
  SLOT_BYTES,
  SLOTS,
  viewsOf,
  WRITTEN,
  WriteThread,
} from '../../src/checkpoint/write_thread.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-out-'));
after(() => rmSync(folder, { recursive: true }));

const noise = (length: number, seed: number) => {
  const words = new Uint32Array(Math.ceil(length / 4));
  let state = seed;
  for (let i = 0; i < words.length; i++) words[i] = state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return new Uint8Array(words.buffer, 0, length);
};

test('a file that another thread writes has every byte at its place, whatever portions it came in', () => {
  const lengths = [1, 4095, 4096, SLOT_BYTES - 1, 0, SLOT_BYTES, (SLOTS + 2) * SLOT_BYTES + 17, 3];
  for (const ends of [0, 100]) {
    const path = join(folder, `threaded-${ends}`);
    const parts = lengths.map((length, i) => noise(length, i + 1));
    if (ends === 0) parts.push(new Uint8Array(SLOT_BYTES - (lengths.reduce((a, b) => a + b) % SLOT_BYTES)));
    const expected = Buffer.concat(parts);
    const out = new OutFile(path, expected.length, 0);
    for (const part of parts) out.write(part);
    const patches: [number, Uint8Array][] = [
      [14, noise(4, 90)],
      [SLOT_BYTES - 2, noise(4, 91)],
      [expected.length - 4, noise(4, 92)],
    ];
    for (const [position, bytes] of patches) {
      out.patch(position, bytes);
      expected.set(bytes, position);
    }
    assert.equal(out.position, expected.length);
    out.finish();
    assert.ok(readFileSync(path).equals(expected));
  }
});

test('of a file that is given up, nothing more is written, and the next one is whole', () => {
  const given = new OutFile(join(folder, 'given-up'), 0, 0);
  given.write(noise(SLOT_BYTES + 100, 1));
  given.abandon();
  const bytes = noise(2 * SLOT_BYTES + 5, 2);
  const next = new OutFile(join(folder, 'next'), 0, 0);
  next.write(bytes);
  next.finish();
  assert.ok(readFileSync(join(folder, 'next')).equals(bytes));
  assert.ok(readFileSync(join(folder, 'given-up')).length <= SLOT_BYTES);
});

test('what fails in the thread is thrown with its code, and the thread goes on with the next file', {
  skip: !existsSync('/dev/full'),
}, () => {
  const thread = new WriteThread();
  const full = openSync('/dev/full', 'w');
  thread.begin(full, null);
  const fill = () => {
    for (let i = 0; i < 3 * SLOTS; i++) thread.write(noise(SLOT_BYTES, i));
    thread.end();
  };
  assert.throws(fill, { code: 'ENOSPC' });
  closeSync(full);
  const path = join(folder, 'after-failure');
  const file = openSync(path, 'w');
  thread.begin(file, null);
  thread.write(noise(1000, 7));
  thread.end();
  closeSync(file);
  assert.ok(readFileSync(path).equals(noise(1000, 7)));
});

test('a file system that opens with O_DIRECT and does not write so is written without', {
  skip: !existsSync('/proc/self/oom_score_adj'),
}, () => {
  const thread = new WriteThread();
  const path = join(folder, 'plain');
  // Whatever is no number is refused there with EINVAL, as misaligned writes are.
  const [plain, direct] = [openSync(path, 'w'), openSync('/proc/self/oom_score_adj', 'w')];
  thread.begin(plain, direct);
  const bytes = noise(SLOT_BYTES + 5000, 3);
  thread.write(bytes);
  thread.end();
  closeSync(plain);
  closeSync(direct);
  assert.ok(readFileSync(path).equals(bytes));
});

test('the thread takes no buffer before it is full, however often it is woken', async () => {
  const memory = new SharedArrayBuffer(CONTROL_BYTES + SLOTS * SLOT_BYTES);
  const { counters, orders, slots } = viewsOf(memory);
  const worker = new Worker(new URL('../../src/checkpoint/write_thread_worker.js', import.meta.url), {
    workerData: memory,
  });
  Atomics.wait(counters, BEGUN, 0);
  const path = join(folder, 'woken');
  const file = openSync(path, 'w');
  for (const [n, bytes] of [noise(1000, 1), noise(500, 2)].entries()) {
    for (let i = 0; i < 20; i++) {
      Atomics.notify(counters, FILLED);
      Atomics.wait(counters, FILLED, n, 5);
    }
    assert.equal(counters[WRITTEN], n);
    slots[n]!.set(bytes);
    orders[n]!.set([file, -1, n * 1000, bytes.length]);
    Atomics.add(counters, FILLED, 1);
    Atomics.notify(counters, FILLED);
    Atomics.wait(counters, WRITTEN, n);
  }
  await worker.terminate();
  closeSync(file);
  assert.ok(readFileSync(path).equals(Buffer.concat([noise(1000, 1), noise(500, 2)])));
});
