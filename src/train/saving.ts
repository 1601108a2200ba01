/** Checkpoints of a run: a copy of its state at a step, written in the background by rank 0. */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type CheckpointState, tokenizerFiles } from '../checkpoint/folder.ts';
import { keepFrozen } from '../checkpoint/frozen.ts';
import { Saver } from '../checkpoint/saver.ts';
import { openWeights } from '../checkpoint/weights.ts';
import { takeSnapshot } from '../checkpoint/write_folder.ts';
import type { NevaConfig } from '../config/index.ts';
import type { DataOptions } from '../data/loader.ts';
import type { Engine } from '../engine/engine.ts';
import type { Ranks } from '../parallel/ranks.ts';
import type { Report } from '../report/report.ts';
import type { RunFolder } from '../report/run_folder.ts';
import type { Assembled } from './assemble.ts';
import { gatheredTensors } from './gather.ts';
import type { Position } from './loop.ts';
import type { LossScaler } from './loss_scale.ts';
import type { StageOptimizer } from './optimizer.ts';

export interface SavingParts {
  stage: string;
  engine: Engine;
  config: NevaConfig;
  run: RunFolder;
  report: Report;
  ranks: Ranks;
  assembled: Assembled;
  data: DataOptions;
  optimizer: StageOptimizer;
  scaler: LossScaler | null;
  /** State of the checkpoint that the run goes on from. */
  resumed: CheckpointState | null;
}

export interface Saving {
  /** Called by every rank after the same step. Returns when the state is copied and the one before is on the disk. */
  save(position: Position, loss: number): Promise<void>;
  /** Aborted when a save has failed and exp_manager.on_save_error says to stop. */
  readonly failed: AbortSignal;
  /** Waits for what is being written; throws when the newest checkpoint is not on the disk. */
  finish(): Promise<void>;
  /** The same after a failure of something else: what is being written becomes whole. */
  abandon(): Promise<void>;
}

export function openSaving({ engine, config, run, report, ranks, assembled, data, ...parts }: SavingParts): Saving {
  const { model, frozen } = assembled;
  const { checkpoint_callback_params: asked, on_save_error } = config.exp_manager;
  const failed = new AbortController();
  const saver = new Saver(
    {
      dir: run.checkpointsDir,
      rule: { topK: asked.save_top_k, monitor: asked.monitor, mode: asked.mode, last: asked.save_last },
      onSaved: (folder, seconds) => report.log.debug(`saved ${folder}`, { write_s: seconds }),
      onFailure: (error) => {
        if (on_save_error === 'stop') failed.abort();
        else report.log.warn(`${error.message}\n  training goes on (exp_manager.on_save_error=continue)`);
      },
    },
    run.lastCheckpoint && basename(run.lastCheckpoint),
  );
  // Whatever cannot be found again elsewhere: what trained, the projector, parts that began at random.
  const referred = new Set(frozen.map(({ part }) => (part === 'vision' ? 'vision_encoder' : part)));
  const saved = model.parts.filter(({ name }) => !referred.has(name)).flatMap(({ parameters }) => parameters);
  const configFile = join(run.dir, 'config.yaml');
  const files = [
    ...tokenizerFiles(folderOf(assembled.tokenizerFolder)),
    ...(existsSync(configFile) ? [configFile] : []),
  ];
  // Going on from a checkpoint that holds them, they may be nowhere else.
  const included =
    frozen.length > 0 && (asked.save_frozen_weights || parts.resumed?.frozen.some((each) => each.included));
  const frozenCopy =
    included && ranks.world.rank === 0
      ? keepFrozen(run.checkpointsDir, frozen, (part) => openWeights(frozen.find((each) => each.part === part)!.path))
      : null;
  const preprocessor = included && assembled.visionFolder && join(assembled.visionFolder, 'preprocessor_config.json');
  if (preprocessor && existsSync(preprocessor)) files.push(preprocessor);
  let savedStep = run.resumedStep;

  return {
    failed: failed.signal,
    async save(position, loss) {
      // At the end of the data, the last step may have been saved already.
      if (position.step === savedStep) return;
      savedStep = position.step;
      const began = performance.now();
      await saver.idle();
      const waited = performance.now() - began;
      const rng = Buffer.from(engine.rngState()).toString('base64');
      const rngOfRanks = ranks.world.gather(rng, "the others' random states");
      const state: CheckpointState = {
        format: 1,
        stage: parts.stage,
        ...position,
        loss,
        rng,
        ...(ranks.world.size > 1 ? { rngOfRanks } : {}),
        seed: config.model.seed,
        template: data.template,
        templateCompat: data.templateCompat ?? 'default',
        imageAspect: data.aspect,
        useImStartEnd: data.useImStartEnd,
        imageToFront: data.imageToFront ?? false,
        additionalTokens: [...(data.additionalTokens ?? [])],
        frozen: included ? frozen.map((each) => ({ ...each, included })) : frozen,
        ...(parts.scaler ? { lossScale: parts.scaler.state } : {}),
      };
      parts.optimizer.withWhole((optimizer) => {
        const tensors = gatheredTensors(engine, ranks, saved, optimizer);
        if (tensors === null || failed.signal.aborted) return;
        saver.save(takeSnapshot({ state, shape: model.shape, files, frozenCopy }, tensors));
        const stall = performance.now() - began;
        report.log.debug(`saving step ${position.step}`, { stall_s: stall / 1000, waited_s: waited / 1000 });
      });
    },
    async finish() {
      await saver.close();
      if (saver.failure) throw saver.failure;
    },
    abandon: () => saver.close(),
  };
}

const folderOf = (path: string) => (/\.(json|model)$/.test(path) ? dirname(path) : path);
