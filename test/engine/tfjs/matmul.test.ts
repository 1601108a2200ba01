/** The matrix product of the plain JavaScript backend against the sum written out, at every edge of its tiles. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as tf from '@tensorflow/tfjs-core';
import { assertClose } from '../../support/allclose.ts';
import { tfjsEngine } from '../../support/tfjs.ts';

await tfjsEngine('cpu');

let seed = 1;
const random = (size: number) =>
  Float32Array.from({ length: size }, () => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed / 2 ** 31 - 1;
  });

/** Element [b, i, k] of [batch, rows, columns] or of its transposed form; a batch of one serves all. */
const at = (values: Float32Array, [batch, rows, columns]: [number, number, number], turned: boolean) => {
  return (b: number, i: number, k: number) =>
    values[(b % batch) * rows * columns + (turned ? k * rows + i : i * columns + k)]!;
};

for (const [turnA, turnB] of [
  [false, false],
  [false, true],
  [true, false],
  [true, true],
] as const) {
  test(`product with${turnA ? ' the first' : ''}${turnB ? ' the second' : ''}${turnA || turnB ? '' : ' none'} transposed`, () => {
    for (const [M, N, K] of [
      [1, 1, 1],
      [4, 2, 3],
      [5, 3, 7],
      [6, 5, 1],
      [7, 8, 50],
      [3, 1, 130],
    ] as const) {
      for (const [batchA, batchB] of [
        [1, 1],
        [3, 3],
        [3, 1],
        [1, 2],
      ] as const) {
        const batch = Math.max(batchA, batchB);
        const [a, b] = [random(batchA * M * K), random(batchB * K * N)];
        const [elementA, elementB] = [at(a, [batchA, M, K], turnA), at(b, [batchB, K, N], turnB)];
        const expected = Float64Array.from({ length: batch * M * N }, (_, place) => {
          const [i, j] = [Math.floor(place / N) % M, place % N];
          const batchIndex = Math.floor(place / (M * N));
          let sum = 0;
          for (let k = 0; k < K; k++) sum += elementA(batchIndex, i, k) * elementB(batchIndex, k, j);
          return sum;
        });
        const product = tf.matMul(
          tf.tensor3d(a, turnA ? [batchA, K, M] : [batchA, M, K]),
          tf.tensor3d(b, turnB ? [batchB, N, K] : [batchB, K, N]),
          turnA,
          turnB,
        );
        assert.deepEqual(product.shape, [batch, M, N]);
        assertClose(product.dataSync(), expected, { relative: 1e-7 }, `${batch} × [${M}, ${K}] · [${K}, ${N}]`);
      }
    }
  });
}
