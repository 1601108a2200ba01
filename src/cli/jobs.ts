/** The jobs of a multirun: their overrides, their folders, and which of them cannot start. Nothing is written here. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { NevaConfig } from '../config/index.ts';
import { isUserError } from '../errors.ts';
import { isFinished } from '../report/run_folder.ts';
import { brokenRules, type ConfigFlags, composeOptions } from './hydra.ts';

export interface Job {
  /** From 1, in the order of the product. */
  number: number;
  /** As rendered for this job: what a single run would be given. */
  overrides: string[];
  /** Those that differ between the jobs; all of them when there is one job. */
  varied: string[];
  /** Its run folder; null when the configuration does not say which. */
  folder: string | null;
  /** Why it cannot start, in full. */
  problem: string | null;
  /** It reached its last step in an earlier start of the sweep. */
  finished: boolean;
}

export interface Plan {
  jobs: Job[];
  /** Folder of the jobs' folders and of multirun.yaml. */
  folder: string | null;
}

/** Composes every job and checks its rules, so that a mistake in the last shows before the first has run. */
export async function planJobs(
  verb: string,
  configName: string,
  overrides: readonly string[],
  flags: ConfigFlags & { multirun?: boolean },
): Promise<Plan> {
  const { compose, multirunJobs } = await import('../config/index.ts');
  const options = composeOptions(configName, overrides, flags);
  const lists = flags.multirun ? multirunJobs(options) : [[...overrides]];
  let sweepFolder: string | null = null;
  const jobs: Job[] = [];
  for (const [index, list] of lists.entries()) {
    const varied = lists.length === 1 ? list : list.filter((item) => !lists.every((other) => other.includes(item)));
    const job: Job = { number: index + 1, overrides: list, varied, folder: null, problem: null, finished: false };
    jobs.push(job);
    try {
      const composed = compose({ ...options, overrides: list });
      const parent = folderOfSweep(composed.config);
      sweepFolder ??= parent;
      job.folder = join(parent, folderName(parent, jobKey(verb, options, list), varied));
      job.problem = await brokenRules(composed, 'train');
      job.finished = isFinished(job.folder) && !composed.config.exp_manager.resume_past_end;
    } catch (error) {
      if (!isUserError(error)) throw error;
      job.problem = error.message;
    }
  }
  return { jobs, folder: sweepFolder };
}

/** The folder that a single run with this configuration would have chosen, with `multirun` for the version. */
function folderOfSweep({ exp_manager: manager }: NevaConfig): string {
  if (manager.explicit_log_dir !== null) return resolve(manager.explicit_log_dir);
  return resolve(manager.exp_dir ?? 'neva_experiments', manager.name ?? 'neva', manager.version ?? 'multirun');
}

/** Eight digits that stand for everything the job was asked with: by them a finished job is known again. */
function jobKey(
  verb: string,
  { configName, configDirs = [] }: ReturnType<typeof composeOptions>,
  job: string[],
): string {
  const asked = JSON.stringify([verb, configName, configDirs.map((folder) => resolve(folder)), job]);
  return createHash('sha256').update(asked).digest('hex').slice(0, 8);
}

/** `lr=0.001,precision=bf16-1a2b3c4d`; a folder with the same key is taken as it is called. */
function folderName(parent: string, key: string, varied: readonly string[]): string {
  const found = existsSync(parent) ? readdirSync(parent).find((name) => name.endsWith(`-${key}`)) : undefined;
  if (found !== undefined) return found;
  const words = varied.map((item) => item.replace(/^([^=]*\.)(?=[^.=]+=)/, '')).join(',');
  const safe = words.replaceAll(/[^\w.=,+-]+/g, '_').slice(0, 60);
  return `${safe === '' ? 'job' : safe}-${key}`;
}
