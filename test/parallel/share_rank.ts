/**
 * One rank of share.test.ts: trains a tiny LLaVA whose language model and projector begin at random, its layers and blocks
 * shared out in several ways. Rank 0 writes figures, weights and moments, brought together as for a checkpoint.
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openWeights } from '../../src/checkpoint/weights.ts';
import type { SnapshotTensor } from '../../src/checkpoint/write_folder.ts';
import type { GlobalBatch } from '../../src/data/types.ts';
import type { Parameter } from '../../src/engine/engine.ts';
import { NevaModel } from '../../src/model/neva.ts';
import { cutOut } from '../../src/model/parameters.ts';
import type { GptBlock, NevaShape } from '../../src/model/shapes.ts';
import { wholeShape } from '../../src/model/split.ts';
import { balancedLayout, stageOf } from '../../src/model/stage.ts';
import { readPlace } from '../../src/parallel/environment.ts';
import { ALONE, joinGroup, type Traffic } from '../../src/parallel/group.ts';
import { makeMesh } from '../../src/parallel/mesh.ts';
import { openRanks, type Ranks } from '../../src/parallel/ranks.ts';
import { tensorSplit } from '../../src/parallel/tensor.ts';
import type { StepMetrics } from '../../src/report/metrics.ts';
import { gatheredTensors } from '../../src/train/gather.ts';
import { trainLoop } from '../../src/train/loop.ts';
import { optimizerOver } from '../../src/train/open_optimizer.ts';
import { KEEP_ALL } from '../../src/train/recompute.ts';
import { NEVER } from '../../src/train/save_plan.ts';
import { batchOf, microBatchesOf, packedOf, referenceRecords, reportInto } from '../support/batches.ts';
import { fixture } from '../support/fixtures.ts';
import { torchEngine } from '../support/torch.ts';

export interface Sharing {
  name: string;
  stage: 'pretrain' | 'finetune';
  /** Learned positions, LayerNorm1p, GELU and biases, instead of LLaMA's blocks. */
  gpt: boolean;
  tensor: number;
  pipeline: number;
  sequence: boolean;
  sharded: boolean;
  recompute: boolean;
  /** Records one after the other in one row. */
  packed: boolean;
  /** The embedding is the head. */
  tied: boolean;
}

export interface Outcome {
  name: string;
  lines: StepMetrics[];
  /** Live tensors at the beginning of each step. */
  tensors: number[];
  /**
   * Of the rank's labelled micro batches: positions ΣB·T and labels ΣM; rows that cross a border between stages, and that come back
   * as gradients, which those of text alone do not where only the projector learns.
   */
  work: { positions: number; labels: number; rowsDown: number; rowsUp: number };
  /** Messages of the group that shares the layers; null where other messages travel in it too. */
  traffic: Traffic | null;
  /** Bytes handed to the next stage, and back to the one before. */
  handed: { down: number; up: number };
  /** Weights, exp_avg, exp_avg_sq and moving averages, whole. */
  values: [string, number[]][];
}

const STEPS = 20;
const [out = '', sharings = '[]'] = process.argv.slice(2);
const engine = torchEngine();
const place = readPlace(process.env);
const group = place ? await joinGroup(place, 60, process.env) : ALONE;
const records = referenceRecords(engine);
const tower = openWeights(fixture('llava/vision'));

/** Heads and groups for four ranks; a vocabulary that is not divisible, a head size that is not C/H. */
const shape: NevaShape = {
  llm: {
    numLayers: 4,
    hiddenSize: 48,
    ffnHiddenSize: 80,
    numAttentionHeads: 8,
    numQueryGroups: 4,
    headDim: 8,
    vocabSize: 97,
    paddedVocabSize: 104,
    normEpsilon: 1e-5,
    rotaryBase: 10_000,
    maxPositions: 128,
    tiedEmbeddings: false,
  },
  vision: { ...tower.config!.vision!, selectLayer: -2, classTokenLength: 1 },
  projector: { type: 'mlp2x_gelu', inputSize: tower.config!.vision!.hiddenSize, outputSize: 48 },
};

async function* shares(
  { at, mesh }: Ranks,
  { stage, packed, sequence }: Omit<Sharing, 'name'>,
  tensors: number[],
  work: Outcome['work'],
): AsyncGenerator<GlobalBatch> {
  for (let step = 0; ; step++) {
    tensors.push(engine.memory().tensors);
    const all = microBatchesOf(records, step).map((micro) => (packed ? packedOf(micro) : micro));
    const own = all.filter((_, i) => i % mesh.data === at.data);
    for (const { batch, length, labelRows, imageCount } of own) {
      if (labelRows.length === 0) continue;
      work.positions += batch * length;
      work.labels += labelRows.length;
      const rows = Math.ceil((batch * length) / (sequence ? mesh.tensor : 1));
      work.rowsDown += rows;
      if (stage === 'finetune' || imageCount > 0) work.rowsUp += rows;
    }
    yield batchOf(own, (step + 1) * 6);
  }
}

