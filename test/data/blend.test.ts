/** Several sets in one order of samples, and records held out from it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { blendedOrder, shares } from '../../src/data/blend-order.ts';
import { selectPart } from '../../src/data/held-out.ts';
import { Sampler } from '../../src/data/sampler.ts';

const setOf = (sizes: readonly number[], number: number) => {
  let set = 0;
  for (let first = 0; number >= first + sizes[set]!; set++) first += sizes[set]!;
  return set;
};

test('shares are whole, add up, and differ from the exact ones by less than one', () => {
  fc.assert(
    fc.property(
      fc.nat(10_000),
      fc.array(fc.double({ min: 0.01, max: 10, noNaN: true }), { minLength: 1, maxLength: 6 }),
      (count, weights) => {
        const split = shares(count, weights);
        const sum = weights.reduce((a, b) => a + b);
        assert.equal(
          split.reduce((a, b) => a + b, 0),
          count,
        );
        split.forEach((share, i) => {
          assert.ok(Math.abs(share - (count * weights[i]!) / sum) < 1 + 1e-9);
        });
      },
    ),
  );
});

test('every stretch of a blend holds the sets in their proportion', () => {
  const sizes = [1000, 50, 300];
  const weights = [0.5, 0.2, 0.3];
  const order = blendedOrder({ sizes, weights, seed: 3, shuffle: true }, 1000, 0);
  const taken = [0, 0, 0];
  order.forEach((number, at) => {
    taken[setOf(sizes, number)]!++;
    taken.forEach((count, set) => {
      assert.ok(Math.abs(count - (at + 1) * weights[set]!) <= sizes.length, `${taken} of ${at + 1}`);
    });
  });
  assert.deepEqual(taken, [500, 200, 300]);
});

test('a set is gone through whole before a record of it comes again, over the ends of epochs too', () => {
  const sizes = [40, 7];
  const order = [0, 1, 2, 3, 4].flatMap((epoch) => [
    ...blendedOrder({ sizes, weights: [1, 1], seed: 3, shuffle: true }, 44, epoch),
  ]);
  for (const [first, size] of [
    [0, 40],
    [40, 7],
  ] as const) {
    const own = order.filter((number) => number >= first && number < first + size);
    assert.equal(own.length, 110);
    for (let at = 0; at + size <= own.length; at += size) assert.equal(new Set(own.slice(at, at + size)).size, size);
  }
});

test('a blend in file order takes each set in its own order', () => {
  const order = blendedOrder({ sizes: [4, 2], weights: [2, 1], seed: 9, shuffle: false }, 6, 1);
  assert.deepEqual(
    [...order].filter((number) => number < 4),
    [0, 1, 2, 3],
  );
  assert.deepEqual(
    [...order].filter((number) => number >= 4),
    [4, 5],
  );
});

test('a weight by which no record would be used is refused by name', () => {
  assert.throws(() => blendedOrder({ sizes: [10, 10], weights: [1, 1e-6], seed: 0, shuffle: true }, 20, 0), {
    userError: true,
    message: /blend\[1\]: weight/,
  });
});

test('a blended sampler is a pure function of its position', () => {
  const sizes = [23, 9];
  for (const kind of ['cyclic', 'single', 'group_by_modality_length'] as const) {
    const lengths = Int32Array.from({ length: 32 }, (_, i) => (i % 3 === 0 ? -i - 1 : i + 1));
    const options = { kind, sizes, weights: [1, 3], globalBatchSize: 4, seed: 5, lengths };
    const forward = new Sampler(options);
    const batches = Array.from({ length: 20 }, (_, i) => forward.batch(i * 4));
    for (let i = 19; i >= 0; i--) assert.deepEqual(new Sampler(options).batch(i * 4), batches[i], kind);
    const small = batches.slice(0, 8).flatMap(({ indices }) => [...indices].filter((number) => number >= 23));
    assert.equal(small.length, 24, kind);
  }
});

test('without weights every record of all sets comes once an epoch', () => {
  const sampler = new Sampler({ kind: 'cyclic', sizes: [5, 3], globalBatchSize: 4, seed: 1 });
  const epoch = [...sampler.batch(0).indices, ...sampler.batch(4).indices].sort((a, b) => a - b);
  assert.deepEqual(epoch, [0, 1, 2, 3, 4, 5, 6, 7]);
});

test('once ends with the last record', () => {
  const sampler = new Sampler({ kind: 'once', sizes: [6], globalBatchSize: 4, seed: 1 });
  assert.deepEqual(
    [0, 4, 8].map((position) => [...sampler.batch(position).indices]),
    [[0, 1, 2, 3], [4, 5], []],
  );
});

test('what is held out and what is trained on are all records, divided', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 2, max: 400 }), { minLength: 1, maxLength: 3 }),
      fc.double({ min: 0.001, max: 0.5, noNaN: true }),
      (sizes, fraction) => {
        const train = selectPart(sizes, 'train', fraction);
        const held = selectPart(sizes, 'validation', fraction);
        const all = [...train.members, ...held.members].sort((a, b) => a - b);
        assert.deepEqual(all, [...selectPart(sizes, 'all', fraction).members]);
        held.sizes.forEach((count, set) => {
          assert.ok(count >= 1 && Math.abs(count - fraction * sizes[set]!) <= 1);
          assert.equal(count + train.sizes[set]!, sizes[set]);
        });
      },
    ),
  );
  assert.throws(() => selectPart([1], 'validation', 0.1), { userError: true, message: /validation_fraction/ });
});
