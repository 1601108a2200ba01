/** One training run: assembles model, data, optimizer and schedule from the configuration, and starts THE loop (loop.ts). */
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import {
  type CheckpointState,
  pruneCheckpoints,
  readCheckpoint,
  restore,
  saveCheckpoint,
  tokenizerFiles,
} from '../checkpoint/folder.ts';
import type { NevaConfig } from '../config/index.ts';
import { type DataOptions, type Loader, openLoader } from '../data/loader.ts';
import type { Engine, Parameter } from '../engine/engine.ts';
import { openEngine } from '../engine/open.ts';
import { UserError } from '../errors.ts';
import { ALONE, type Group } from '../parallel/group.ts';
import { makeMesh, meshTable } from '../parallel/mesh.ts';
import type { Report } from '../report/report.ts';
import { markFinished, type RunFolder } from '../report/run_folder.ts';
import { type Assembled, assemble } from './assemble.ts';
import { dataOptions } from './data_options.ts';
import { type LoopResult, type Position, trainLoop } from './loop.ts';
import { openOptimizer } from './open_optimizer.ts';
import type { Recompute } from './recompute.ts';
import type { Schedule } from './schedule.ts';
import { refuseUnsupported } from './supported.ts';
import { validate } from './validate.ts';

export interface TrainResult {
  stopped: boolean;
  steps: number;
  finalLoss: number;
}

/** Runs a stage to its end, on every rank of `group` alike; rank 0 alone writes checkpoints. */
export async function train(
  stage: 'pretrain' | 'finetune',
  config: NevaConfig,
  run: RunFolder,
  report: Report,
  group: Group = ALONE,
): Promise<TrainResult> {
  refuseUnsupported(config);
  const engine = await openEngine(config.trainer);
  const assembled = assemble(engine, config);
  const { model, tokenizerFolder, visionFolder } = assembled;
  const data = {
    ...dataOptions(config, { vision: model.shape.vision, tokenizerFolder, visionFolder }),
    dataParallelRank: group.rank,
    dataParallelSize: group.size,
  };
  const start = run.lastCheckpoint ? positionOf(run.lastCheckpoint) : BEGINNING;
  const loader = await openLoader(data, start);
  try {
    loader.onProblem = ({ message }) => report.log.warn(message);
    const result = await runLoop({ stage, engine, config, run, report, group, assembled, data, loader, start });
    if (!result.stopped && group.rank === 0) markFinished(run);
    return { stopped: result.stopped, steps: result.position.step, finalLoss: result.finalLoss };
  } finally {
    await loader.close();
  }
}

const BEGINNING: Position = { step: 0, epoch: 0, consumedSamples: 0, valLoss: null };

interface Setting {
  stage: string;
  engine: Engine;
  config: NevaConfig;
  run: RunFolder;
  report: Report;
  group: Group;
  assembled: Assembled;
  data: DataOptions;
  loader: Loader;
  start: Position;
}

async function runLoop(setting: Setting): Promise<LoopResult> {
  const { stage, engine, config, run, report, group, assembled, data, loader, start } = setting;
  const { model } = assembled;
  const { seed } = config.model;
  const trainable = model.parameters.filter((parameter) => parameter.trainable);
  const { lastCheckpoint } = run;
  if (lastCheckpoint) {
    restore(engine, lastCheckpoint, trainable, new Map());
    engine.setRngState(Buffer.from(readCheckpoint(lastCheckpoint).rng, 'base64'));
  }
  sameWeights(engine, group, trainable);
  const { optimizer, reduction } = openOptimizer(engine, group, trainable, config);
  if (lastCheckpoint) optimizer.load((moments) => restore(engine, lastCheckpoint, [], moments));

  const maxSteps = lastStep(config, loader.size);
  const schedule = scheduleOf(config, maxSteps);
  announce(setting, schedule, maxSteps);
  report.progress.start({
    stage,
    firstStep: start.step,
    totalSteps: maxSteps,
    everySteps: config.trainer.log_every_n_steps,
  });

  // Whatever cannot be found again elsewhere: what trained, the projector, parts that began at random.
  const referred = new Set(assembled.frozen.map(({ part }) => (part === 'vision' ? 'vision_encoder' : part)));
  const saved = model.parts.filter(({ name }) => !referred.has(name)).flatMap(({ parameters }) => parameters);
  const configFile = join(run.dir, 'config.yaml');
  const files = [
    ...tokenizerFiles(folderOf(assembled.tokenizerFolder)),
    ...(existsSync(configFile) ? [configFile] : []),
  ];
  const save = async (position: Position, loss: number) => {
    const state: CheckpointState = {
      format: 1,
      stage,
      ...position,
      loss,
      rng: Buffer.from(engine.rngState()).toString('base64'),
      seed,
      template: data.template,
      templateCompat: data.templateCompat ?? 'llava',
      imageAspect: data.aspect,
      useImStartEnd: data.useImStartEnd,
      additionalTokens: [...(data.additionalTokens ?? [])],
      frozen: assembled.frozen,
    };
    optimizer.withWhole((moments) => {
      const content = { state, shape: model.shape, parameters: saved, optimizer: moments, files };
      const folder = saveCheckpoint(engine, run.checkpointsDir, content);
      pruneCheckpoints(run.checkpointsDir, config.exp_manager.checkpoint_callback_params.save_top_k);
      report.log.debug(`saved ${folder}`);
    });
  };

  const { checkpoint_callback_params: saving, create_checkpoint_callback, save_on_train_end } = config.exp_manager;
  const validation = config.model.data.validation_data_path;
  const { trainer } = config;
  return trainLoop(
    {
      engine,
      model,
      optimizer,
      schedule,
      batches: loader,
      group,
      reduction,
      report,
      save: create_checkpoint_callback ? save : async () => {},
      validate: () =>
        validate(engine, model, { ...data, dataPath: validation! }, trainer.limit_val_batches ?? 50, group),
    },
    {
      maxSteps,
      saveEvery: saving.every_n_train_steps ?? 0,
      saveAtEnd: save_on_train_end,
      validateEvery: validation ? Math.max(1, Math.round(trainer.val_check_interval ?? 0)) : 0,
      lossReduction: config.model.loss_reduction,
      recompute: recomputeOf(config),
      trains: assembled.trains,
      peakFlops: null,
    },
    start,
  );
}

