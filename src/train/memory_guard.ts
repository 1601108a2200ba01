/** Micro batches that cannot fit are refused, with the figures of `neva plan`, before the kernel ends the process without a word. */
import { readFileSync } from 'node:fs';
import { totalmem } from 'node:os';
import type { GlobalBatch, MicroBatch } from '../data/types.ts';
import { mistake } from '../errors.ts';
import type { MicroSize } from '../plan/activations.ts';
import { predictMemory } from '../plan/memory.ts';
import type { Setting } from '../plan/setting.ts';

/** Files in which Linux says how much a group of processes may have: cgroup v2, v1. */
const LIMITS = ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory/memory.limit_in_bytes'];

/** Bytes that processes here may have in all: the machine's memory, or what a container leaves of it. */
export function memoryLimit(files: readonly string[] = LIMITS): number {
  const found = files.flatMap((file) => {
    try {
      const bytes = Number(readFileSync(file, 'utf8').trim());
      return bytes > 0 ? [bytes] : [];
    } catch {
      return [];
    }
  });
  return Math.min(totalmem(), ...found);
}

/**
 * Passes batches on.
 * @param limit bytes that this process may have
 * @throws a user error at the first micro batch that needs more
 */
export async function* refuseHuge(
  batches: AsyncIterable<GlobalBatch>,
  setting: Setting,
  limit: number,
): AsyncGenerator<GlobalBatch> {
  const checked: MicroSize[] = [];
  for await (const batch of batches) {
    for (const micro of batch.microBatches) {
      const size = sizeOf(micro);
      if (checked.some((known) => isWithin(size, known))) continue;
      check(setting, size, limit);
      checked.push(size);
    }
    yield batch;
  }
}

const sizeOf = ({ batch, length, imageCount, labelRows }: MicroBatch): MicroSize => ({
  batch,
  length,
  images: imageCount,
  labels: labelRows.length,
});

const isWithin = (a: MicroSize, b: MicroSize): boolean =>
  a.batch <= b.batch && a.length <= b.length && a.images <= b.images && a.labels <= b.labels;

function check(setting: Setting, size: MicroSize, limit: number): void {
  const { weights, mainWeights, moments, gradients, peak } = predictMemory(setting, size);
  // Frozen weights may be mapped from their files, and need not stay in memory.
  const trained = setting.trains.llm ? weights : 0;
  const needed = peak - weights + trained;
  if (needed <= limit) return;
  const gb = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  throw mistake({
    where: 'model.micro_batch_size',
    problem: `a micro batch of ${size.batch} × ${size.length} positions with ${size.images} pictures does not fit into memory`,
    expected: `at most ${gb(limit)}, what this process may have`,
    found: `${gb(needed)}: ${gb(trained + mainWeights + moments)} weights and optimizer, up to ${gb(gradients)} gradients, the rest activations`,
    fix: 'a smaller model.micro_batch_size or model.encoder_seq_length, or model.activations_checkpoint_granularity=full model.activations_checkpoint_method=uniform; `neva plan` says what fits',
  });
}
