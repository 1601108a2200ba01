/**
 * One rank of data.test.ts: trains the tiny LLaVA in several settings, each from the same beginning, and rank 0 writes the
 * figures and the final weights into the folder that it is given.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GlobalBatch } from '../../src/data/types.ts';
import { gradientReduction } from '../../src/parallel/data.ts';
import { readPlace } from '../../src/parallel/environment.ts';
import { ALONE, joinGroup } from '../../src/parallel/group.ts';
import { makeMesh } from '../../src/parallel/mesh.ts';
import { openRanks } from '../../src/parallel/ranks.ts';
import type { StepMetrics } from '../../src/report/metrics.ts';
import { type LoopOptions, trainLoop } from '../../src/train/loop.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { KEEP_ALL } from '../../src/train/recompute.ts';
import { NEVER } from '../../src/train/save_plan.ts';
import { ShardedOptimizer } from '../../src/train/sharded_optimizer.ts';
import { batchOf, microBatchesOf, referenceRecords, reportInto } from '../support/batches.ts';
import { tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

/** Fewer in bfloat16, whose runs drift apart. */
const steps = (lowPrecision: boolean) => (lowPrecision ? 5 : 20);
/** Small enough for the tiny model to fill several. */
const BUCKETS = { bytes: 20_000, overlap: true };

export interface Setting {
  name: string;
  llm: boolean;
  recompute: boolean;
  reduction: LoopOptions['lossReduction'];
  /** Optimizer state shared out over the ranks. */
  sharded: boolean;
  /** bfloat16 weights with float32 main weights (NeMo's O2). */
  lowPrecision: boolean;
  /** Of the sums over ranks. */
  gradients?: 'float32' | 'bfloat16';
  /** Of the main weights, the 16 bits that the weights leave (with lowPrecision). */
  remainders?: boolean;
}

export interface Outcome {
  name: string;
  lines: StepMetrics[];
  /** Live tensors at the beginning of each step. */
  tensors: number[];
  weights: [string, number[]][];
  /** Moments, moving averages and main weights, whole; on rank 0. */
  moments: [string, number[]][];
  /** That the ranks summed: of gradients, but for a few small figures. */
  summedBytes: number;
}

const [out = '', settings = '[]'] = process.argv.slice(2);
const engine = torchEngine();
const place = readPlace(process.env);
const group = place ? await joinGroup(place, 60, process.env) : ALONE;
const records = referenceRecords(engine);

function summed(): number {
  const { allReduce, reduceScatter } = group.traffic();
  return allReduce.bytes + reduceScatter.bytes;
}

async function* shares(tensors: number[]): AsyncGenerator<GlobalBatch> {
  for (let step = 0; ; step++) {
    tensors.push(engine.memory().tensors);
    const own = microBatchesOf(records, step).filter((_, i) => i % group.size === group.rank);
    yield batchOf(own, (step + 1) * 6);
  }
}

async function run({
  name,
  llm,
  recompute,
  reduction,
  sharded,
  lowPrecision,
  gradients,
  remainders = false,
}: Setting): Promise<Outcome> {
  const model = tinyLlava(engine, lowPrecision ? 'bfloat16' : 'float32');
  for (const part of model.parts) {
    for (const parameter of part.parameters) {
      parameter.trainable = part.name === 'projector' || (part.name === 'llm' && llm);
    }
  }
  const trainable = model.parameters.filter((parameter) => parameter.trainable);
  for (const parameter of lowPrecision ? model.parameters : []) {
    const exact = parameter.value;
    parameter.value = engine.keep(engine.zeros(exact.shape, 'bfloat16'));
    engine.round(parameter.value, exact);
    if (parameter.trainable) parameter.main = exact;
  }
  const adam = {
    betas: [0.9, 0.95] as const,
    eps: 1e-8,
    weightDecay: 0.1,
    clip: 1,
    ema: { decay: 0.8, everySteps: 2 },
  };
  const buckets = { ...BUCKETS, ...(gradients ? { dtype: gradients } : {}) };
  const before = summed();
  const shared =
    sharded && group.size > 1
      ? new ShardedOptimizer(engine, group, trainable, adam, buckets, undefined, remainders)
      : null;
  const optimizer = shared ?? new Optimizer(engine, trainable, adam, group, remainders);
  const lines: StepMetrics[] = [];
  const tensors: number[] = [];
  await trainLoop(
    {
      engine,
      model,
      optimizer,
      schedule: { name: 'CosineAnnealing', lr: 1e-3, minLr: 1e-5, warmupSteps: 2, constantSteps: 0, maxSteps: 20 },
      batches: shares(tensors),
      ranks: openRanks(group, makeMesh(group.size, 1, 1)),
      reduction: shared ?? gradientReduction(engine, group, trainable, buckets),
      report: reportInto(lines),
      save: async () => {},
      validate: async () => Number.NaN,
    },
    {
      maxSteps: steps(lowPrecision),
      save: NEVER,
      validateEvery: 0,
      lossReduction: reduction,
      recompute: recompute ? { granularity: 'full', method: 'uniform', layers: 1 } : KEEP_ALL,
      trains: { llm, projector: true, vision: false },
      peakFlops: null,
    },
    { step: 0, epoch: 0, consumedSamples: 0, valLoss: null },
  );
  const valuesNow = () => trainable.map(({ value }) => Buffer.from(engine.bytes(value)).toString('base64'));
  const own = valuesNow();
  const shown = await optimizer.withAverages(async () => valuesNow());
  assert.deepEqual(valuesNow(), own);
  const moments: [string, number[]][] = [];
  optimizer.withWhole((whole) => {
    for (const [key, { expAvg, expAvgSq, average }] of whole) {
      moments.push([`${key} average`, [...engine.read(average!)]]);
      const at = trainable.findIndex(({ name }) => name === key);
      const rounded = engine.cast(average!, trainable[at]!.value.dtype);
      assert.equal(Buffer.from(engine.bytes(rounded)).toString('base64'), shown[at], key);
      if (rounded !== average) rounded.dispose();
      moments.push([`${key} exp_avg`, [...engine.read(expAvg)]], [`${key} exp_avg_sq`, [...engine.read(expAvgSq)]]);
    }
    for (const { name: key, main } of trainable) if (main) moments.push([`${key} main`, [...engine.read(main)]]);
  });
  return {
    name,
    lines,
    tensors,
    moments,
    summedBytes: summed() - before,
    weights: trainable.map(({ name, value }) => [name, [...engine.read(value)]]),
  };
}

const outcomes: Outcome[] = [];
for (const setting of JSON.parse(settings) as Setting[]) outcomes.push(await run(setting));
writeFileSync(join(out, `world-${group.size}-rank-${group.rank}.json`), JSON.stringify(outcomes));
group.close();
