/** What the tfjs engine owes apart from arithmetic: transfer, dtypes, scopes, files, randomness, memory. */
import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import type { DType, Segment, Tensor } from '../../../src/engine/engine.ts';
import { isUserError } from '../../../src/errors.ts';
import { tfjsEngine } from '../../support/tfjs.ts';
import { torchEngine } from '../../support/torch.ts';

const engine = await tfjsEngine();
const torch = torchEngine();
const live = () => engine.memory().tensors;
const vector = (...values: number[]) => engine.tensor(Float32Array.from(values), [values.length]);

/** Every float16, subnormals, infinities and NaN among them. */
const HALVES = Uint16Array.from({ length: 65536 }, (_, i) => i);

test('values are copied in and out', () => {
  const given = Float32Array.of(1, 2);
  const tensor = engine.tensor(given, [2]);
  given[0] = 9;
  const read = engine.read(tensor);
  read[1] = 9;
  assert.deepEqual([...engine.read(tensor)], [1, 2]);
  assert.throws(() => engine.tensor(new Float32Array(3), [2, 2]), /3 values do not fill the shape \[2, 2\]/);
  assert.throws(() => engine.tensor(new Float64Array(1), [1]), /no float64; set trainer\.engine=torch/);
});

test('bytes of a file come back as they were, in every dtype', () => {
  const path = join(mkdtempSync(join(tmpdir(), 'neva-')), 'values.bin');
  const cases: [DType, ArrayBufferView, number][] = [
    ['float32', Float32Array.of(1.5, -0, Number.POSITIVE_INFINITY), 3],
    ['int64', BigInt64Array.of(-5n, 2147483647n), 2],
    ['int32', Int32Array.of(-7, 8), 2],
    ['uint8', Uint8Array.of(0, 255), 2],
    ['bool', Uint8Array.of(0, 1), 2],
  ];
  for (const [dtype, values, count] of cases) {
    const bytes = new Uint8Array(values.buffer as ArrayBuffer);
    writeFileSync(path, Buffer.concat([Buffer.alloc(3), bytes]));
    const tensor = engine.fromFile(path, 3, [count], dtype);
    assert.equal(tensor.dtype, dtype);
    assert.deepEqual(engine.bytes(tensor), bytes, dtype);
  }
  assert.throws(() => engine.fromFile(path, 4, [3], 'uint8'), /3 bytes at offset 4 do not lie within the file's 5/);
  assert.throws(() => engine.fromFile(path, 0, [1], 'float64'), /no float64/);
  writeFileSync(path, BigInt64Array.of(2n ** 40n));
  assert.throws(() => engine.fromFile(path, 0, [1], 'int64'), /1099511627776 does not fit 32/);
});

test('all 65536 values of bfloat16 and float16 are those of torch, and go back to the same bits', () => {
  const path = join(mkdtempSync(join(tmpdir(), 'neva-')), 'halves.bin');
  writeFileSync(path, HALVES);
  for (const dtype of ['bfloat16', 'float16'] as const) {
    const ours = engine.fromFile(path, 0, [65536], dtype);
    const theirs = torch.fromFile(path, 0, [65536], dtype);
    assert.deepEqual(Array.from(engine.read(ours)), Array.from(torch.read(theirs)), dtype);
    const bits = new Uint16Array(engine.bytes(ours).slice().buffer);
    const values = engine.read(ours);
    for (const [i, half] of bits.entries()) if (!Number.isNaN(values[i])) assert.equal(half, i, dtype);
  }
});

test('rounding to bfloat16 and float16 is torch’s: ties to even, overflow, subnormals', () => {
  const steps = [0, 0.25, 0.5, 0.75, 1, 1.5];
  const values = Float32Array.from(
    [1e-8, 6e-8, 6.1e-5, 0.1, 1, 3.1, 2049, 65503, 65519, 65520, 1e6, 3.4e38].flatMap((size) =>
      steps.flatMap((step) => [size * (1 + step / 1024), -size * (1 + step / 256)]),
    ),
  );
  for (const dtype of ['bfloat16', 'float16'] as const) {
    const ours = engine.cast(engine.tensor(values, [values.length]), dtype);
    const theirs = torch.cast(torch.tensor(values, [values.length]), dtype);
    assert.deepEqual(Array.from(engine.read(ours)), Array.from(torch.read(theirs)), dtype);
    assert.deepEqual(engine.bytes(ours), torch.bytes(theirs), dtype);
  }
});

test('nothing is computed below float32 without saying so', () => {
  const low = engine.cast(vector(1, 2), 'bfloat16');
  assert.throws(() => engine.add(low, low), /computes in float32, and this tensor is bfloat16/);
  assert.deepEqual([...engine.read(engine.add(engine.cast(low, 'float32'), vector(1, 1)))], [2, 3]);
});

test('a scope frees what it does not return, also when it throws; keep takes a tensor out', () => {
  const before = live();
  let kept: Tensor | undefined;
  const returned = engine.scope(() => {
    kept = engine.keep(engine.add(vector(1), vector(2)));
    return { sum: [engine.add(vector(3), vector(4))], nothing: null };
  });
  assert.equal(live(), before + 2);
  for (const tensor of [kept!, returned.sum[0]!]) tensor.dispose();
  assert.throws(() => engine.scope(() => void engine.read(engine.reshape(vector(1, 2), [3]))));
  assert.equal(live(), before);
  assert.ok(kept!.disposed);
  assert.throws(() => engine.read(kept!), /used after it was freed/);
});

test('assign and the optimizer change a tensor in place, and views of the old values stay', () => {
  const target = vector(1, 2);
  const view = engine.reshape(target, [1, 2]);
  engine.assign(target, vector(5, 6));
  assert.deepEqual([...engine.read(target)], [5, 6]);
  assert.deepEqual([...engine.read(view)], [1, 2]);
  assert.throws(() => engine.assign(target, vector(1)), /\[1\] cannot be assigned to \[2\]/);
});

test('a segment that hands its input on, has two outputs, or ignores an input', () => {
  const before = live();
  const [a, b] = [vector(1, 2), vector(3, 4)];
  const segment: Segment = {
    name: 'two outputs',
    parameters: [],
    forward: ([x]) => [x!, engine.mul(x!, x!)],
  };
  const vjp = engine.vjp(segment, [a, b], [true, true]);
  assert.deepEqual([...engine.read(vjp.outputs[1]!)], [1, 4]);
  const [forA, forB] = vjp.backward([vector(10, 10), vector(1, 1)]);
  assert.deepEqual([...engine.read(forA!)], [12, 14]);
  assert.equal(forB, null);
  const one = engine.vjp(segment, [a], [true]).backward([vector(7, 8), null]);
  assert.deepEqual([...engine.read(one[0]!)], [7, 8]);
  assert.deepEqual([...engine.read(a)], [1, 2]);
  engine.vjp(segment, [a], [true]).drop();
  assert.deepEqual(engine.vjp(segment, [a], [true]).backward([null, null]), [null]);
  assert.equal(live() - before, 2 + 2 + 3, 'the inputs, two gradients, three given ones');
});

test('constants that a segment makes for itself are there when its gradient is computed', () => {
  const constant = (...values: number[]) => engine.cast(vector(...values), 'int32');
  const angles = (f: (x: number) => number) => engine.scale(engine.reshape(vector(f(0.1), f(0.7)), [2, 1]), 1);
  const segment: Segment = {
    name: 'own constants',
    parameters: [],
    forward: ([x]) => {
      const rows = engine.gatherRows(x!, constant(1, 1, 0)); // [3, 2]
      const spliced = engine.scatterRows(rows, constant(2), engine.gatherRows(x!, constant(0))); // [3, 2]
      const looked = engine.embedding(spliced, engine.reshape(constant(0, 2), [1, 2])); // [1, 2, 2]
      const turned = engine.rope(engine.reshape(looked, [1, 1, 2, 2]), angles(Math.cos), angles(Math.sin));
      return [engine.crossEntropy(engine.reshape(turned, [2, 2]), constant(1, 0))];
    },
  };
  const point = engine.tensor(Float32Array.of(0.3, -0.2, 0.5, 0.9), [2, 2]);
  const [grad] = engine.vjp(segment, [point], [true]).backward([engine.full([], 1)]);
  const at = (i: number, step: number) => {
    const values = Float32Array.of(0.3, -0.2, 0.5, 0.9);
    values[i]! += step;
    return engine.item(engine.forward(segment, [engine.tensor(values, [2, 2])])[0]!);
  };
  for (const [i, value] of Array.from(engine.read(grad!)).entries()) {
    const expected = (at(i, 0.01) - at(i, -0.01)) / 0.02;
    assert.ok(Math.abs(value - expected) < 1e-3, `element ${i}: ${value} ≠ ${expected}`);
  }
});

test('a frozen parameter gets no gradient, a trained one the sum of all', () => {
  const parameter = (trainable: boolean) => ({
    name: 'w',
    value: vector(2, 3),
    main: null,
    grad: null as Tensor | null,
    trainable,
    decay: true,
  });
  const [trained, frozen] = [parameter(true), parameter(false)];
  const segment: Segment = {
    name: 'product',
    parameters: [trained, frozen],
    forward: ([x]) => [engine.mul(engine.mul(x!, trained.value), frozen.value)],
  };
  for (let i = 0; i < 2; i++) engine.vjp(segment, [vector(1, 10)], [false]).backward([vector(1, 1)]);
  assert.deepEqual([...engine.read(trained.grad!)], [4, 60]);
  assert.equal(frozen.grad, null);
});

test('random numbers: the same seed gives the same, a saved state goes on, mean and spread are right', () => {
  engine.seed(7);
  const first = engine.read(engine.normal([10001], 1, 2));
  const state = engine.rngState();
  const next = engine.read(engine.uniform([5], -1, 1));
  engine.setRngState(state);
  assert.deepEqual(engine.read(engine.uniform([5], -1, 1)), next);
  engine.seed(7);
  assert.deepEqual(engine.read(engine.normal([10001], 1, 2)), first);
  engine.seed(2 ** 32 + 7);
  assert.notDeepEqual(engine.read(engine.normal([10001], 1, 2)), first);

  const values = Array.from(first);
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
  assert.ok(Math.abs(mean - 1) < 0.06, `mean ${mean}`); // three times 2/√10001
  assert.ok(Math.abs(variance - 4) < 0.18, `variance ${variance}`);
  const even = Array.from(engine.read(engine.uniform([10000], 0, 1)));
  for (let tenth = 0; tenth < 10; tenth++) {
    const share = even.filter((x) => Math.floor(x * 10) === tenth).length;
    assert.ok(Math.abs(share - 1000) < 120, `${share} of 10000 in tenth ${tenth}`); // four times √900
  }
  const refused = (error: unknown) => isUserError(error) && /saved by another engine/.test(error.message);
  assert.throws(() => engine.setRngState(torch.rngState()), refused);
  assert.throws(() => torch.setRngState(engine.rngState()), refused);
});

test('memory figures follow tensors, and the peak is kept', () => {
  const { bytes } = engine.memory();
  engine.resetPeakMemory();
  engine.zeros([256, 256]).dispose();
  assert.equal(engine.memory().bytes, bytes);
  assert.ok(engine.memory().peakBytes >= bytes + 4 * 256 * 256);
});

test('one AdamW update is torch’s, with and without decay and clipping', () => {
  for (const [decay, gradScale] of [
    [true, 1],
    [false, 0.25],
  ] as const) {
    const [ours, theirs] = [engine, torch].map((e) => {
      const make = (...values: number[]) => e.tensor(Float32Array.from(values), [values.length]);
      const parameter = {
        name: 'w',
        value: make(1, -2, 3),
        main: null,
        grad: make(0.5, 0.1, -4),
        trainable: true,
        decay,
      };
      const state = { expAvg: make(0.1, 0, -0.2), expAvgSq: make(0.2, 0.01, 3) };
      const options = { step: 3, lr: 0.1, betas: [0.9, 0.95] as const, eps: 1e-8, weightDecay: 0.1, gradScale };
      e.adamW([parameter], [state], options);
      return [parameter.value, state.expAvg, state.expAvgSq].flatMap((tensor) => Array.from(e.read(tensor)));
    });
    for (const [i, value] of ours!.entries())
      assert.ok(Math.abs(value - theirs![i]!) < 1e-6, `${i}: ${ours} ≠ ${theirs}`);
  }
  assert.ok(Math.abs(engine.globalNorm([vector(3), vector(0, 4)]) - 5) < 1e-6);
});
