/** run.json: how a run came about — command, versions, commit, machine — so that it can be understood and repeated. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { mistake } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { packageRoot, packageVersion } from '../root.ts';

export interface GitState {
  folder: string;
  commit: string;
  /** Tracked files differ from the commit; null when git did not say in time. */
  dirty: boolean | null;
}

/** One start of a run. */
export interface Start {
  /** `neva`, the verb, its flags, the overrides: as typed, or as rendered for a job of a multirun. */
  command: string[];
  cwd: string;
  host: string;
  pid: number;
  /** Processes in all, over all machines. */
  ranks: number;
  started_at: string;
  /** Step of the checkpoint that it went on from; 0 at the beginning. */
  resumed_step: number;
  versions: { neva: string; node: string; torch: string | null };
  platform: string;
  /** The clone that neva ran from, and the repository that the command was given in, where they are ones. */
  git: { neva: GitState | null; cwd: GitState | null };
}

export interface RunRecord extends Start {
  format: 1;
  /** Starts before this one, oldest first: a run that was stopped and gone on with has several. */
  earlier: Start[];
}

export const RECORD_FILE = 'run.json';

/** Writes the record of this start; records of earlier starts in the same folder are kept. */
export function recordStart(
  dir: string,
  {
    command,
    torch,
    resumedStep,
    ranks,
  }: {
    command: readonly string[];
    torch: string | null;
    resumedStep: number;
    ranks: number;
  },
): void {
  const file = join(dir, RECORD_FILE);
  const earlier: Start[] = [];
  if (existsSync(file)) {
    const { format: _, earlier: before, ...last } = readRecord(dir);
    earlier.push(...before, last);
  }
  const neva = gitState(packageRoot);
  const cwd = gitState(process.cwd());
  const record: RunRecord = {
    format: 1,
    command: [...command],
    cwd: process.cwd(),
    host: hostname(),
    pid: process.pid,
    ranks,
    started_at: new Date().toISOString(),
    resumed_step: resumedStep,
    versions: { neva: packageVersion(), node: process.versions.node, torch },
    platform: `${process.platform} ${process.arch}`,
    // Installed below somebody's project, neva has no commit of its own.
    git: { neva: neva?.folder === realpathSync(packageRoot) ? neva : null, cwd },
    earlier,
  };
  writeFileAtomic(file, `${JSON.stringify(record, null, 2)}\n`);
}

/** The record in the folder of a run; throws a user error where there is none. */
export function readRecord(dir: string): RunRecord {
  const file = join(dir, RECORD_FILE);
  const complain = (problem: string, found: string) =>
    mistake({ where: dir, problem, expected: `the folder of a run, which holds ${RECORD_FILE}`, found });
  if (!existsSync(dir)) throw complain('there is no such folder', 'nothing');
  if (!existsSync(file)) throw complain(`there is no ${RECORD_FILE} in it`, 'a folder of another kind');
  try {
    const record = JSON.parse(readFileSync(file, 'utf8')) as RunRecord;
    if (record.format === 1 && Array.isArray(record.command) && Array.isArray(record.earlier)) return record;
  } catch {
    // Told below.
  }
  throw complain(`its ${RECORD_FILE} cannot be read`, 'a damaged file, or one of another version of neva');
}

/** Milliseconds for git on a slow disk; a run does not wait longer for its record. */
const PATIENCE = 3000;

function gitState(folder: string): GitState | null {
  const ask = (...args: string[]): string | null => {
    const { status, stdout } = spawnSync('git', ['-C', folder, ...args], { encoding: 'utf8', timeout: PATIENCE });
    return status === 0 ? stdout.trim() : null;
  };
  const where = ask('rev-parse', '--show-toplevel', 'HEAD');
  if (where === null) return null;
  const [top = '', commit = ''] = where.split('\n');
  const changes = ask('status', '--porcelain', '--untracked-files=no');
  return { folder: top, commit, dirty: changes === null ? null : changes !== '' };
}
