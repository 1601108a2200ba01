/** One training run: assembles model, data, optimizer and schedule from the configuration, and starts THE loop (loop.ts). */
import { hostname } from 'node:os';
import {
  type CheckpointState,
  type FrozenReference,
  hasAverages,
  readCheckpoint,
  restore,
} from '../checkpoint/folder.ts';
import type { NevaConfig } from '../config/index.ts';
import { type Loader, openLoader } from '../data/loader.ts';
import type { GlobalBatch } from '../data/types.ts';
import type { Engine, Parameter } from '../engine/engine.ts';
import { openEngine } from '../engine/open.ts';
import { findGpus } from '../engine/torch/gpus.ts';
import { mistake, UserError } from '../errors.ts';
import { ALONE, type Group } from '../parallel/group.ts';
import { makeMesh, meshTable } from '../parallel/mesh.ts';
import { openRanks, type Ranks } from '../parallel/ranks.ts';
import { peakOf } from '../plan/hardware.ts';
import { type Setting as PlanSetting, settingOf } from '../plan/setting.ts';
import type { Report } from '../report/report.ts';
import { markFinished, type RunFolder } from '../report/run_folder.ts';
import { assemble } from './assemble.ts';
import { tellBadRecords } from './bad_records.ts';
import { dataOptions, validationOptions } from './data_options.ts';
import { type LoopResult, type Position, trainLoop } from './loop.ts';
import { LossScaler } from './loss_scale.ts';
import { memoryLimit, refuseHuge } from './memory_guard.ts';
import { openOptimizer } from './open_optimizer.ts';
import type { Recompute } from './recompute.ts';
import { savePlan } from './save_plan.ts';
import { openSaving, type SavingParts } from './saving.ts';
import type { Schedule } from './schedule.ts';
import { refuseUnsupported } from './supported.ts';
import { validate, validationSteps } from './validate.ts';

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
  const engine = await openEngine(config.trainer, group.gpu ?? 0);
  const { tensor_model_parallel_size: tp, pipeline_model_parallel_size: pp } = config.model;
  const ranks = openRanks(group, makeMesh(group.size, tp, pp));
  const resumed = run.lastCheckpoint ? readCheckpoint(run.lastCheckpoint) : null;
  const assembled = assemble(
    engine,
    config,
    ranks,
    resumed?.frozen.some((each) => each.included) ? run.lastCheckpoint : null,
  );
  if (resumed) requireSameFrozen(run.lastCheckpoint!, resumed.frozen, assembled.frozen);
  const { model, tokenizerFolder, visionFolder } = assembled;
  const bare = {
    ...dataOptions(config, { vision: model.shape.vision, tokenizerFolder, visionFolder }),
    dataParallelRank: ranks.at.data,
    dataParallelSize: ranks.mesh.data,
  };
  const featureFolder = await visionFeatures({ engine, config, assembled, data: bare, ranks, report });
  const data = { ...bare, featureFolder };
  const start = resumed ? positionOf(resumed) : BEGINNING;
  const loader = await openLoader(data, start);
  const countBadRecords = tellBadRecords(loader, report.log);
  try {
    const result = await runLoop({
      stage,
      engine,
      config,
      run,
      report,
      ranks,
      assembled,
      data,
      loader,
      resumed,
      start,
    });
    if (!result.stopped && group.rank === 0) markFinished(run);
    return { stopped: result.stopped, steps: result.position.step, finalLoss: result.finalLoss };
  } catch (error) {
    throw group.explain(error);
  } finally {
    countBadRecords();
    await loader.close();
  }
}

/** model.data.vision_cache, brought up to date; null without one. */
async function visionFeatures({
  engine,
  config,
  assembled,
  data,
  ranks,
  report,
}: Pick<Setting, 'engine' | 'config' | 'assembled' | 'data' | 'ranks' | 'report'>): Promise<string | null> {
  const { vision_cache: root } = config.model.data;
  if (root === null) return null;
  const { fillVisionCache } = await import('./vision_cache.ts');
  const validation = validationOptions(config, data);
  const all = validation ? [data, validation] : [data];
  const { folder, pictures, encoded } = await fillVisionCache(engine, assembled.model, all, root, ranks, (done, of) =>
    report.log.info(`vision cache: ${done} of ${of} pictures encoded`),
  );
  report.log.info(`vision cache ${folder}: ${pictures} pictures, ${encoded} of them encoded now`);
  return folder;
}

