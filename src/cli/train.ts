/** `neva pretrain` and `neva finetune`: from a command line to a run folder with a trained model in it. */
import { existsSync, mkdirSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { Writable } from 'node:stream';
import { type Command, Option } from 'commander';
import type { Composed, NevaConfig } from '../config/index.ts';
import { isUserError } from '../errors.ts';
import { takeLock } from '../lock.ts';
import type { Report } from '../report/report.ts';
import type { RunFolder } from '../report/run_folder.ts';
import { packageRoot } from '../root.ts';
import { faultIsIn } from './fault.ts';
import { addConfigFlags, checkRules, composeOrShow, flagWords, tellNotices } from './hydra.ts';
import type { SweepFlags } from './multirun.ts';
import { isLaunched, joinRanks, launchRanks, ownPlace, ranksHere, tellNews } from './ranks.ts';
import { isDemo, reduceDemo } from './reduced.ts';
import { onStopSignals, STOPPED, timeLimit } from './stop.ts';

export type Stage = 'pretrain' | 'finetune';

const say = (line: string) => void process.stderr.write(`${line}\n`);

interface Flags extends SweepFlags {
  /** A multirun starts its jobs with it: the run folder, without an override that the run would be repeated with. */
  jobFolder?: string;
}

/** What both verbs have in common; the table of verbs names the stage. */
export const stageVerb = (stage: Stage) => ({
  define(command: Command): void {
    addConfigFlags(command)
      .option('-m, --multirun', 'a run for each combination of values: optim.lr=1e-3,2e-3 model.seed=range(0,3)')
      .option('--dry-run', 'check everything and list the runs, start none')
      .option('--fail-fast', 'with --multirun: stop at the first run that fails')
      .addOption(new Option('--job-folder <folder>').hideHelp())
      .action((overrides: string[], flags: Flags) => start(stage, overrides, flags));
  },
  async help(): Promise<string> {
    const { helpText } = await import('../config/docs.ts');
    const { SearchPath } = await import('../config/search_path.ts');
    return `\n${helpText(new SearchPath([join(packageRoot, 'conf')]))}`;
  },
});

async function start(stage: Stage, overrides: string[], flags: Flags): Promise<void> {
  const looking = flags.cfg !== undefined || flags.info !== undefined;
  if ((flags.multirun || flags.dryRun) && !looking) {
    const { multirun } = await import('./multirun.ts');
    process.exitCode = await multirun(stage, `neva_${stage}`, overrides, flags);
    return;
  }
  const job = flags.jobFolder === undefined ? [] : jobOverrides(flags.jobFolder);
  const composed = await composeOrShow(`neva_${stage}`, [...overrides, ...job], flags);
  if (!composed) return;
  await checkRules(composed, 'train');
  const words = [stage, ...flagWords(flags), ...overrides];
  const { trainer } = composed.config;
  const place = ownPlace(trainer);
  const devices = place === null && !isLaunched() ? await ranksHere(trainer) : 1;
  if (place === null && !isLaunched() && (devices > 1 || trainer.max_restarts > 0)) {
    if (devices > 1) {
      const { ensureAddon } = await import('../engine/torch/build.ts');
      // Before the ranks start, or each of them would build it.
      await ensureAddon(say);
    }
    const folder = flags.jobFolder === undefined ? [] : ['--job-folder', flags.jobFolder];
    process.exitCode = await launchRanks({ ...trainer, devices }, [...words, ...folder], say);
    return;
  }
  if ((place?.rank ?? 0) === 0) {
    await tellNotices(composed, 'train');
    if (place !== null && place.launcher !== 'neva' && trainer.max_restarts > 0) {
      say(
        `trainer.max_restarts has no effect: ${place.launcher} has started the ranks, and is who can start them again`,
      );
    }
  }
  await trainStage(stage, composed, overrides, ['neva', ...words]);
}

/**
 * A job that was left unfinished is gone on with, whatever its files say of resuming: the sweep was started again, or the
 * ranks were, even if nothing had been saved.
 */
function jobOverrides(folder: string): string[] {
  const resume = ['++exp_manager.resume_if_exists=true', '++exp_manager.resume_ignore_no_checkpoint=true'];
  const again = existsSync(folder) ? resume : [];
  // Quoted: a folder may be named with what the grammar of overrides reads otherwise.
  return [`++exp_manager.explicit_log_dir='${folder.replaceAll("'", "\\'")}'`, ...again];
}

async function trainStage(
  stage: Stage,
  { config: asked, raw }: Composed,
  overrides: readonly string[],
  command: readonly string[],
): Promise<void> {
  const place = ownPlace(asked.trainer);
  const leads = place === null || place.rank === 0;
  const limit = timeLimit(asked.trainer.max_time);
  const tell = leads ? say : () => {};
  tell(introduction(stage, asked));
  const { chooseEngine } = await import('../engine/open.ts');
  const trainer = await chooseEngine(asked.trainer, tell);
  const config = reduceDemo({ ...asked, trainer }, overrides, tell);

  const group = await joinRanks(place, trainer);
  const folders = await import('../report/run_folder.ts');
  const own = leads ? folders.openRunFolder(folderOptions(config)) : null;
  // A second run in this folder would go on from the same checkpoint, and write the same files.
  const lock = own && (await takeLock(join(own.dir, 'run.lock'), 'a run goes on'));
  const run = group.share(own, 'rank 0 to open the run folder');
  tellNews({ folder: run.dir });
  // On a machine that does not share rank 0's disk, for the log.
  if (!leads) mkdirSync(run.dir, { recursive: true });
  tell(run.notice);
  const { report, close } = await openReport(config, run, group.rank);
  const stop = onStopSignals((line) => report.progress.print(line), limit);
  try {
    if (leads) {
      folders.recordConfig(run, config, overrides, raw);
      const { recordStart } = await import('../report/run_record.ts');
      recordStart(run.dir, {
        command,
        torch: await torchVersion(config),
        resumedStep: run.resumedStep,
        ranks: place?.world ?? 1,
      });
    }
    const { train } = await import('../train/run.ts');
    const result = await train(stage, config, run, { ...report, stop: stop.signal }, group);
    report.progress.stop();
    if (result.stopped) {
      const how = config.exp_manager.resume_if_exists ? 'the same command' : 'exp_manager.resume_if_exists=true';
      report.log.info(`Stopped after step ${result.steps}, and saved; ${how} goes on from there`);
      process.exitCode = STOPPED;
    } else {
      report.log.info(`Done: ${result.steps} steps, loss ${result.finalLoss.toFixed(4)}, in ${run.dir}`);
    }
    group.close();
  } catch (error) {
    report.progress.stop();
    report.log.error(error);
    if (!isUserError(error)) faultIsIn(error, run.logFile);
    else if (leads) folders.removeUnused(run);
    throw error;
  } finally {
    stop.release();
    await close();
    lock?.release();
  }
}

async function torchVersion({ trainer }: NevaConfig): Promise<string | null> {
  if (trainer.engine === 'tfjs') return null;
  const { loadNative } = await import('../engine/torch/native.ts');
  return loadNative().versions().torch;
}

/** The first line of a run: which stage, on what; the demo says that it is the demo. */
function introduction(stage: Stage, config: NevaConfig): string {
  const what =
    stage === 'pretrain' ? 'pretrain (the projector learns)' : 'finetune (projector and language model learn)';
  const { blend, data_path } = config.model.data;
  const data = blend ? `a blend of ${blend.map((set) => set.data_path).join(', ')}` : data_path;
  if (typeof data !== 'string') return `neva ${what}`;
  if (!isDemo(config)) return `neva ${what} on ${data}`;
  return `neva ${what} on the bundled demo, ${relative(packageRoot, resolve(data))}; your own: model.data.data_path=… model.data.image_folder=…`;
}

function folderOptions({ exp_manager: manager, model }: NevaConfig) {
  return {
    expDir: manager.exp_dir,
    name: manager.name,
    version: manager.version,
    explicitDir: manager.explicit_log_dir,
    resumeIfExists: manager.resume_if_exists,
    resumePastEnd: manager.resume_past_end,
    resumeIgnoreNoCheckpoint: manager.resume_ignore_no_checkpoint,
    resumeFrom: manager.resume_from_checkpoint ?? model.resume_from_checkpoint,
  };
}

async function openReport(
  config: NevaConfig,
  run: RunFolder,
  rank: number,
): Promise<{ report: Omit<Report, 'stop'>; close: () => Promise<void> }> {
  const [{ openLog }, { MetricsWriter }, { Progress }, { TensorboardWriter }] = await Promise.all([
    import('../report/log.ts'),
    import('../report/metrics.ts'),
    import('../report/progress.ts'),
    import('../report/tensorboard.ts'),
  ]);
  if (rank > 0) {
    // Rank 0 speaks for all, and writes the figures; the log has every rank's lines.
    const progress = new Progress({ stream: new Writable({ write: (_piece, _encoding, done) => done() }), bar: false });
    const metrics = { step() {}, validation() {} };
    return { report: { log: openLog(run.logFile, () => {}, rank), progress, metrics }, async close() {} };
  }
  const progress = new Progress({
    stream: process.stderr,
    bar: process.stderr.isTTY === true && config.trainer.enable_progress_bar,
  });
  const log = openLog(run.logFile, (line) => progress.print(line));
  const events = config.exp_manager.create_tensorboard_logger
    ? new TensorboardWriter(join(run.dir, 'tb'), run.resumedStep + 1)
    : null;
  const metrics = new MetricsWriter(run.metricsFile, run.resumedStep, events);
  const close = async () => {
    metrics.close();
    const { writeHtmlReport } = await import('../report/html.ts');
    try {
      writeHtmlReport(run.dir);
    } catch (error) {
      log.warn(`report.html was not written: ${(error as Error).message}`);
    }
  };
  return { report: { log, progress, metrics }, close };
}
