/** float16 with loss scaling, main weights as remainders, and what a weight costs in each precision. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DType, Parameter } from '../../src/engine/engine.ts';
import { NO_REDUCTION } from '../../src/parallel/data.ts';
import { ALONE } from '../../src/parallel/group.ts';
import { SINGLE } from '../../src/parallel/ranks.ts';
import type { StepMetrics } from '../../src/report/metrics.ts';
import { type LoopOptions, trainLoop } from '../../src/train/loop.ts';
import { LossScaler } from '../../src/train/loss_scale.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { KEEP_ALL } from '../../src/train/recompute.ts';
import { NEVER } from '../../src/train/save_plan.ts';
import { batchOf, referenceRecords, reportInto } from '../support/batches.ts';
import { tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const { micro } = referenceRecords(engine);
const ADAM = { betas: [0.9, 0.95] as const, eps: 1e-8, weightDecay: 0.1, clip: 1 };
const SCHEDULE = {
  name: 'CosineAnnealing' as const,
  lr: 1e-3,
  minLr: 1e-5,
  warmupSteps: 2,
  constantSteps: 0,
  maxSteps: 20,
};

const loopOptions = (maxSteps: number): LoopOptions => ({
  maxSteps,
  save: NEVER,
  validateEvery: 0,
  lossReduction: 'tokens',
  recompute: KEEP_ALL,
  trains: { llm: true, projector: true, vision: false },
  peakFlops: null,
});
const BEGINNING = { step: 0, epoch: 0, consumedSamples: 0, valLoss: null };

/** As assemble.ts prepares weights that train; `o2`: below float32, with a main weight. */
function prepare(parameter: Parameter, dtype: DType, o2: boolean): void {
  parameter.trainable = true;
  if (!o2) return;
  parameter.main = parameter.value;
  parameter.value = engine.keep(engine.zeros(parameter.main.shape, dtype));
  engine.round(parameter.value, parameter.main);
}

interface Run {
  steps: number;
  dtype?: DType;
  o2?: boolean;
  scaler?: LossScaler;
  remainders?: boolean;
}

async function run({ steps, dtype = 'float32', o2 = false, scaler, remainders = false }: Run) {
  const model = tinyLlava(engine, dtype);
  const trainable = model.parts.filter(({ name }) => name !== 'vision_encoder').flatMap((part) => part.parameters);
  for (const parameter of trainable) prepare(parameter, dtype, o2);
  const optimizer = new Optimizer(engine, trainable, ADAM, ALONE, remainders);
  const lines: StepMetrics[] = [];
  const batches = async function* () {
    for (let i = 0; ; i++) yield batchOf([micro([0, 1, 2], i)], (i + 1) * 3);
  };
  await trainLoop(
    {
      engine,
      model,
      optimizer,
      schedule: SCHEDULE,
      batches: batches(),
      ranks: SINGLE,
      reduction: NO_REDUCTION,
      scaler: scaler ?? null,
      report: reportInto(lines),
      save: async () => {},
      validate: async () => Number.NaN,
    },
    loopOptions(steps),
    BEGINNING,
  );
  const mains = new Map<string, Uint8Array>();
  optimizer.withWhole(() => {
    for (const { name, value, main } of trainable) mains.set(name, engine.bytes(main ?? value));
  });
  const values = new Map(trainable.map(({ name, value }) => [name, engine.bytes(value)]));
  return { lines, losses: lines.map(({ loss }) => loss), mains, values };
}

function same(a: Map<string, Uint8Array>, b: Map<string, Uint8Array>, what: string) {
  for (const [name, bytes] of a) assert.ok(Buffer.compare(bytes, b.get(name)!) === 0, `${what}: ${name}`);
}