/** Training goes on exactly only beside the frozen weights that it began with. */
function requireSameFrozen(
  checkpoint: string,
  saved: readonly FrozenReference[],
  found: readonly FrozenReference[],
): void {
  for (const { part, path, fingerprint } of saved) {
    const now = found.find((each) => each.part === part);
    if (!now || now.fingerprint === fingerprint) continue;
    throw mistake({
      where: checkpoint,
      problem: `its ${part} did not train, and what this run takes for it are other weights`,
      expected: `those that were in ${path}`,
      found: now.path,
      fix: 'put the former ones back, or start a new run (exp_manager.name=…)',
    });
  }
}

const BEGINNING: Position = { step: 0, epoch: 0, consumedSamples: 0, valLoss: null };

interface Setting extends Omit<SavingParts, 'optimizer' | 'scaler'> {
  loader: Loader;
  start: Position;
}

async function runLoop(setting: Setting): Promise<LoopResult> {
  const { stage, engine, config, run, report, ranks, assembled, data, loader, resumed, start } = setting;
  const { model } = assembled;
  const trainable = model.parameters.filter((parameter) => parameter.trainable);
  const { lastCheckpoint } = run;
  if (lastCheckpoint && resumed) {
    restore(engine, lastCheckpoint, trainable, new Map());
    const { rng, rngOfRanks } = resumed;
    const own = rngOfRanks?.length === ranks.world.size ? rngOfRanks[ranks.world.rank]! : rng;
    engine.setRngState(Buffer.from(own, 'base64'));
  }
  sameWeights(engine, ranks, trainable);
  const { optimizer, reduction } = openOptimizer(engine, ranks, trainable, config);
  const shards = new Map(trainable.map(({ name, shard }) => [name, shard ?? null]));
  if (lastCheckpoint) optimizer.load((moments) => restore(engine, lastCheckpoint, [], moments, shards));
  const { ema } = config.exp_manager;
  if (ema.enable && lastCheckpoint && !hasAverages(lastCheckpoint)) {
    report.log.warn(`${lastCheckpoint} has no moving average: it begins anew from the weights there`);
  }

  const scaler = openScaler(config, resumed);

  const maxSteps = lastStep(config, loader.size);
  const schedule = scheduleOf(config, maxSteps);
  announce(setting, schedule, maxSteps);
  report.progress.start({
    stage,
    firstStep: start.step,
    totalSteps: maxSteps,
    everySteps: config.trainer.log_every_n_steps,
  });

  const saving = openSaving({ stage, engine, config, run, report, ranks, assembled, data, optimizer, scaler, resumed });
  const validation = validationOptions(config, data);
  const loss = () => validate(engine, model, validation!, trainer.limit_val_batches ?? 50, ranks, dropLast);
  const { validation_drop_last: dropLast } = config.model.data;
  const { trainer } = config;
  try {
    const result = await trainLoop(
      {
        engine,
        model,
        optimizer,
        schedule,
        batches: engine.device === 'cpu' ? fitting(setting) : loader,
        ranks,
        reduction,
        scaler,
        report: { ...report, stop: AbortSignal.any([report.stop, saving.failed]) },
        save: config.exp_manager.create_checkpoint_callback ? saving.save : async () => {},
        validate: () => (ema.enable && !ema.validate_original_weights ? optimizer.withAverages(loss) : loss()),
      },
      {
        maxSteps,
        save: savePlan(config, stepsPerEpoch(config, loader.size)),
        validateEvery: validation ? validationSteps(trainer, stepsPerEpoch(config, loader.size)) : 0,
        lossReduction: config.model.loss_reduction,
        recompute: recomputeOf(config),
        trains: assembled.trains,
        peakFlops: peakFlops(engine, config),
      },
      start,
    );
    await saving.finish();
    return result;
  } finally {
    await saving.abandon();
  }
}

/** On a GPU an allocation that fails is an error with a message; on a CPU the kernel ends the process. */
function fitting({ config, assembled, ranks, loader }: Setting): AsyncIterable<GlobalBatch> {
  const none = { length: 0, images: 0, labels: 0 };
  const plan = settingOf(config, assembled.model.shape, none, ranks.world.size, 'cpu');
  return refuseHuge(loader, plan, memoryLimit() / plan.perNode);
}

