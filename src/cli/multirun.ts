/** `--multirun`: every job of a sweep as a process of its own, one after the other, and a table of what came of them. */
import { mkdirSync } from 'node:fs';
import { join, relative } from 'node:path';
import { stringify } from 'yaml';
import { mistake, UserError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { type Lock, takeLock } from '../lock.ts';
import { readPlace } from '../parallel/environment.ts';
import { type RunSummary, summarizeMetrics } from '../report/summary.ts';
import { Children } from './children.ts';
import { type ConfigFlags, flagWords } from './hydra.ts';
import { type Job, type Plan, planJobs } from './jobs.ts';
import { STOPPED } from './stop.ts';
import { table } from './table.ts';

export interface SweepFlags extends ConfigFlags {
  multirun?: boolean;
  dryRun?: boolean;
  failFast?: boolean;
}

/** What came of a job; `exit` is null for one that did not run. */
interface Outcome {
  job: Job;
  status: 'done' | 'done before' | 'failed' | 'refused' | 'stopped' | 'not run';
  exit: number | null;
  summary: RunSummary | null;
}

const say = (line: string) => void process.stderr.write(`${line}\n`);

/**
 * Runs (or, for a dry run, lists) the jobs. Returns the exit code: 0 when every job is done, 143 when the sweep was
 * stopped, 2 when all that failed were the user's mistakes, otherwise 1.
 */
export async function multirun(
  verb: string,
  configName: string,
  overrides: readonly string[],
  flags: SweepFlags,
): Promise<number> {
  const place = readPlace(process.env);
  if (place !== null) {
    throw mistake({
      where: '--multirun',
      problem: `every rank that ${place.launcher} has started would run the whole sweep`,
      fix: 'start the sweep once, with trainer.devices=N for the ranks of each job',
    });
  }
  const plan = await planJobs(verb, configName, overrides, flags);
  refuseHopeless(plan);
  if (flags.dryRun) return listJobs(plan);
  const words = [verb, ...flagWords(flags)];
  const refused = plan.jobs.filter(({ problem }) => problem !== null).length;
  const idle = refused === plan.jobs.length || (refused > 0 && flags.failFast === true);
  const lock = plan.folder === null || idle ? null : await lockSweep(plan.folder);
  try {
    const outcomes = await runJobs(plan, words, overrides, flags.failFast ?? false);
    console.log(resultTable(outcomes));
    return exitCode(outcomes);
  } finally {
    lock?.release();
  }
}

/** Two sweeps at once would write one record, and run the jobs that they have in common twice. */
function lockSweep(folder: string): Promise<Lock> {
  mkdirSync(folder, { recursive: true });
  return takeLock(join(folder, 'sweep.lock'), 'a sweep runs');
}

/** A sweep without a job, or with a mistake that is the same in each, is a mistake like that of a single run. */
function refuseHopeless({ jobs }: Plan): void {
  const [first] = jobs;
  if (!first) {
    throw mistake({
      where: '--multirun',
      problem: 'there is no job to run',
      expected: 'at least one value for every key',
      found: 'a range or glob that is empty',
    });
  }
  if (first.problem !== null && jobs.every(({ problem }) => problem === first.problem)) {
    throw new UserError(first.problem);
  }
}

function listJobs({ jobs }: Plan): number {
  const state = ({ problem, finished }: Job) => (problem !== null ? 'refused' : finished ? 'done before' : 'would run');
  const rows = jobs.map((job) => [String(job.number), job.overrides.join(' '), state(job), shown(job.folder)]);
  console.log(`${jobs.length === 1 ? '1 job' : `${jobs.length} jobs`}; nothing was run.`);
  console.log(table(['job', 'overrides', 'state', 'folder'], rows));
  const refused = jobs.filter(({ problem }) => problem !== null);
  for (const job of refused) say(refusal(job));
  return refused.length > 0 ? 2 : 0;
}

const refusal = ({ number, problem }: Job) => `neva: job ${number} cannot run: ${problem}`;
const shown = (folder: string | null) => (folder === null ? '' : relative(process.cwd(), folder) || '.');

async function runJobs(
  plan: Plan,
  words: string[],
  overrides: readonly string[],
  failFast: boolean,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = plan.jobs.map((job) => ({ job, status: 'not run', exit: null, summary: null }));
  for (const outcome of outcomes) {
    if (outcome.job.problem === null) continue;
    say(refusal(outcome.job));
    Object.assign(outcome, { status: 'refused', exit: 2 });
  }
  const children = new Children();
  const record = () => recordSweep(plan, words, overrides, outcomes);
  try {
    for (const outcome of outcomes) {
      const failed = outcomes.some(({ status }) => status === 'refused' || status === 'failed');
      if (children.stopped || (failFast && failed)) break;
      if (outcome.status === 'refused') continue;
      const { job } = outcome;
      // The same overrides twice share a folder, and the second time finds it done.
      const twin = outcomes.find((other) => other.job.folder === job.folder && other.status === 'done');
      await runOne(outcome, {
        count: outcomes.length,
        doneBefore: job.finished || twin !== undefined,
        words,
        children,
      });
      record();
    }
  } finally {
    children.release();
  }
  return outcomes;
}

interface Setting {
  count: number;
  doneBefore: boolean;
  words: readonly string[];
  children: Children;
}

async function runOne(outcome: Outcome, { count, doneBefore, words, children }: Setting): Promise<void> {
  const { job } = outcome;
  const folder = job.folder as string;
  const which = `job ${job.number} of ${count}`;
  if (doneBefore) {
    say(`── ${which}: done before, in ${shown(folder)}`);
    Object.assign(outcome, { status: 'done before', exit: 0 });
  } else {
    say(`── ${which}: ${job.varied.join(' ') || 'no overrides'}, in ${shown(folder)}`);
    const exit = await children.run([...words, '--job-folder', folder, ...job.overrides]);
    const status = exit === 0 ? 'done' : exit === STOPPED || children.stopped ? 'stopped' : 'failed';
    if (status === 'failed') say(`── ${which} failed with exit code ${exit}`);
    Object.assign(outcome, { status, exit });
  }
  outcome.summary = summarizeMetrics(join(folder, 'metrics.jsonl'));
}

function resultTable(outcomes: readonly Outcome[]): string {
  const rows = outcomes.map(({ job, status, exit, summary }) => [
    String(job.number),
    job.varied.join(' '),
    summary === null ? '' : (summary.finalLoss?.toFixed(4) ?? 'not finite'),
    summary === null ? '' : summary.tokensPerSecond.toFixed(0),
    exit === null ? '' : String(exit),
    status,
    shown(job.folder),
  ]);
  return table(['job', 'overrides', 'final loss', 'tokens/s', 'exit', 'status', 'folder'], rows);
}

/** multirun.yaml beside the jobs' folders: the command, and how far its jobs have come. */
function recordSweep(
  plan: Plan,
  words: readonly string[],
  overrides: readonly string[],
  outcomes: readonly Outcome[],
): void {
  if (plan.folder === null) return;
  mkdirSync(plan.folder, { recursive: true });
  const jobs = outcomes.map(({ job, status, exit, summary }) => ({
    number: job.number,
    overrides: job.overrides,
    folder: job.folder,
    status,
    exit,
    final_loss: summary?.finalLoss ?? null,
    tokens_per_s: summary?.tokensPerSecond ?? null,
  }));
  const content = { command: ['neva', ...words, '--multirun', ...overrides], jobs };
  writeFileAtomic(join(plan.folder, 'multirun.yaml'), stringify(content, { version: '1.1', lineWidth: 0 }));
}

function exitCode(outcomes: readonly Outcome[]): number {
  if (outcomes.some(({ status }) => status === 'stopped')) return STOPPED;
  const bad = outcomes.filter(({ status }) => status !== 'done' && status !== 'done before');
  if (bad.length === 0) return 0;
  return bad.every(({ exit }) => exit === 2 || exit === null) ? 2 : 1;
}
