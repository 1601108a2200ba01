import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir, totalmem } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { GlobalBatch, MicroBatch } from '../../src/data/types.ts';
import { isUserError } from '../../src/errors.ts';
import { predictMemory } from '../../src/plan/memory.ts';
import { memoryLimit, refuseHuge } from '../../src/train/memory_guard.ts';
import { ROWS, rowSetting } from '../plan/published.ts';

const setting = { ...rowSetting(ROWS[2]!), tensor: 1, data: 1, globalBatch: 4 };
const size = (batch: number) => ({ batch, length: 512, images: 1, labels: 64 });

/** Sizes alone: nothing else is looked at. */
const batchOf = (batch: number): GlobalBatch => {
  const { length, images: imageCount, labels } = size(batch);
  const micro = { batch, length, imageCount, labelRows: new Int32Array(labels) } as unknown as MicroBatch;
  return { microBatches: [micro], labelTokens: labels, epoch: 0, consumedSamples: 0 };
};

test('batches pass until one needs more than there is; the message has the figures', async () => {
  const limit = predictMemory(setting, size(4)).peak;
  const source = async function* () {
    for (const batch of [2, 4, 3, 5]) yield batchOf(batch);
  };
  const passed: number[] = [];
  await assert.rejects(
    async () => {
      for await (const { microBatches } of refuseHuge(source(), setting, limit)) passed.push(microBatches[0]!.batch);
    },
    (error) => {
      assert.ok(isUserError(error));
      assert.match(
        error.message,
        /^model\.micro_batch_size: a micro batch of 5 × 512 positions with 1 pictures does not fit/,
      );
      assert.match(error.message, new RegExp(`at most ${(limit / 1e9).toFixed(2)} GB`));
      assert.match(error.message, /fix: .*activations_checkpoint_granularity=full/);
      return true;
    },
  );
  assert.deepEqual(passed, [2, 4, 3]);
});

test('a container may have less than the machine', () => {
  const file = join(mkdtempSync(join(tmpdir(), 'neva-limit-')), 'memory.max');
  writeFileSync(file, '1000000\n');
  assert.equal(memoryLimit([file, '/nonexistent']), 1e6);
  writeFileSync(file, 'max\n');
  assert.equal(memoryLimit([file]), totalmem());
});
