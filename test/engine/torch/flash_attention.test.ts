/**
 * neva's flash attention on the CPU beside attention written out, which test/support/operations.ts holds against PyTorch: lengths around
 * the kernel's blocks of 64, grouped queries, keys before the queries, records in one row.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Tensor } from '../../../src/engine/engine.ts';
import * as aten from '../../../src/engine/torch/aten.generated.ts';
import { native } from '../../../src/engine/torch/native.ts';
import { torchTensor } from '../../../src/engine/torch/tensor.ts';
import { torchEngine } from '../../support/torch.ts';

interface Case {
  /** [B, H, G, T, U, D] */
  sizes: [number, number, number, number, number, number];
  causal: boolean;
  lengths?: number[];
}

const CASES: Case[] = [
  { sizes: [2, 4, 4, 130, 130, 64], causal: true },
  { sizes: [1, 4, 2, 64, 64, 32], causal: true },
  { sizes: [2, 4, 2, 77, 77, 80], causal: false },
  { sizes: [1, 2, 1, 70, 200, 16], causal: true },
  { sizes: [1, 2, 2, 70, 129, 16], causal: false },
  { sizes: [1, 2, 2, 257, 257, 64], causal: false },
  { sizes: [1, 2, 2, 65, 65, 2], causal: true },
  { sizes: [1, 2, 2, 3, 3, 128], causal: true },
  { sizes: [1, 4, 2, 150, 150, 32], causal: true, lengths: [30, 64, 1, 55] },
  { sizes: [1, 2, 2, 150, 150, 32], causal: false, lengths: [85, 65] },
];

const engine = torchEngine(7);

/** The kernel is AVX-512's, and for bfloat16 asks for its products too: elsewhere LibTorch's attention runs, which other tests cover. */
const lacking = (dtype: string) =>
  !native().flashDtypes().includes(dtype) && `this processor lacks AVX-512 for ${dtype}`;

type Attention = (q: Tensor, k: Tensor, v: Tensor) => Tensor;

/** What is mixed, then dq, dk and dv. */
function run(attention: Attention, inputs: readonly Tensor[], grad: Tensor) {
  const segment = {
    name: 'attention',
    parameters: [],
    forward: ([q, k, v]: readonly Tensor[]) => [attention(q!, k!, v!)],
  };
  const walked = engine.vjp(segment, inputs, [true, true, true]);
  const mixed = engine.read(walked.outputs[0]!);
  return [mixed, ...walked.backward([grad]).map((each) => engine.read(each!))] as Float32Array[];
}

function inputsOf({ sizes: [B, H, G, T, U, D] }: Case, dtype: 'float32' | 'bfloat16') {
  engine.seed(7);
  // As projections leave them: [B, T, H, D] in memory.
  const make = (heads: number, length: number) =>
    engine.transpose(engine.normal([B, length, heads, D], 0, 1, dtype), 1, 2);
  return [make(H, T), make(G, U), make(G, U), make(H, T)] as const;
}

for (const dtype of ['float32', 'bfloat16'] as const) {
  test(`${dtype}: as written out in float32, with gradients`, { skip: lacking(dtype) }, () => {
    for (const each of CASES) {
      const { sizes, causal, lengths = [] } = each;
      const scale = 1 / Math.sqrt(sizes[5]);
      const [q, k, v, grad] = inputsOf(each, dtype);
      const own = run(
        (a, b, c) => aten.flashAttention(torchTensor(a), torchTensor(b), torchTensor(c), causal, scale, lengths),
        [q, k, v],
        grad,
      );
      const [wideQ, wideK, wideV, wideGrad] = [q, k, v, grad].map((x) => engine.cast(x, 'float32'));
      const options = { causal, scale, lengths: lengths.length > 0 ? lengths : null, flash: false };
      const written = run((a, b, c) => engine.attention(a, b, c, options), [wideQ!, wideK!, wideV!], wideGrad!);
      own.forEach((values, i) => {
        const largest = written[i]!.reduce((high, value) => Math.max(high, Math.abs(value)), 0);
        const error = values.reduce((high, value, at) => Math.max(high, Math.abs(value - written[i]![at]!)), 0);
        const bound = dtype === 'float32' ? 2e-6 : 1.5e-2;
        const what = ['output', 'dq', 'dk', 'dv'][i];
        assert.ok(error <= bound * largest, `${what} of ${JSON.stringify(each)}: ${error} of ${largest}`);
      });
    }
  });
}

test('the number of threads changes no bit', { skip: lacking('float32') }, () => {
  const [q, k, v, grad] = inputsOf(CASES[0]!, 'float32');
  const own: Attention = (a, b, c) =>
    aten.flashAttention(torchTensor(a), torchTensor(b), torchTensor(c), true, 0.125, []);
  const [two, one] = [2, 1].map((threads) => {
    native().setThreads(threads);
    return run(own, [q, k, v], grad);
  });
  native().setThreads(2);
  assert.deepEqual(one, two);
});

test('what does not fit is refused', { skip: lacking('float32') }, () => {
  const [q, k, v] = inputsOf(CASES[0]!, 'float32').map(torchTensor);
  const [less] = inputsOf({ sizes: [2, 4, 4, 5, 5, 64], causal: true }, 'float32').map(torchTensor);
  assert.throws(() => aten.flashAttention(q!, k!, v!, true, 0.1, [130]), /records must fill the one row/);
  assert.throws(() => aten.flashAttention(q!, less!, less!, true, 0.1, []), /every query must see a key/);
  assert.throws(() => aten.flashAttention(q!, k!, less!, true, 0.1, []), /G a divisor of H/);
});
