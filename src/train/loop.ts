/**
 * THE loop. One turn is one optimizer step: a global batch arrives, its micro batches go forward and backward one after
 * the other, the optimizer updates, the step is reported, and a checkpoint is saved when one is due.
 *
 * Every rank runs it on its share of the global batch, or of the model. Ranks meet three times a step: for the number of
 * labels, which the loss is divided by; for the gradients (src/parallel/data.ts); and for the figures, with which they also
 * agree on stopping.
 *
 * Everything else is elsewhere: the micro batches' turns in accumulate.ts, how one walks through the model in walk.ts, the
 * update in optimizer.ts, the learning rate in schedule.ts, what is trained and where it comes from in assemble.ts, the
 * batches in src/data.
 */
import type { GlobalBatch, MicroBatch } from '../data/types.ts';
import type { Engine } from '../engine/engine.ts';
import { type StepWork, stepFlops } from '../model/flops.ts';
import type { NevaModel } from '../model/neva.ts';
import type { GradientReduction } from '../parallel/data.ts';
import type { Ranks } from '../parallel/ranks.ts';
import type { Report } from '../report/report.ts';
import { accumulate, hasLabels } from './accumulate.ts';
import type { LossScaler } from './loss_scale.ts';
import type { StageOptimizer } from './optimizer.ts';
import type { Recompute } from './recompute.ts';
import { isDue, type SavePlan } from './save_plan.ts';
import { learningRate, type Schedule } from './schedule.ts';

export interface LoopOptions {
  /** Last optimizer step. */
  maxSteps: number;
  save: SavePlan;
  /** Steps between validations; 0 for none. */
  validateEvery: number;
  /**
   * `tokens`: every labelled token of the global batch weighs the same, however it is cut into micro batches.
   * `micro_batches`: mean of the micro batches' means, as NeMo does.
   */
  lossReduction: 'tokens' | 'micro_batches';
  recompute: Recompute;
  trains: StepWork['trains'];
  /** Peak of the hardware in FLOP/s for `mfu`; null where it is not known. */
  peakFlops: number | null;
}

/** Where training stands after a step: what a checkpoint must hold besides weights, optimizer and random state. */
export interface Position {
  step: number;
  epoch: number;
  consumedSamples: number;
  /** Of the last validation, if there was one. */
  valLoss: number | null;
}

export interface LoopParts {
  engine: Engine;
  model: NevaModel;
  optimizer: StageOptimizer;
  schedule: Schedule;
  /** This rank's share of each global batch. */
  batches: AsyncIterable<GlobalBatch>;
  /** Who shares the global batch and the model: parallel/ranks.ts's SINGLE for one process. */
  ranks: Ranks;
  /** Of the optimizer's parameters, over the ranks that have them. */
  reduction: GradientReduction;
  /** Of float16 training alone. */
  scaler?: LossScaler | null;
  report: Report;
  save: (position: Position, loss: number) => Promise<void>;
  validate: () => Promise<number>;
}

export interface LoopResult {
  position: Position;
  finalLoss: number;
  /** A signal ended it before the last step; the checkpoint is saved. */
  stopped: boolean;
}

export async function trainLoop(parts: LoopParts, options: LoopOptions, start: Position): Promise<LoopResult> {
  const { optimizer, schedule, batches, report, ranks, reduction, scaler = null } = parts;
  const { world } = ranks;
  let position = start;
  let finalLoss = Number.NaN;
  if (position.step >= options.maxSteps) return { position, finalLoss, stopped: false };

  let began = performance.now();
  let savedAt = began;
  for await (const batch of batches) {
    const dataSeconds = (performance.now() - began) / 1000;
    const step = position.step + 1;
    // A step that was skipped moves neither the schedule nor Adam's bias correction (as NeMo).
    const updates = step - 1 - (scaler?.skipped ?? 0);
    const scale = scaler?.scale ?? 1;
    const lr = learningRate(schedule, updates);
    world.during = `step ${step}`;

    // Forward and backward; gradients add up over the micro batches, and over the ranks while backward goes on.
    const counts = countLabels(batch, ranks);
    const ownLoss = accumulate(parts, batch, options, weightIn(counts, options.lossReduction), scale);
    reduction.finish();
    // Signals arrive between turns of the event loop, which native calls have kept waiting.
    await new Promise((resolve) => setImmediate(resolve));
    const overdueHere = world.rank === 0 && performance.now() - savedAt >= (options.save.everyMs ?? Infinity) ? 1 : 0;
    const [loss, stopping, overdue, tokens, filled, room, samples, flops, memory] = world.sum(
      [ownLoss, report.stop.aborted ? 1 : 0, overdueHere, ...workOf(parts, batch, options)],
      "the others' figures",
    ) as [number, number, number, number, number, number, number, number, number];
    reduction.wait();
    const gradNorm = optimizer.step(updates + 1, lr, scale);
    const finite = Number.isFinite(loss) && Number.isFinite(gradNorm);
    scaler?.update(finite);
    if (!finite && (!scaler || scaler.scale < 1)) {
      throw new Error(
        `step ${step}: the loss is ${loss} and the gradient's norm ${gradNorm}${scaler ? `, at loss scale ${scale}` : ''}; the last checkpoint is good`,
      );
    }
    if (!finite) report.log.warn(`step ${step}: the gradient overflowed at loss scale ${scale}; the step is skipped`);
    if (counts.tokens === 0) {
      report.log.warn(`step ${step}: no record of this batch has a label; nothing was learned from it`);
    }

    position = { ...position, step, epoch: batch.epoch, consumedSamples: batch.consumedSamples };
    finalLoss = loss;
    const seconds = (performance.now() - began) / 1000;
    reportStep(parts, options, position, {
      loss,
      lr,
      gradNorm: finite ? gradNorm : null,
      scale: scaler ? scale : null,
      skipped: scaler?.skipped ?? 0,
      seconds,
      dataSeconds,
      tokens,
      packing: filled / room,
      samples,
      flops,
      memory,
      labelTokens: counts.tokens,
    });

    const validated = options.validateEvery > 0 && step % options.validateEvery === 0;
    if (validated) {
      position = { ...position, valLoss: await parts.validate() };
      const { epoch, consumedSamples, valLoss } = position;
      report.metrics.validation({ step, epoch, consumed_samples: consumedSamples, val_loss: valLoss! });
      report.log.info(`validation after step ${step}: loss ${valLoss!.toFixed(4)}`);
    }

    const last = step >= options.maxSteps;
    const stopped = stopping > 0 && !last;
    if (isDue(options.save, step, validated, overdue > 0) || stopped || (last && options.save.atEnd)) {
      await parts.save(position, finalLoss);
      savedAt = performance.now();
    }
    if (last || stopped) return { position, finalLoss, stopped };
    // Neither validating nor saving is part of a step's time.
    began = performance.now();
  }
  // A data set that is read once has come to its end before the last step.
  if (options.save.atEnd) await parts.save(position, finalLoss);
  return { position, finalLoss, stopped: false };
}

