/**
 * The order in which records are used: a pure function of (kind, seed, size, position), so that resuming is a matter of
 * saying the number of samples consumed. Position counts samples over all ranks.
 */

import { blendedOrder } from './blend-order.ts';
import { permutation } from './permutation.ts';

export type SamplerKind = 'cyclic' | 'single' | 'group_by_modality_length' | 'once';

export interface SamplerOptions {
  kind: SamplerKind;
  /** Records of each set. */
  sizes: readonly number[];
  /** Share of each set in the samples; without them, every record comes once an epoch. */
  weights?: readonly number[];
  globalBatchSize: number;
  seed: number;
  /** For `group_by_modality_length`: length of each record, negative where it shows no picture (LLaVA's convention). */
  lengths?: Int32Array;
  /** Global batches that are sorted by length together; 1 is LLaVA's grouping, more is truer grouping and less mixing. */
  poolBatches?: number;
}

export interface GlobalIndices {
  indices: Int32Array;
  epoch: number;
}

/**
 * `cyclic`: a new permutation each epoch, whose incomplete last batch is left out (NeMo's MegatronPretrainingRandomSampler).
 * `single`: file order, beginning again at the end, with no record left out.
 * `group_by_modality_length`: each global batch holds records with pictures only or without only (but for one mixed batch an
 * epoch), of similar length.
 * `once`: file order, ending with the last record in a batch that may be smaller; for validation.
 */
export class Sampler {
  readonly #options: SamplerOptions;
  readonly #size: number;
  #epoch = -1;
  #order: Int32Array = new Int32Array(0);

  constructor(options: SamplerOptions) {
    this.#options = options;
    this.#size = options.sizes.reduce((sum, size) => sum + size, 0);
  }

  /** Samples an epoch uses. */
  get epochSize(): number {
    const { kind, globalBatchSize } = this.#options;
    return kind === 'single' || kind === 'once' ? this.#size : this.#size - (this.#size % globalBatchSize);
  }

  /** Record numbers of the global batch that begins after `position` consumed samples. */
  batch(position: number): GlobalIndices {
    const { kind, globalBatchSize } = this.#options;
    const epochSize = this.epochSize;
    const left = kind === 'once' ? Math.max(0, epochSize - position) : globalBatchSize;
    const indices = new Int32Array(Math.min(globalBatchSize, left));
    for (let i = 0; i < indices.length; i++) {
      const sample = position + i;
      indices[i] = this.#at(Math.floor(sample / epochSize), sample % epochSize);
    }
    return { indices, epoch: Math.floor(position / epochSize) };
  }

  #at(epoch: number, within: number): number {
    const { kind, weights } = this.#options;
    const inOrder = kind === 'single' || kind === 'once';
    if (inOrder && weights === undefined) return within;
    if (epoch !== this.#epoch) this.#order = this.#epochOrder(epoch, !inOrder);
    this.#epoch = epoch;
    return this.#order[within]!;
  }

  #epochOrder(epoch: number, shuffle: boolean): Int32Array {
    const { kind, sizes, weights, seed, globalBatchSize, lengths, poolBatches } = this.#options;
    const order =
      weights === undefined
        ? permutation(this.#size, seed + epoch)
        : blendedOrder({ sizes, weights, seed, shuffle }, this.epochSize, epoch);
    if (kind !== 'group_by_modality_length') return order;
    if (lengths?.length !== this.#size) throw new Error(`group_by_modality_length needs ${this.#size} lengths`);
    return groupedOrder(order, { globalBatchSize, lengths, poolBatches }, seed + epoch);
  }
}

/** Records in the order given, put together into whole global batches of one modality and like length; batches in random order. */
export function groupedOrder(
  order: Int32Array,
  { globalBatchSize, lengths, poolBatches = 1 }: { globalBatchSize: number; lengths: Int32Array; poolBatches?: number },
  seed: number,
): Int32Array {
  const batches: Int32Array[] = [];
  const rest: number[] = [];
  for (const shown of [true, false]) {
    const members = order.filter((index) => lengths[index]! >= 0 === shown);
    const pool = globalBatchSize * poolBatches;
    for (let from = 0; from < members.length; from += pool) {
      // Equal lengths keep their random order: the sort is stable.
      const sorted = members.slice(from, from + pool).sort((a, b) => Math.abs(lengths[b]!) - Math.abs(lengths[a]!));
      const whole = sorted.length - (sorted.length % globalBatchSize);
      for (let at = 0; at < whole; at += globalBatchSize) batches.push(sorted.slice(at, at + globalBatchSize));
      rest.push(...sorted.subarray(whole));
    }
  }
  // What neither modality could fill a batch with: mixed batches, the incomplete last one left out.
  const mixed = Int32Array.from(rest);
  for (let at = 0; at + globalBatchSize <= mixed.length; at += globalBatchSize) {
    batches.push(mixed.slice(at, at + globalBatchSize));
  }
  const grouped = new Int32Array(batches.length * globalBatchSize);
  permutation(batches.length, seed + 0x9e37_79b9).forEach((batch, at) => {
    grouped.set(batches[batch]!, at * globalBatchSize);
  });
  return grouped;
}
