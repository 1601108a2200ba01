/** `neva pretrain` and `neva finetune`: from a command line to a run folder with a trained model in it. */
import { join, relative, resolve } from 'node:path';
import type { Command } from 'commander';
import type { NevaConfig } from '../config/index.ts';
import { isUserError } from '../errors.ts';
import type { Report } from '../report/report.ts';
import type { RunFolder } from '../report/run_folder.ts';
import { packageRoot } from '../root.ts';
import { faultIsIn } from './fault.ts';
import { addConfigFlags, type ConfigFlags, composeOrShow } from './hydra.ts';
import { isDemo, reduceDemo } from './reduced.ts';
import { onStopSignals, STOPPED } from './stop.ts';

export type Stage = 'pretrain' | 'finetune';

const say = (line: string) => void process.stderr.write(`${line}\n`);

/** What both verbs have in common; the table of verbs names the stage. */
export const stageVerb = (stage: Stage) => ({
  define(command: Command): void {
    addConfigFlags(command).action(async (overrides: string[], flags: ConfigFlags) => {
      const config = await composeOrShow(`neva_${stage}`, overrides, flags);
      if (config) await trainStage(stage, config, overrides);
    });
  },
});

async function trainStage(stage: Stage, asked: NevaConfig, overrides: readonly string[]): Promise<void> {
  say(introduction(stage, asked));
  const { chooseEngine } = await import('../engine/open.ts');
  const trainer = await chooseEngine(asked.trainer, say);
  const config = reduceDemo({ ...asked, trainer }, overrides, say);

  const folders = await import('../report/run_folder.ts');
  const run = folders.openRunFolder(folderOptions(config));
  say(run.notice);
  const { report, close } = await openReport(config, run);
  const stop = onStopSignals((line) => report.progress.print(line));
  try {
    folders.recordConfig(run, config, overrides);
    const { train } = await import('../train/run.ts');
    const result = await train(stage, config, run, { ...report, stop: stop.signal });
    report.progress.stop();
    if (result.stopped) {
      const how = config.exp_manager.resume_if_exists ? 'the same command' : 'exp_manager.resume_if_exists=true';
      report.log.info(`Stopped after step ${result.steps}, and saved; ${how} goes on from there`);
      process.exitCode = STOPPED;
    } else {
      report.log.info(`Done: ${result.steps} steps, loss ${result.finalLoss.toFixed(4)}, in ${run.dir}`);
    }
  } catch (error) {
    report.progress.stop();
    report.log.error(error);
    if (isUserError(error)) folders.removeUnused(run);
    else faultIsIn(error, run.logFile);
    throw error;
  } finally {
    stop.release();
    close();
  }
}

/** The first line of a run: which stage, on what; the demo says that it is the demo. */
function introduction(stage: Stage, config: NevaConfig): string {
  const what =
    stage === 'pretrain' ? 'pretrain (the projector learns)' : 'finetune (projector and language model learn)';
  const data = config.model.data.data_path;
  if (typeof data !== 'string') return `neva ${what}`;
  if (!isDemo(config)) return `neva ${what} on ${data}`;
  return `neva ${what} on the bundled demo, ${relative(packageRoot, resolve(data))}; your own: model.data.data_path=… model.data.image_folder=…`;
}

function folderOptions({ exp_manager: manager }: NevaConfig) {
  return {
    expDir: manager.exp_dir,
    name: manager.name,
    version: manager.version,
    explicitDir: manager.explicit_log_dir,
    resumeIfExists: manager.resume_if_exists,
    resumePastEnd: manager.resume_past_end,
    resumeIgnoreNoCheckpoint: manager.resume_ignore_no_checkpoint,
    resumeFrom: manager.resume_from_checkpoint,
  };
}

async function openReport(
  config: NevaConfig,
  run: RunFolder,
): Promise<{ report: Omit<Report, 'stop'>; close: () => void }> {
  const [{ openLog }, { MetricsWriter }, { Progress }, { TensorboardWriter }] = await Promise.all([
    import('../report/log.ts'),
    import('../report/metrics.ts'),
    import('../report/progress.ts'),
    import('../report/tensorboard.ts'),
  ]);
  const progress = new Progress({
    stream: process.stderr,
    bar: process.stderr.isTTY === true && config.trainer.enable_progress_bar,
  });
  const log = openLog(run.logFile, (line) => progress.print(line));
  const events = config.exp_manager.create_tensorboard_logger
    ? new TensorboardWriter(join(run.dir, 'tb'), run.resumedStep + 1)
    : null;
  const metrics = new MetricsWriter(run.metricsFile, run.resumedStep, events);
  return { report: { log, progress, metrics }, close: () => metrics.close() };
}
