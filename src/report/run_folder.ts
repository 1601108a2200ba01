/**
 * The folder of a run, `<exp_dir>/<name>/version_<n>/`: made exclusively, or found again to go on with.
 * Other programs read it; DESIGN names its files. The empty file `finished` marks a run that reached its last step.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { mistake } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';

export interface RunFolderOptions {
  /** exp_manager.exp_dir; null is neva_experiments. */
  expDir: string | null;
  name: string | null;
  /** Folder below the name; null counts up from version_0. */
  version: string | null;
  /** The run folder itself; wins over the three above. */
  explicitDir: string | null;
  resumeIfExists: boolean;
  /** Go on with a run even when it had finished. */
  resumePastEnd: boolean;
  /** False: having nothing to resume is a mistake. */
  resumeIgnoreNoCheckpoint: boolean;
  /** Checkpoint (or run folder) to go on from when the run folder has none. */
  resumeFrom: string | null;
}

export interface RunFolder {
  readonly dir: string;
  readonly checkpointsDir: string;
  readonly logFile: string;
  readonly metricsFile: string;
  /** The checkpoint folder to go on from, or null at the beginning. */
  readonly lastCheckpoint: string | null;
  /** The optimizer step that `lastCheckpoint` was saved after; 0 without one. */
  readonly resumedStep: number;
  /** This process made the folder. */
  readonly made: boolean;
  /** One line that says which folder this is and why. */
  readonly notice: string;
}

const finishedFile = 'finished';

/** Opens the run folder that the options ask for; throws a user error where that would mix two runs. */
export function openRunFolder(options: RunFolderOptions): RunFolder {
  // Before a folder is made: a wrong path must leave nothing behind.
  const from = options.resumeFrom === null ? null : newestCheckpoint(options.resumeFrom);
  const found = options.explicitDir !== null || options.version !== null ? openNamed(options) : openNumbered(options);
  const own = found.resumed ? checkpointOfRun(found.dir) : null;
  const lastCheckpoint = own ?? from;
  const checkpointsDir = join(found.dir, 'checkpoints');
  mkdirSync(checkpointsDir, { recursive: true });
  return {
    dir: found.dir,
    checkpointsDir,
    logFile: join(found.dir, 'neva.log'),
    metricsFile: join(found.dir, 'metrics.jsonl'),
    lastCheckpoint,
    resumedStep: lastCheckpoint ? stepOf(lastCheckpoint) : 0,
    made: found.made,
    notice: own || !from ? found.notice : `${found.notice}, going on from ${from}`,
  };
}

interface Opened {
  dir: string;
  resumed: boolean;
  made: boolean;
  notice: string;
}

/** A folder asked for by name is that folder or nothing: it is never replaced by another. */
function openNamed(options: RunFolderOptions): Opened {
  const key = options.explicitDir !== null ? 'exp_manager.explicit_log_dir' : 'exp_manager.version';
  const dir =
    options.explicitDir !== null ? resolve(options.explicitDir) : join(experimentDir(options), options.version!);
  if (!existsSync(dir) || readdirSync(dir).length === 0) {
    requireNothingToResume(options, dir);
    const made = mkdirSync(dir, { recursive: true }) !== undefined;
    return { dir, resumed: false, made, notice: `Run folder ${dir}` };
  }
  const fix = `set ${key} to a new folder, or`;
  if (!options.resumeIfExists) {
    throw mistake({
      where: key,
      problem: 'there is a run in this folder already',
      expected: 'a new or empty folder',
      found: dir,
      fix: `${fix} go on with that run: exp_manager.resume_if_exists=true`,
    });
  }
  if (isFinished(dir) && !options.resumePastEnd) {
    throw mistake({
      where: key,
      problem: 'the run in this folder has finished',
      found: dir,
      fix: `${fix} go on past its end: exp_manager.resume_past_end=true with a larger trainer.max_steps`,
    });
  }
  const resumed = checkpointOfRun(dir) !== null;
  if (!resumed) requireNothingToResume(options, dir);
  return {
    dir,
    resumed,
    made: false,
    notice: resumed ? `Going on in ${dir}` : `Run folder ${dir} (nothing was saved there yet)`,
  };
}

