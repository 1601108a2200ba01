/**
 * The order in which records are used: a pure function of (kind, seed, size, position), so that resuming is a matter of
 * saying the number of samples consumed. Position counts samples over all ranks.
 */

export type SamplerKind = 'cyclic' | 'single' | 'group_by_modality_length';

export interface SamplerOptions {
  kind: SamplerKind;
  size: number;
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
 */
export class Sampler {
  readonly #options: SamplerOptions;
  #epoch = -1;
  #order: Int32Array = new Int32Array(0);

  constructor(options: SamplerOptions) {
    this.#options = options;
  }

  /** Samples an epoch uses. */
  get epochSize(): number {
    const { kind, size, globalBatchSize } = this.#options;
    return kind === 'single' ? size : size - (size % globalBatchSize);
  }

  /** Record indices of the global batch that begins after `position` consumed samples. */
  batch(position: number): GlobalIndices {
    const { kind, globalBatchSize } = this.#options;
    const indices = new Int32Array(globalBatchSize);
    const epochSize = this.epochSize;
    for (let i = 0; i < globalBatchSize; i++) {
      const sample = position + i;
      const within = sample % epochSize;
      indices[i] = kind === 'single' ? within : (this.#permutation(Math.floor(sample / epochSize))[within] as number);
    }
    return { indices, epoch: Math.floor(position / epochSize) };
  }

  #permutation(epoch: number): Int32Array {
    if (epoch !== this.#epoch) {
      const { kind, size, seed } = this.#options;
      this.#order =
        kind === 'group_by_modality_length'
          ? groupedOrder(this.#options, seed + epoch)
          : permutation(size, seed + epoch);
      this.#epoch = epoch;
    }
    return this.#order;
  }
}

/** An epoch's order of records: whole global batches, grouped by modality and length, in random order. */
export function groupedOrder(
  { size, globalBatchSize, lengths, poolBatches = 1 }: Omit<SamplerOptions, 'kind' | 'seed'>,
  seed: number,
): Int32Array {
  if (lengths?.length !== size) throw new Error(`group_by_modality_length needs ${size} lengths`);
  const order = permutation(size, seed);
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

/** Fisher–Yates over 0 … size−1, drawn from `seed` alone: the same on every machine. */
export function permutation(size: number, seed: number): Int32Array {
  const order = Int32Array.from({ length: size }, (_, i) => i);
  const random = generator(seed);
  for (let i = size - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const swapped = order[i] as number;
    order[i] = order[j] as number;
    order[j] = swapped;
  }
  return order;
}

/** sfc32 (Chris Doty-Humphrey), with 53-bit doubles in [0, 1). */
export function generator(seed: number): () => number {
  let a = seed >>> 0;
  let b = Math.floor(seed / 2 ** 32) >>> 0;
  let c = 0x9e3779b9;
  let counter = 1;
  const next = () => {
    const value = (a + b + counter) | 0;
    counter = (counter + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + value) | 0;
    return value >>> 0;
  };
  for (let i = 0; i < 15; i++) next();
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53;
}