const GPT: GptBlock = {
  normalization: 'layernorm1p',
  activation: 'gelu',
  positions: 'learned_absolute',
  rotaryPercentage: 0,
  bias: true,
};

/** Biases, and LayerNorm1p's weights, begin at zero: what is left of them would be compared with a few small steps. */
function fillVector(parameter: Parameter): void {
  const [length = 0, ...others] = wholeShape(parameter);
  if (others.length > 0) return;
  const values = Float32Array.from({ length }, (_, i) => Math.cos(i + parameter.name.length) / 10);
  engine.scope(() => engine.assign(parameter.value, cutOut(engine, engine.tensor(values, [length]), parameter.shard)));
}

async function run({ name, stage, ...sharing }: Sharing): Promise<Outcome> {
  const { gpt, tied, tensor, pipeline, sequence, sharded, recompute } = sharing;
  const ranks = openRanks(group, makeMesh(group.size, tensor, pipeline));
  engine.seed(7);
  const llm = stage === 'finetune';
  const decoder = { ...shape.llm, ...(gpt ? { gpt: GPT } : {}), tiedEmbeddings: tied };
  // The first of two stages has one block of four, as its front counts for one.
  const layout = balancedLayout(decoder.numLayers, pipeline, { front: 1, block: 1, end: 0 });
  const model = new NevaModel(
    engine,
    { ...shape, llm: decoder },
    {
      stage: stageOf(layout, ranks.at.pipeline),
      sources: { vision_encoder: tower.source(engine, 'vision') },
      split: tensorSplit(ranks.tensor, sequence),
      init: { std: 0.15, scaled: false },
    },
  );
  for (const part of model.parts) {
    for (const each of part.parameters) each.trainable = part.name === 'projector' || (part.name === 'llm' && llm);
  }
  if (gpt) for (const parameter of model.llm.parameters) fillVector(parameter);
  const trainable = model.parameters.filter((parameter) => parameter.trainable);
  const { optimizer, reduction } = optimizerOver(engine, ranks, trainable, {
    betas: [0.9, 0.95],
    // Gradients that are hardly more than rounding are not blown up to full steps.
    eps: 1e-6,
    weightDecay: 0.1,
    clip: 0.5,
    ema: { decay: 0.8, everySteps: 2 },
    sharded,
    buckets: { bytes: 20_000, overlap: true },
  });
  const lines: StepMetrics[] = [];
  const tensors: number[] = [];
  const work = { positions: 0, labels: 0, rowsDown: 0, rowsUp: 0 };
  await trainLoop(
    {
      engine,
      model,
      optimizer,
      schedule: { name: 'CosineAnnealing', lr: 1e-3, minLr: 1e-5, warmupSteps: 2, constantSteps: 0, maxSteps: STEPS },
      batches: shares(ranks, { stage, ...sharing }, tensors, work),
      ranks,
      reduction,
      report: reportInto(lines),
      save: async () => {},
      validate: async () => Number.NaN,
    },
    {
      maxSteps: STEPS,
      save: NEVER,
      validateEvery: 0,
      lossReduction: 'tokens',
      recompute: recompute ? { granularity: 'full', method: 'uniform', layers: 1 } : KEEP_ALL,
      trains: { llm, projector: true, vision: false },
      peakFlops: null,
    },
    { step: 0, epoch: 0, consumedSamples: 0, valLoss: null },
  );
  const traffic = ranks.tensor === ranks.world ? null : ranks.tensor.traffic();
  const { down, up } = ranks.pipeline;
  const handed = { down: down.traffic().send.bytes, up: up.traffic().send.bytes };
  const values: [string, number[]][] = [];
  const shown = await optimizer.withAverages(async () => gatheredTensors(engine, ranks, trainable, new Map()));
  optimizer.withWhole((moments) => {
    const whole = gatheredTensors(engine, ranks, trainable, moments);
    if (!whole) return;
    const averages = whole.averages.map((each) => ({ ...each, name: `average.${each.name}` }));
    for (const { name: key, bytes } of [...whole.weights, ...whole.moments, ...averages]) {
      values.push([key, [...new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)]]);
    }
    assert.deepEqual(shown!.weights.map(bytesByName).sort(), whole.averages.map(bytesByName).sort());
  });
  return { name, lines, tensors, work, traffic, handed, values };
}

const bytesByName = ({ name, bytes }: SnapshotTensor) => `${name} ${Buffer.from(bytes).toString('base64')}`;

const outcomes: Outcome[] = [];
for (const sharing of JSON.parse(sharings) as Sharing[]) outcomes.push(await run(sharing));
writeFileSync(join(out, `world-${group.size}-rank-${group.rank}.json`), JSON.stringify(outcomes));
group.close();