test('the scale halves when the hysteresis is used up, doubles after enough good steps', () => {
  const scaler = new LossScaler({ initScale: 1024, growthInterval: 3, hysteresis: 2 });
  const path = [false, false, false, true, false, true, true, true, true].map((finite) => {
    scaler.update(finite);
    return scaler.scale;
  });
  // The second overflow in a row halves, and so does each further one; one good step renews the tolerance.
  assert.deepEqual(path, [1024, 512, 256, 256, 256, 256, 256, 512, 512]);
  assert.equal(scaler.skipped, 4);
  const again = new LossScaler({ initScale: 1, growthInterval: 3, hysteresis: 2 }, scaler.state);
  for (const finite of [true, true]) again.update(finite);
  assert.deepEqual([again.scale, again.skipped], [1024, 4]);
});

test('in float32 a scale that is a power of two changes no bit', async () => {
  const plain = await run({ steps: 4 });
  const scaled = await run({
    steps: 4,
    scaler: new LossScaler({ initScale: 2 ** 12, growthInterval: 2, hysteresis: 2 }),
  });
  assert.deepEqual(scaled.losses, plain.losses);
  assert.deepEqual(
    scaled.lines.map(({ loss_scale }) => loss_scale),
    [2 ** 12, 2 ** 12, 2 ** 13, 2 ** 13],
  );
  same(scaled.values, plain.values, 'weights');
});

test('float16: steps that overflow are skipped and change nothing, then it learns as float32 does', async () => {
  const plain = await run({ steps: 6 });
  for (const o2 of [false, true]) {
    const scaler = new LossScaler({ initScale: 2 ** 32, growthInterval: 1000, hysteresis: 2 });
    const { lines } = await run({ steps: 60, dtype: 'float16', o2, scaler });
    const skipped = lines.filter(({ grad_norm }) => grad_norm === null);
    assert.ok(skipped.length > 3, `${skipped.length} skipped from a scale of 2^32`);
    assert.equal(lines.at(-1)!.skipped_steps, skipped.length);
    assert.ok(lines.at(-1)!.loss_scale! < 2 ** 32);
    // The schedule waits: every skipped step before the first good one has the first learning rate.
    const good = lines.findIndex(({ grad_norm }) => grad_norm !== null);
    assert.ok(good > 0 && lines.slice(0, good + 1).every(({ lr }) => lr === lines[0]!.lr));
    assert.ok(Math.abs(lines[0]!.loss / plain.losses[0]! - 1) < 1e-3, 'nothing was learned before the first loss');
  }
  // From a scale that fits, all steps count, and losses are those of float32 within float16's precision.
  const fits = await run({
    steps: 6,
    dtype: 'float16',
    scaler: new LossScaler({ initScale: 256, growthInterval: 1000, hysteresis: 2 }),
  });
  assert.equal(fits.lines.at(-1)!.skipped_steps, 0);
  for (const [i, loss] of fits.losses.entries()) assert.ok(Math.abs(loss / plain.losses[i]! - 1) < 3e-3);
});

test('a skipped step leaves weights and moments as they were, bit for bit', async () => {
  const before = tinyLlava(engine, 'float16');
  const scaler = new LossScaler({ initScale: 2 ** 60, growthInterval: 1000, hysteresis: 2 });
  const { lines, values } = await run({ steps: 3, dtype: 'float16', scaler });
  assert.deepEqual(
    lines.map(({ skipped_steps }) => skipped_steps),
    [1, 2, 3],
  );
  for (const { name, value } of before.parameters) {
    if (values.has(name)) assert.ok(Buffer.compare(values.get(name)!, engine.bytes(value)) === 0, name);
  }
});

test('gradients that are not finite at any scale end the run', async () => {
  const scaler = new LossScaler({ initScale: 1, growthInterval: 1000, hysteresis: 1 });
  const model = tinyLlava(engine, 'float16');
  for (const { parameters } of model.parts.slice(1)) for (const each of parameters) each.trainable = true;
  const trainable = model.parameters.filter(({ trainable }) => trainable);
  engine.assign(trainable.at(-1)!.value, engine.full(trainable.at(-1)!.value.shape, Number.NaN));
  const optimizer = new Optimizer(engine, trainable, ADAM);
  const batches = async function* () {
    yield batchOf([micro([0, 1, 2])], 3);
  };
  await assert.rejects(
    trainLoop(
      {
        engine,
        model,
        optimizer,
        schedule: SCHEDULE,
        batches: batches(),
        ranks: SINGLE,
        reduction: NO_REDUCTION,
        scaler,
        report: reportInto([]),
        save: async () => {},
        validate: async () => Number.NaN,
      },
      loopOptions(1),
      BEGINNING,
    ),
    /step 1: the loss is NaN .* at loss scale 1; the last checkpoint is good/,
  );
});

