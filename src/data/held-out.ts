/** Which records are held out to validate on: the same ones in every run on the same file, whatever the run's seed. */
import { mistake } from '../errors.ts';
import { permutation } from './permutation.ts';

/** Not the run's seed: another seed must not learn from what this one is measured on. */
const SEED = 0x6e65_7661;

/** `all`, or one side of a division. */
export type Part = 'all' | 'train' | 'validation';

/**
 * The numbers of the records that belong to `part`, ascending, and how many are of each set. From every set the share
 * `fraction` is held out, rounded, and at least one record where there are two.
 */
export function selectPart(
  sizes: readonly number[],
  part: Part,
  fraction: number,
): { members: Int32Array; sizes: number[] } {
  const kept: number[][] = [];
  let first = 0;
  for (const size of sizes) {
    const count = part === 'all' ? 0 : Math.min(size - 1, Math.max(1, Math.round(fraction * size)));
    const heldOut = new Uint8Array(size);
    for (const index of permutation(size, SEED).subarray(0, count)) heldOut[index] = 1;
    const wanted = part === 'validation' ? 1 : 0;
    const set: number[] = [];
    heldOut.forEach((side, index) => {
      if (side === wanted) set.push(first + index);
    });
    kept.push(set);
    first += size;
  }
  const members = Int32Array.from(kept.flat());
  if (members.length === 0) {
    throw mistake({
      where: 'model.data.validation_fraction',
      problem: `no records are left for ${part === 'train' ? 'training' : 'validation'}`,
      found: `${first} records in all`,
      fix: 'set model.data.validation_fraction=0',
    });
  }
  return { members, sizes: kept.map((set) => set.length) };
}
