/** Gradients against central differences in float64: a check that shares nothing with PyTorch's formulas. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Tensor } from '../../../src/engine/engine.ts';
import { testGpu, torchEngine } from '../../support/torch.ts';

const e = torchEngine(7);
const STEP = 1e-5;

type Operation = (x: Tensor[]) => Tensor;
const random = (...shape: number[]) => shape;
const index = (...values: number[]) => e.tensor(Int32Array.from(values), [values.length]);
const table = (f: (x: number) => number) =>
  e.tensor(
    Float32Array.from({ length: 6 }, (_, i) => f(i * 0.7)),
    [3, 2],
  );

const cases: [string, number[][], Operation][] = [
  ['linear', [random(3, 4), random(5, 4), random(5)], ([x, w, b]) => e.linear(x!, w!, b!)],
  ['embedding', [random(6, 3)], ([w]) => e.embedding(w!, index(1, 4, 1))],
  ['rmsNorm', [random(3, 5), random(5)], ([x, w]) => e.rmsNorm(x!, w!, 1e-5)],
  ['layerNorm', [random(3, 5), random(5), random(5)], ([x, w, b]) => e.layerNorm(x!, w!, b!, 1e-5)],
  [
    'attention',
    [random(1, 2, 3, 4), random(1, 1, 3, 4), random(1, 1, 3, 4)],
    ([q, k, v]) => e.attention(q!, k!, v!, { causal: true }),
  ],
  ['rope', [random(1, 2, 3, 4)], ([x]) => e.rope(x!, table(Math.cos), table(Math.sin))],
  ['patchEmbed', [random(1, 3, 4, 4), random(5, 3, 2, 2)], ([x, w]) => e.patchEmbed(x!, w!)],
  ['siluMul', [random(3, 4), random(3, 4)], ([g, u]) => e.siluMul(g!, u!)],
  ['gelu', [random(3, 4)], ([x]) => e.gelu(x!)],
  ['geluTanh', [random(3, 4)], ([x]) => e.geluTanh(x!)],
  ['quickGelu', [random(3, 4)], ([x]) => e.quickGelu(x!)],
  ['crossEntropy', [random(3, 5)], ([x]) => e.crossEntropy(x!, index(4, 0, 2))],
  ['gatherRows', [random(4, 3)], ([x]) => e.gatherRows(x!, index(2, 2, 0))],
  ['scatterRows', [random(4, 3), random(2, 3)], ([base, rows]) => e.scatterRows(base!, index(3, 1), rows!)],
];

for (const [name, shapes, operation] of cases) {
  // float64 is for the CPU; a GPU's kernels are compared with PyTorch's values (operations.test.ts).
  test(name, { skip: testGpu !== null }, () => {
    const values = shapes.map((shape) => Float64Array.from(e.read(e.normal(shape, 0, 1, 'float64'))));
    const tensors = (data: Float64Array[]) => data.map((each, i) => e.tensor(each, shapes[i]!));
    const output = operation(tensors(values));
    const weights = e.normal(output.shape, 0, 1, 'float64');
    const objective = (data: Float64Array[]) => {
      const products = Array.from(e.read(e.mul(operation(tensors(data)), weights)));
      return products.reduce((sum, value) => sum + value, 0);
    };
    const segment = { name, parameters: [], forward: (x: readonly Tensor[]) => [operation([...x])] };
    const inputs = tensors(values);
    const grads = e
      .vjp(
        segment,
        inputs,
        inputs.map(() => true),
      )
      .backward([weights]);
    for (const [i, data] of values.entries()) {
      const grad = e.read(grads[i]!);
      for (let k = 0; k < data.length; k++) {
        const at = (shift: number) => {
          const moved = values.map((each) => Float64Array.from(each));
          moved[i]![k]! += shift;
          return objective(moved);
        };
        const expected = (at(STEP) - at(-STEP)) / (2 * STEP);
        assert.ok(
          Math.abs(grad[k]! - expected) < 1e-6 * Math.max(1, Math.abs(expected)),
          `input ${i}, element ${k}: ${grad[k]} ≠ ${expected}`,
        );
      }
    }
  });
}