/** Of a global batch, over all ranks. */
interface LabelCounts {
  /** Labelled positions. */
  tokens: number;
  /** Micro batches with any. */
  microBatches: number;
}

function countLabels({ microBatches, labelTokens }: GlobalBatch, { world, answers }: Ranks): LabelCounts {
  const own = answers ? [labelTokens, microBatches.filter(hasLabels).length] : [0, 0];
  const [tokens, labelled] = world.sum(own, 'the others to begin') as [number, number];
  return { tokens, microBatches: labelled };
}

/** What the summed loss of a micro batch counts in that of the step. */
const weightIn =
  ({ tokens, microBatches }: LabelCounts, reduction: LoopOptions['lossReduction']) =>
  ({ labelRows }: MicroBatch): number =>
    reduction === 'tokens' ? 1 / tokens : 1 / (labelRows.length * microBatches);

/** What this rank did for a step, as numbers to be summed: positions, those that hold a record's, those that could have; records, FLOPs, peak bytes. */
function workOf(
  { engine, model, ranks }: LoopParts,
  { microBatches, labelTokens }: GlobalBatch,
  { trains }: LoopOptions,
): [number, number, number, number, number, number] {
  const memory = engine.device === 'cpu' ? process.resourceUsage().maxRSS * 1024 : engine.memory().peakBytes;
  if (!ranks.answers) return [0, 0, 0, 0, 0, memory];
  const flops = stepFlops(model.shape, {
    lengths: microBatches.flatMap(({ lengths }) => [...lengths]),
    images: microBatches.reduce((sum, { imageCount }) => sum + imageCount, 0),
    cached: microBatches.some(({ features }) => features),
    labelTokens,
    trains,
  });
  return [
    microBatches.reduce((sum, { batch, length }) => sum + batch * length, 0),
    microBatches.reduce((sum, { lengths }) => sum + lengths.reduce((all, each) => all + each, 0), 0),
    microBatches.reduce((sum, { room }) => sum + room, 0),
    microBatches.reduce((sum, { lengths }) => sum + lengths.length, 0),
    flops,
    memory,
  ];
}

/** Sums over all ranks; times are this rank's. */
interface StepFigures {
  loss: number;
  lr: number;
  gradNorm: number | null;
  scale: number | null;
  skipped: number;
  seconds: number;
  dataSeconds: number;
  tokens: number;
  packing: number;
  samples: number;
  flops: number;
  memory: number;
  labelTokens: number;
}

function reportStep(
  { report }: LoopParts,
  { peakFlops }: LoopOptions,
  { step, epoch, consumedSamples }: Position,
  {
    loss,
    lr,
    gradNorm,
    scale,
    skipped,
    seconds,
    dataSeconds,
    tokens,
    packing,
    samples,
    flops,
    memory,
    labelTokens,
  }: StepFigures,
): void {
  report.metrics.step({
    step,
    epoch,
    consumed_samples: consumedSamples,
    loss,
    lr,
    grad_norm: gradNorm,
    loss_scale: scale,
    skipped_steps: skipped,
    tokens,
    label_tokens: labelTokens,
    packing_efficiency: packing,
    step_time_s: seconds,
    data_time_s: dataSeconds,
    tokens_per_s: tokens / seconds,
    samples_per_s: samples / seconds,
    tflops: flops / seconds / 1e12,
    mfu: peakFlops === null ? null : flops / seconds / peakFlops,
    peak_memory_bytes: memory,
  });
  report.progress.step({ step, loss, lr, tokensPerSecond: tokens / seconds });
}
