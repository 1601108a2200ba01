/** THE loop on the tiny LLaVA: accumulation, freezing, resuming bit for bit, stopping, all without files of data. */
import assert from 'node:assert/strict';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type CheckpointState, readCheckpoint, restore } from '../../src/checkpoint/folder.ts';
import { saveCheckpoint } from '../../src/checkpoint/write_folder.ts';
import type { GlobalBatch, MicroBatch } from '../../src/data/types.ts';
import type { NevaModel, NevaOptions } from '../../src/model/neva.ts';
import { NO_REDUCTION } from '../../src/parallel/data.ts';
import { SINGLE } from '../../src/parallel/ranks.ts';
import type { StepMetrics } from '../../src/report/metrics.ts';
import { type LoopOptions, type Position, trainLoop } from '../../src/train/loop.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { KEEP_ALL, type Recompute } from '../../src/train/recompute.ts';
import { NEVER } from '../../src/train/save_plan.ts';
import { batchOf, packedOf, referenceRecords, reportInto } from '../support/batches.ts';
import { tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const { micro, textOnly: TEXT_ONLY } = referenceRecords(engine);

/** Another global batch for every position, as a data set would give. */
async function* batches(from: number, cut: number[][]): AsyncGenerator<GlobalBatch> {
  for (let i = from; ; i++)
    yield batchOf(
      cut.map((records) => micro(records, i)),
      (i + 1) * 3,
    );
}

const ALL = [[0, 1, 2]];
const BEGINNING: Position = { step: 0, epoch: 0, consumedSamples: 0, valLoss: null };

interface Run {
  cut?: number[][];
  steps?: number;
  reduction?: LoopOptions['lossReduction'];
  llm?: boolean;
  vision?: boolean;
  start?: Position;
  from?: string;
  saveAt?: string;
  recompute?: Recompute;
  attention?: NevaOptions['attention'];
  /** What is made of every micro batch. */
  as?: (micro: MicroBatch) => MicroBatch;
  stopAfter?: number;
}

async function run({
  cut = ALL,
  steps = 4,
  reduction = 'tokens',
  recompute = KEEP_ALL,
  llm = true,
  vision = false,
  start = BEGINNING,
  from,
  saveAt,
  stopAfter,
  attention,
  as = (each) => each,
}: Run) {
  const model = tinyLlava(engine, 'float32', attention);
  for (const { name, parameters } of model.parts) {
    const trains = { llm, projector: true, vision_encoder: vision }[name];
    for (const parameter of parameters) parameter.trainable = trains;
  }
  const trainable = model.parameters.filter(({ trainable }) => trainable);
  const optimizer = new Optimizer(engine, trainable, { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 1 });
  const moments = new Map(trainable.map(({ name }, i) => [name, optimizer.states[i]!]));
  if (from) restore(engine, from, trainable, moments);
  const lines: StepMetrics[] = [];
  const stop = new AbortController();
  const source = async function* () {
    for await (const batch of batches(start.step, cut)) {
      if (stopAfter !== undefined && batch.consumedSamples / 3 === stopAfter) stop.abort();
      yield { ...batch, microBatches: batch.microBatches.map(as) };
    }
  };
  const result = await trainLoop(
    {
      engine,
      model,
      optimizer,
      schedule: { name: 'CosineAnnealing', lr: 1e-3, minLr: 1e-5, warmupSteps: 2, constantSteps: 0, maxSteps: 20 },
      batches: source(),
      ranks: SINGLE,
      reduction: NO_REDUCTION,
      report: reportInto(lines, stop.signal),
      save: async (position) => {
        if (saveAt) saveCheckpoint(engine, saveAt, content(model, position, moments));
      },
      validate: async () => Number.NaN,
    },
    {
      maxSteps: steps,
      save: { ...NEVER, atEnd: true },
      validateEvery: 0,
      lossReduction: reduction,
      recompute,
      trains: { llm, projector: true, vision },
      peakFlops: null,
    },
    start,
  );
  const weights = model.parameters.map(({ name, value }) => [name, engine.bytes(value)] as const);
  return { result, lines, losses: lines.map(({ loss }) => loss), weights: new Map(weights), model };
}

function content(model: NevaModel, position: Position, optimizer: Map<string, never> | Map<string, object>) {
  const state = {
    format: 1,
    stage: 'finetune',
    ...position,
    loss: 1,
    rng: Buffer.from(engine.rngState()).toString('base64'),
    seed: 1,
    template: 'v1',
    templateCompat: 'llava',
    imageAspect: 'square',
    useImStartEnd: false,
    additionalTokens: [],
    frozen: [],
  } satisfies CheckpointState;
  const parameters = model.parameters.filter(({ trainable }) => trainable);
  return { state, shape: model.shape, parameters, optimizer: optimizer as never, files: [] };
}

const worst = (a: number[], b: number[]) => Math.max(...a.map((value, i) => Math.abs(value / b[i]! - 1)));

test('cutting the global batch into micro batches changes nothing', async () => {
  const whole = await run({});
  for (const cut of [
    [[0], [1], [2]],
    [[0, 1], [2]],
    [[2], [0, 1]],
  ]) {
    const parts = await run({ cut });
    assert.ok(worst(parts.losses, whole.losses) < 2e-6, `${JSON.stringify(cut)}: ${parts.losses} ≠ ${whole.losses}`);
  }
});

test('loss_reduction=micro_batches is the mean of the micro batches’ means', async () => {
  const each = await Promise.all([0, 1, 2].map((record) => run({ cut: [[record]], steps: 1 })));
  const mean = each.reduce((sum, { losses }) => sum + losses[0]! / 3, 0);
  const { losses } = await run({ cut: [[0], [1], [2]], steps: 1, reduction: 'micro_batches' });
  assert.ok(Math.abs(losses[0]! / mean - 1) < 1e-6);
  const tokens = await run({ cut: [[0], [1], [2]], steps: 1 });
  assert.ok(Math.abs(losses[0]! - tokens.losses[0]!) > 1e-4, 'the two differ where records have unlike label counts');
});

test('what is frozen stays as it was, bit for bit', async () => {
  const before = new Map(tinyLlava(engine).parameters.map(({ name, value }) => [name, engine.bytes(value)]));
  const { weights } = await run({ llm: false });
  for (const [name, bytes] of weights) {
    const same = Buffer.compare(bytes, before.get(name)!) === 0;
    assert.equal(same, !name.startsWith('multi_modal_projector.'), name);
  }
});

test('a resumed run is the uninterrupted one, bit for bit', async () => {
  for (const llm of [true, false]) {
    const whole = await run({ llm, steps: 8 });
    const dir = mkdtempSync(join(tmpdir(), 'neva-'));
    await run({ llm, steps: 5, saveAt: dir });
    const from = join(dir, 'step=0000005');
    const { step, epoch, consumedSamples, valLoss } = readCheckpoint(from);
    const rest = await run({ llm, steps: 8, from, start: { step, epoch, consumedSamples, valLoss } });
    assert.deepEqual(rest.losses, whole.losses.slice(5));
    for (const [name, bytes] of whole.weights) assert.ok(Buffer.compare(bytes, rest.weights.get(name)!) === 0, name);
  }
});

test('a stop signal lets the step finish, saves, and says so', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'neva-'));
  const { result, lines } = await run({ steps: 8, stopAfter: 3, saveAt: dir });
  assert.equal(result.stopped, true);
  assert.equal(lines.length, 3);
  assert.equal(readCheckpoint(join(dir, 'step=0000003')).consumedSamples, 9);
});