/** The newest version is gone on with if it was left unfinished with a checkpoint; otherwise the next one is made. */
function openNumbered(options: RunFolderOptions): Opened {
  const parent = experimentDir(options);
  mkdirSync(parent, { recursive: true });
  const versions = versionsOf(parent);
  let reason = '';
  const newest = versions.at(-1);
  if (options.resumeIfExists && newest !== undefined) {
    const dir = join(parent, `version_${newest}`);
    const finished = isFinished(dir) && !options.resumePastEnd;
    if (!finished && checkpointOfRun(dir)) return { dir, resumed: true, made: false, notice: `Going on in ${dir}` };
    reason = finished ? ` (version_${newest} has finished)` : ` (version_${newest} had saved nothing to go on from)`;
  }
  if (newest === undefined || !isFinished(join(parent, `version_${newest}`))) requireNothingToResume(options, parent);
  for (let number = (newest ?? -1) + 1; ; number++) {
    const dir = join(parent, `version_${number}`);
    try {
      // Not recursive: of two runs that start at the same moment, one gets EEXIST and takes the next number.
      mkdirSync(dir);
      return { dir, resumed: false, made: true, notice: `Run folder ${dir}${reason}` };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
  }
}

function requireNothingToResume(options: RunFolderOptions, where: string): void {
  if (!options.resumeIfExists || options.resumeIgnoreNoCheckpoint || options.resumeFrom !== null) return;
  throw mistake({
    where: 'exp_manager.resume_if_exists',
    problem: 'there is no checkpoint to go on from',
    expected: `a run with checkpoints/last in ${where}`,
    fix: 'correct exp_manager.exp_dir or exp_manager.name, or start anew: exp_manager.resume_ignore_no_checkpoint=true',
  });
}

const experimentDir = ({ expDir, name }: RunFolderOptions) => resolve(expDir ?? 'neva_experiments', name ?? 'neva');

/** Numbers n of the folders version_n, ascending. */
function versionsOf(parent: string): number[] {
  return readdirSync(parent)
    .map((name) => /^version_(\d+)$/.exec(name)?.[1])
    .filter((digits) => digits !== undefined)
    .map(Number)
    .sort((a, b) => a - b);
}

/** The run in this folder reached its last step. */
export const isFinished = (dir: string): boolean => existsSync(join(dir, finishedFile));

/** The run reached its last step: starting it again makes a new version. */
export function markFinished(run: RunFolder): void {
  writeFileSync(join(run.dir, finishedFile), '');
}

/**
 * Removes the folder of a run that ended before its first step for a mistake of the user's: nothing half-written stays,
 * and the corrected command gets the same version. A folder that was there before is left alone.
 */
export function removeUnused(run: RunFolder): void {
  const trained = statSync(run.metricsFile, { throwIfNoEntry: false })?.size ?? 0;
  if (run.made && trained === 0) rmSync(run.dir, { recursive: true, force: true });
}

/**
 * Records how the run was asked for: the resolved configuration, the same as composed with its interpolations in place
 * (`unresolved`, where it is given), and the overrides as they were typed.
 */
export function recordConfig(
  run: RunFolder,
  config: unknown,
  overrides: readonly string[],
  unresolved?: unknown,
): void {
  const write = (name: string, value: unknown) => writeFileAtomic(join(run.dir, name), yaml(value));
  write('config.yaml', config);
  if (unresolved !== undefined) write('config.unresolved.yaml', unresolved);
  write('overrides.yaml', overrides);
}

/** As OmegaConf reads it: YAML 1.1, where a bare `on` is a boolean. */
const yaml = (value: unknown) => stringify(value, { version: '1.1', lineWidth: 0, aliasDuplicateObjects: false });

const stepOf = (checkpoint: string) => Number(/^step=(\d+)$/.exec(basename(checkpoint))?.[1] ?? 0);

const isFolder = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

/**
 * The folder that checkpoints/last names; without that file (a run killed while it wrote it), the newest one there is, which is
 * whole by its name. Null where nothing was saved.
 */
function checkpointOfRun(dir: string): string | null {
  const checkpoints = join(dir, 'checkpoints');
  const last = join(checkpoints, 'last');
  const newest = existsSync(checkpoints) ? readdirSync(checkpoints).filter(isStep).sort().at(-1) : undefined;
  if (!existsSync(last)) return newest === undefined ? null : join(checkpoints, newest);
  const name = readFileSync(last, 'utf8').trim();
  const folder = join(checkpoints, name);
  if (name !== '' && isFolder(folder)) return folder;
  throw mistake({
    where: last,
    problem: 'it names a checkpoint that is not there',
    expected: 'the name of a folder beside it, such as step=0000100',
    found: JSON.stringify(name),
    fix:
      newest === undefined
        ? 'no checkpoint is there: remove it to start anew'
        : `go on from the newest that is there: echo ${newest} > ${last}`,
  });
}

const isStep = (name: string) => /^step=\d+$/.test(name);

const isCheckpoint = (path: string) => readdirSync(path).some((name) => /\.safetensors(\.index\.json)?$/.test(name));

/**
 * The checkpoint folder that a path stands for: itself, the last of a run folder (or of its checkpoints/), or that of
 * the newest version with one in an experiment folder. Throws a user error that says what was looked for.
 */
export function newestCheckpoint(path: string): string {
  const folder = resolve(path);
  const complain = (problem: string, found?: string) =>
    mistake({
      where: path,
      problem,
      expected:
        'a checkpoint folder (with *.safetensors), a run folder (with checkpoints/last), or a folder of version_N',
      ...(found === undefined ? {} : { found }),
      fix: 'give the folder of a run that has saved a checkpoint',
    });
  if (!existsSync(folder)) throw complain('there is no such folder');
  if (!isFolder(folder)) throw complain('it is a file');
  if (isCheckpoint(folder)) return folder;
  const own = checkpointOfRun(basename(folder) === 'checkpoints' ? resolve(folder, '..') : folder);
  if (own) return own;
  const versions = versionsOf(folder).reverse();
  for (const number of versions) {
    const checkpoint = checkpointOfRun(join(folder, `version_${number}`));
    if (checkpoint) return checkpoint;
  }
  const names = readdirSync(folder).slice(0, 8).join(', ');
  throw complain('there is no checkpoint in it', names === '' ? 'an empty folder' : names);
}
