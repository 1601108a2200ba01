/**
 * The order of samples where several sets are blended by weight: a pure function of seed and epoch. An epoch is as long as all
 * records together; each set gives its share of it, and goes through its own records again and again in a row of passes, so
 * that a small set with a large weight shows every record equally often.
 */
import { mistake } from '../errors.ts';
import { permutation } from './permutation.ts';

export interface BlendOptions {
  /** Records of each set. */
  sizes: readonly number[];
  /** Above 0; what counts is their proportion. */
  weights: readonly number[];
  seed: number;
  /** Each pass over a set in a new random order, or in the order of its file. */
  shuffle: boolean;
}

/** `count` split in proportion to the weights, by largest remainders. */
export function shares(count: number, weights: readonly number[]): number[] {
  const sum = weights.reduce((total, weight) => total + weight, 0);
  const exact = weights.map((weight) => (count * weight) / sum);
  const whole = exact.map(Math.floor);
  const left = count - whole.reduce((total, share) => total + share, 0);
  const byRemainder = exact.map((share, set) => [share - Math.floor(share), set] as const);
  byRemainder.sort(([a, i], [b, j]) => b - a || i - j);
  for (const [, set] of byRemainder.slice(0, left)) whole[set]!++;
  return whole;
}

/** Numbers (over all sets) of the records of epoch `epoch`, which is `length` samples long. */
export function blendedOrder(
  { sizes, weights, seed, shuffle }: BlendOptions,
  length: number,
  epoch: number,
): Int32Array {
  const quotas = shares(length, weights);
  const firsts = sizes.map((_, set) => sizes.slice(0, set).reduce((sum, size) => sum + size, 0));
  const streams = sizes.map((size, set) => {
    if (quotas[set] === 0) {
      throw mistake({
        where: `model.data.blend[${set}]: weight`,
        problem: 'too small: not one record would be used',
        expected: `at least one of the ${length} samples of an epoch`,
        found: String(weights[set]),
      });
    }
    let pass = -1;
    let order: Int32Array | null = null;
    return (position: number): number => {
      if (!shuffle) return firsts[set]! + (position % size);
      const current = Math.floor(position / size);
      // Sets of one size must not go through the same permutations side by side.
      if (current !== pass) order = permutation(size, seed + current + set * 2 ** 32);
      pass = current;
      return firsts[set]! + order![position % size]!;
    };
  });
  const taken = sizes.map(() => 0);
  const order = new Int32Array(length);
  for (let at = 0; at < length; at++) {
    // The set that is furthest behind its share: every stretch holds the sets in their proportion.
    let next = 0;
    let furthest = Number.NEGATIVE_INFINITY;
    for (let set = 0; set < sizes.length; set++) {
      const behind = ((at + 1) * quotas[set]!) / length - taken[set]!;
      if (behind > furthest && taken[set]! < quotas[set]!) {
        furthest = behind;
        next = set;
      }
    }
    order[at] = streams[next]!(epoch * quotas[next]! + taken[next]!);
    taken[next]!++;
  }
  return order;
}