/** Ranks begin from rank 0's weights, whatever their own generators or files gave. */
function sameWeights(engine: Engine, group: Group, parameters: readonly Parameter[]): void {
  if (group.size === 1) return;
  for (const { name, value, main } of parameters) {
    group.broadcast(main ?? value, 0, `rank 0's ${name}`).wait();
    if (main) engine.assign(value, main);
  }
}

function positionOf(checkpoint: string): Position {
  const { step, epoch, consumedSamples, valLoss } = readCheckpoint(checkpoint);
  return { step, epoch, consumedSamples, valLoss };
}

/** trainer.max_steps, or what trainer.max_epochs amounts to, whichever comes first. */
function lastStep({ trainer, model: m }: NevaConfig, records: number): number {
  const perEpoch = Math.floor(records / m.global_batch_size);
  const byEpochs = (trainer.max_epochs ?? -1) > 0 ? trainer.max_epochs! * perEpoch : Number.POSITIVE_INFINITY;
  const bySteps = trainer.max_steps > 0 ? trainer.max_steps : Number.POSITIVE_INFINITY;
  const steps = Math.min(byEpochs, bySteps);
  if (Number.isFinite(steps)) return steps;
  throw new UserError('trainer.max_steps or trainer.max_epochs must say when training ends; both are -1');
}

function scheduleOf({ model: { optim } }: NevaConfig, maxSteps: number): Schedule {
  const { sched } = optim;
  const length = sched.max_steps ?? maxSteps;
  return {
    name: sched.name,
    lr: optim.lr,
    minLr: sched.min_lr,
    warmupSteps: sched.warmup_ratio === null ? sched.warmup_steps : Math.ceil(sched.warmup_ratio * length),
    constantSteps: sched.constant_steps,
    maxSteps: length,
  };
}

const folderOf = (path: string) => (/\.(json|model)$/.test(path) ? dirname(path) : path);

/** What will happen, before step 1: parts and what trains, batches, schedule. */
function announce(
  { report, group, assembled, config, loader, engine, start }: Setting,
  schedule: Schedule,
  maxSteps: number,
): void {
  const { log } = report;
  const seats = group.gather({ host: hostname(), device: engine.device }, 'the ranks to say where they are');
  const { tensor_model_parallel_size: tp, pipeline_model_parallel_size: pp } = config.model;
  if (group.size > 1) for (const line of meshTable(makeMesh(group.size, tp, pp), seats)) log.info(line);
  const total = assembled.table.reduce((sum, { parameters }) => sum + parameters, 0);
  const learning = assembled.table.reduce((sum, { trains, parameters }) => sum + (trains ? parameters : 0), 0);
  const number = (value: number) => value.toLocaleString('en-US').padStart(16);
  log.info(`${'part'.padEnd(16)}${'parameters'.padStart(16)}  trains  from`);
  for (const { part, parameters, trains, from } of assembled.table) {
    log.info(`${part.padEnd(16)}${number(parameters)}  ${trains ? 'yes   ' : 'no    '}  ${from}`);
  }
  log.info(`${'all'.padEnd(16)}${number(total)}  ${number(learning).trim()} of them train`);
  const { micro_batch_size: micro, global_batch_size: global } = config.model;
  log.info(
    `${engine.name} on ${engine.device}, ${precisionText(config)}; ${loader.size} records in batches of ${global} (${global / micro / group.size} × ${micro}${group.size > 1 ? ` on each of ${group.size} ranks` : ''}); ` +
      `steps ${start.step + 1} to ${maxSteps}`,
  );
  log.info(
    `learning rate ${schedule.lr} after ${schedule.warmupSteps} steps of warm-up, ${schedule.name} to ${schedule.minLr} at step ${schedule.maxSteps}`,
  );
}

function precisionText({ trainer, model }: NevaConfig): string {
  if (trainer.precision === '32') return 'float32';
  return model.megatron_amp_O2 ? 'bfloat16 with float32 main weights (O2)' : 'bfloat16 with float32 weights';
}

function recomputeOf({ model: m }: NevaConfig): Recompute {
  return {
    // `selective` runs core attention again, whose scores the attention used here never keeps.
    granularity: m.activations_checkpoint_granularity === 'full' ? 'full' : null,
    method: m.activations_checkpoint_method ?? 'uniform',
    layers: m.activations_checkpoint_num_layers ?? 1,
  };
}