test('a bfloat16 weight and its remainder are the main weight, in every bit', () => {
  const words = Uint32Array.from([
    0,
    0x8000_0000,
    0x3f80_0000,
    0x3f80_8000,
    0x3f81_8000,
    0xbf80_8000,
    0xbf81_8000,
    0x3f80_7fff,
    0x3f80_8001,
    1,
    0x0000_8000,
    0x7f7f_ffff,
    0xff7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x0080_0000,
    0x807f_ffff,
    ...Array.from({ length: 4096 }, (_, i) => Math.imul(i + 1, 0x9e37_79b1) >>> 0),
  ]).filter((word) => (word & 0x7fff_ffff) <= 0x7f80_0000);
  engine.scope(() => {
    const main = engine.tensor(new Float32Array(words.buffer), [words.length]);
    const value = engine.zeros([words.length], 'bfloat16');
    engine.round(value, main);
    const parts = new Uint16Array(engine.bytes(value).buffer);
    // To the nearest, ties away from zero, by whole numbers.
    words.forEach((word, i) => {
      assert.equal(parts[i], ((word + 0x8000) / 0x1_0000) & 0xffff, word.toString(16));
    });
    const joined = engine.join(value, engine.remainder(main));
    assert.deepEqual(new Uint32Array(engine.bytes(joined).buffer), words);
    const nan = engine.tensor(new Float32Array(new Uint32Array([0x7fff_ffff, 0xffff_ffff, 0x7f80_0001]).buffer), [3]);
    const part = engine.zeros([3], 'bfloat16');
    engine.round(part, nan);
    assert.ok(engine.read(part).every(Number.isNaN));
    assert.ok(engine.read(engine.join(part, engine.remainder(nan))).every(Number.isNaN));
  });
});

test('store_param_remainders: losses, weights and main weights are those of whole main weights, bit for bit', async () => {
  const whole = await run({ steps: 20, dtype: 'bfloat16', o2: true });
  const parts = await run({ steps: 20, dtype: 'bfloat16', o2: true, remainders: true });
  assert.deepEqual(parts.losses, whole.losses);
  same(parts.values, whole.values, 'weights');
  same(parts.mains, whole.mains, 'main weights');
});

test('bytes of a weight that trains, as documented in docs/numerics.md', () => {
  const count = 2 ** 20;
  const cost = (dtype: DType, o2: boolean, remainders: boolean) => {
    const before = engine.memory().bytes;
    const parameter: Parameter = {
      name: 'w',
      value: engine.keep(engine.normal([1024, 1024], 0, 1)),
      main: null,
      grad: null,
      trainable: true,
      decay: true,
    };
    prepare(parameter, dtype, o2);
    const optimizer = new Optimizer(engine, [parameter], ADAM, ALONE, remainders);
    const kept = (engine.memory().bytes - before) / count;
    parameter.grad = engine.keep(engine.normal([1024, 1024], 0, 1));
    const during = (engine.memory().bytes - before) / count;
    optimizer.step(1, 1e-3);
    for (const each of [parameter.value, parameter.main, parameter.remainder]) each?.dispose();
    for (const { expAvg, expAvgSq } of optimizer.states) {
      expAvg.dispose();
      expAvgSq.dispose();
    }
    return [kept, during].map((bytes) => Math.round(bytes * 100) / 100);
  };
  assert.deepEqual(cost('float32', false, false), [12, 16], '32, tf32, and 16 bits without O2');
  assert.deepEqual(cost('bfloat16', true, false), [14, 18], 'O2');
  assert.deepEqual(cost('float16', true, false), [14, 18], 'O2 in float16');
  assert.deepEqual(cost('bfloat16', true, true), [12, 16], 'O2 with remainders');
});
