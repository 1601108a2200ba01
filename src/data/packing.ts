/**
 * Which records share a pack: a row of at most `room` positions in which records lie one after the other, each with positions
 * and attention of its own. Pure functions of lengths, so that every rank and every resumed run finds the same packs.
 */
import { permutation } from './permutation.ts';

/** NeMo's packing_algorithm. */
export type PackingAlgorithm = 'first_fit_decreasing' | 'first_fit_shuffle' | 'shuffle_and_pack';

export const PACKING_ALGORITHMS: readonly PackingAlgorithm[] = [
  'first_fit_shuffle',
  'first_fit_decreasing',
  'shuffle_and_pack',
];

/**
 * Packs of indices into `lengths`; each length is at least 1 and at most `room`.
 * `first_fit_decreasing`: longest first, equal ones in their order; nearly optimal, but long records meet long ones.
 * `first_fit_shuffle`: in random order, each into the first pack with room.
 * `shuffle_and_pack`: in random order, each into the newest pack or a new one.
 */
export function pack(lengths: ArrayLike<number>, room: number, algorithm: PackingAlgorithm, seed = 0): number[][] {
  const size = lengths.length;
  if (algorithm === 'first_fit_decreasing') {
    const order = Array.from({ length: size }, (_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
    return firstFit(order, lengths, room);
  }
  const order = permutation(size, seed);
  return algorithm === 'first_fit_shuffle' ? firstFit(order, lengths, room) : nextFit(order, lengths, room);
}

/**
 * Each record goes into the first pack that has room for it. A tree over the packs, whose nodes hold the largest room
 * below them, finds it in log(packs) steps: a search from the front would be quadratic in the size of a data set.
 */
function firstFit(order: Iterable<number>, lengths: ArrayLike<number>, room: number): number[][] {
  const packs: number[][] = [];
  let leaves = 1;
  while (leaves < lengths.length) leaves *= 2;
  // Packs that nobody has opened yet have all their room.
  const left = new Int32Array(2 * leaves).fill(room);
  for (const index of order) {
    const length = lengths[index]!;
    let node = 1;
    while (node < leaves) node = left[2 * node]! >= length ? 2 * node : 2 * node + 1;
    const at = node - leaves;
    if (at === packs.length) packs.push([]);
    packs[at]!.push(index);
    left[node]! -= length;
    for (node >>= 1; node >= 1; node >>= 1) left[node] = Math.max(left[2 * node]!, left[2 * node + 1]!);
  }
  return packs;
}

function nextFit(order: Iterable<number>, lengths: ArrayLike<number>, room: number): number[][] {
  const packs: number[][] = [];
  let left = 0;
  for (const index of order) {
    const length = lengths[index]!;
    if (length > left) {
      packs.push([]);
      left = room;
    }
    packs.at(-1)!.push(index);
    left -= length;
  }
  return packs;
}

/** Share of the packs' room that records take. */
export const efficiency = (lengths: ArrayLike<number>, packs: number, room: number): number =>
  Array.from(lengths).reduce((sum, length) => sum + length, 0) / (packs * room);