test('every field of a step’s line, and text-only micro batches', async () => {
  const { lines } = await run({ cut: [[TEXT_ONLY]], steps: 1 });
  const [line] = lines as [StepMetrics];
  const m = micro([TEXT_ONLY]);
  assert.equal(line.tokens, m.batch * m.length);
  assert.equal(line.label_tokens, m.labelRows.length);
  assert.equal(line.step, 1);
  assert.equal(line.consumed_samples, 3);
  assert.equal(line.mfu, null);
  for (const key of [
    'loss',
    'lr',
    'grad_norm',
    'step_time_s',
    'data_time_s',
    'tokens_per_s',
    'samples_per_s',
    'tflops',
    'peak_memory_bytes',
  ] as const) {
    assert.ok(Number.isFinite(line[key]) && line[key]! >= 0, `${key} is ${line[key]}`);
  }
});

test('in pretrain, a batch of text alone teaches the projector nothing and harms nothing', async () => {
  const { losses, lines } = await run({ cut: [[TEXT_ONLY]], steps: 2, llm: false });
  assert.equal(losses.length, 2);
  assert.equal(lines[0]!.grad_norm, 0);
});

test('packed records learn what padded ones do, with every kind of attention and recomputation', async () => {
  for (const llm of [true, false]) {
    const padded = await run({ llm });
    for (const attention of [{}, { flash: false }, { flash: false, recompute: true }]) {
      for (const recompute of [KEEP_ALL, { granularity: 'full', method: 'uniform', layers: 1 } as const]) {
        const packed = await run({ llm, attention, recompute, as: packedOf });
        const what = `${JSON.stringify(attention)} ${recompute.granularity}`;
        assert.ok(worst(packed.losses, padded.losses) < 1e-6, `${what}: ${packed.losses} ≠ ${padded.losses}`);
        assert.ok(packed.lines.every((line, i) => line.tokens < padded.lines[i]!.tokens));
        assert.equal(packed.lines[0]!.samples_per_s > 0 && packed.lines[0]!.packing_efficiency <= 1, true);
      }
    }
  }
});

test('packed text alone, and several packs in as many micro batches', async () => {
  for (const cut of [[[TEXT_ONLY]], [[0, 2], [1]], [[0], [TEXT_ONLY, 1]]]) {
    const padded = await run({ cut });
    const packed = await run({ cut, as: packedOf });
    assert.ok(worst(packed.losses, padded.losses) < 1e-6, `${JSON.stringify(cut)}: ${packed.losses}`);
  }
});

test('attention with its scores written out agrees; computing it again changes no bit', async () => {
  for (const llm of [true, false]) {
    const flash = await run({ llm });
    const plain = await run({ llm, attention: { flash: false } });
    assert.ok(worst(plain.losses, flash.losses) < 1e-6);
    const again = await run({ llm, attention: { flash: false, recompute: true } });
    assert.deepEqual(again.losses, plain.losses);
    for (const [name, bytes] of plain.weights) assert.ok(Buffer.compare(bytes, again.weights.get(name)!) === 0, name);
  }
});

test('recomputation changes nothing, bit for bit, and leaves no tensor behind', async () => {
  const live = () => engine.memory().tensors;
  for (const parts of [{ llm: true }, { llm: false }, { llm: true, vision: true }]) {
    const atFirst = live();
    const plain = await run(parts);
    const keptByRun = live() - atFirst; // weights, moments, rotary tables
    for (const method of ['uniform', 'block'] as const) {
      for (const layers of [1, 2, 3]) {
        const before = live();
        const again = await run({ ...parts, recompute: { granularity: 'full', method, layers } });
        assert.deepEqual(again.losses, plain.losses, `${method} ${layers}`);
        for (const [name, bytes] of plain.weights)
          assert.ok(Buffer.compare(bytes, again.weights.get(name)!) === 0, name);
        assert.equal(live() - before, keptByRun, `${method} ${layers}: tensors left behind`);
      }
    }
  }
});