/** Ranks that have the same weights begin from those of the first, whatever their own generators or files gave. */
function sameWeights(engine: Engine, ranks: Ranks, parameters: readonly Parameter[]): void {
  for (const parameter of parameters) {
    const { name, value, main, shard, twin } = parameter;
    const group = twin && ranks.ends ? ranks.ends : shard ? ranks.data : ranks.stage;
    if (group.size === 1) continue;
    group.broadcast(main ?? value, 0, `rank 0's ${name}`).wait();
    if (main) engine.round(value, main);
  }
}

const positionOf = ({ step, epoch, consumedSamples, valLoss }: CheckpointState): Position => ({
  step,
  epoch,
  consumedSamples,
  valLoss,
});

const stepsPerEpoch = ({ model }: NevaConfig, records: number) => Math.floor(records / model.global_batch_size);

/** trainer.max_steps, or what trainer.max_epochs amounts to, whichever comes first. */
function lastStep(config: NevaConfig, records: number): number {
  const { trainer } = config;
  const perEpoch = stepsPerEpoch(config, records);
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

/** What will happen, before step 1: parts and what trains, batches, schedule. */
function announce(
  { report, ranks, assembled, config, loader, engine, start }: Setting,
  schedule: Schedule,
  maxSteps: number,
): void {
  const { log } = report;
  const { world, mesh } = ranks;
  const seats = world.gather({ host: hostname(), device: engine.device }, 'the ranks to say where they are');
  if (world.size > 1) for (const line of meshTable(mesh, seats)) log.info(line);
  const { layout } = assembled;
  if (layout.length > 1) log.info(`layers of the language model on each stage: ${layout.join(', ')}`);
  const total = assembled.table.reduce((sum, { parameters }) => sum + parameters, 0);
  const learning = assembled.table.reduce((sum, { trains, parameters }) => sum + (trains ? parameters : 0), 0);
  const number = (value: number) => value.toLocaleString('en-US').padStart(16);
  log.info(`${'part'.padEnd(16)}${'parameters'.padStart(16)}  trains  from`);
  for (const { part, parameters, trains, from } of assembled.table) {
    log.info(`${part.padEnd(16)}${number(parameters)}  ${trains ? 'yes   ' : 'no    '}  ${from}`);
  }
  log.info(`${'all'.padEnd(16)}${number(total)}  ${number(learning).trim()} of them train`);
  for (const note of assembled.notes) log.info(note);
  const { micro_batch_size: micro, global_batch_size: global } = config.model;
  log.info(
    `${engine.name} on ${engine.device}, ${precisionText(config)}; ${loader.size} ${config.model.data.packed_sequence && config.model.data.data_prefix ? 'packs' : 'records'} in batches of ${global} (${global / micro / mesh.data} × ${micro}${mesh.data > 1 ? ` on each of ${mesh.data} data-parallel ranks` : ''}); ` +
      `steps ${start.step + 1} to ${maxSteps}`,
  );
  log.info(
    `learning rate ${schedule.lr} after ${schedule.warmupSteps} steps of warm-up, ${schedule.name} to ${schedule.minLr} at step ${schedule.maxSteps}`,
  );
}

function precisionText({ trainer, model }: NevaConfig): string {
  if (trainer.precision === '32') return 'float32';
  if (trainer.precision === 'tf32') return 'float32 with products in TF32';
  const format = trainer.precision === '16' ? 'float16' : 'bfloat16';
  return model.megatron_amp_O2 ? `${format} with float32 main weights (O2)` : `${format} with float32 weights`;
}

/** Of float16 alone: bfloat16 has float32's range. */
function openScaler({ trainer, model: m }: NevaConfig, resumed: CheckpointState | null): LossScaler | null {
  if (trainer.precision !== '16') return null;
  const options = {
    initScale: m.native_amp_init_scale,
    growthInterval: m.native_amp_growth_interval,
    hysteresis: m.hysteresis,
  };
  return new LossScaler(options, resumed?.lossScale ?? null);
}

/** FLOP/s of this machine's cards, which are taken to be alike; null for a CPU, whose peak is not known. */
function peakFlops(engine: Engine, { trainer }: NevaConfig): number | null {
  const card = engine.device === 'cpu' ? undefined : findGpus()[0];
  return card ? peakOf(card.name, trainer.precision as PlanSetting['precision']) : null;
}

function recomputeOf({ model: m }: NevaConfig): Recompute {
  return {
    // `selective` is the attention's business: scores written out are computed again (assemble.ts); flash keeps none.
    granularity: m.activations_checkpoint_granularity === 'full' ? 'full' : null,
    method: m.activations_checkpoint_method ?? 'uniform',
    layers: m.activations_checkpoint_num_layers ?? 1,
  };
}
