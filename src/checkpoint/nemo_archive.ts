/** The files of a `.nemo` archive, as a tar, a gzipped tar or an unpacked folder, and which rank each file of weights is of. */
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { extract } from 'tar';
import { isUserError, mistake } from '../errors.ts';
import { indexTar, isPlainFile } from '../tar_index.ts';
import { fileKind, wholeFile } from './raw.ts';
import type { Region } from './zip.ts';

export interface RankFile {
  tp: number;
  pp: number;
  region: Region;
  /** For messages. */
  where: string;
}

export interface NemoArchive {
  path: string;
  /** Files by their names inside, except those of weights. */
  files: ReadonlyMap<string, Region>;
  ranks: readonly RankFile[];
}

const CONFIG = 'model_config.yaml';
const RANK = /^(?:mp_rank_(\d{2,3})|tp_rank_(\d{2,3})_pp_rank_(\d{3}))$/;
const WEIGHTS = /^(?:([^/]+)\/)?model_weights\.ckpt$/;
/** Weights hardly compress: what grows more than this is no model. */
const MAX_GROWTH = 16;

/** Whether a path is an archive, or a folder unpacked from one. */
export function isArchive(path: string): boolean {
  if (statSync(path).isDirectory()) return existsSync(join(path, CONFIG));
  return ['tar', 'gzip'].includes(fileKind(path));
}

export function openArchive(path: string): NemoArchive {
  const files = statSync(path).isDirectory()
    ? folderFiles(path)
    : fileKind(path) === 'gzip'
      ? folderFiles(unpacked(path))
      : tarFiles(path);
  if (!files.has(CONFIG)) {
    const found = [...files.keys()].slice(0, 8).join(', ');
    throw mistake({ where: path, problem: 'it is no archive of NeMo', expected: CONFIG, found: found || 'no files' });
  }
  const distributed = [...files.keys()].find((name) => name.startsWith('model_weights/'));
  if (distributed) {
    throw mistake({
      where: path,
      problem: "a distributed checkpoint of Megatron's, which neva does not read",
      expected: 'model_weights.ckpt, alone or in folders of ranks',
      found: distributed,
      fix: 'save it in NeMo with dist_ckpt off, or convert it to Hugging Face with its scripts',
    });
  }
  const ranks: RankFile[] = [];
  for (const [name, region] of files) {
    const match = WEIGHTS.exec(name);
    const rank = match && rankOf(match[1]);
    if (rank) ranks.push({ ...rank, region, where: `${path}: ${name}` });
  }
  return { path, files: new Map([...files].filter(([name]) => !WEIGHTS.test(name))), ranks: grid(path, ranks) };
}

/** Ranks of a Lightning checkpoint: `mp_rank_00/NAME.ckpt` and the files of that name beside it, or the file alone. */
export function checkpointRanks(file: string): readonly RankFile[] {
  const own = { tp: 0, pp: 0, region: wholeFile(file), where: file };
  const folder = dirname(file);
  if (!RANK.test(basename(folder))) return [own];
  const ranks = readdirSync(dirname(folder)).flatMap((name) => {
    const [rank, path] = [RANK.test(name) && rankOf(name), join(dirname(folder), name, basename(file))];
    return rank && existsSync(path) ? [{ ...rank, region: wholeFile(path), where: path }] : [];
  });
  return grid(dirname(folder), ranks);
}

/** `undefined`: the file stands alone. Null for a folder that is no rank's. */
function rankOf(folder: string | undefined): { tp: number; pp: number } | null {
  if (folder === undefined) return { tp: 0, pp: 0 };
  const match = RANK.exec(folder);
  return match && { tp: Number(match[1] ?? match[2]), pp: Number(match[3] ?? 0) };
}

/** Every rank of tp × pp, once. */
function grid(path: string, ranks: readonly RankFile[]): readonly RankFile[] {
  const tp = Math.max(...ranks.map((rank) => rank.tp)) + 1;
  const pp = Math.max(...ranks.map((rank) => rank.pp)) + 1;
  const seen = new Set(ranks.map((rank) => `${rank.tp} ${rank.pp}`));
  if (ranks.length > 0 && seen.size === ranks.length && seen.size === tp * pp) return ranks;
  const found = ranks.map((rank) => `tp ${rank.tp} pp ${rank.pp}`).join(', ');
  throw mistake({
    where: path,
    problem: 'its files of weights are not those of every rank',
    expected:
      ranks.length > 0 ? `${tp} × ${pp}` : 'model_weights.ckpt, alone or in mp_rank_XX or tp_rank_XX_pp_rank_YYY',
    found: found || 'none',
  });
}

function refuseEntry(path: string, name: string, type: string): void {
  const problem =
    type !== 'Directory' && !isPlainFile(type)
      ? `an entry that is no file (${type})`
      : /^[/\\]|^[A-Za-z]:|\\|\0/.test(name) || name.split('/').includes('..')
        ? 'an entry that lies outside of it'
        : null;
  if (problem) throw mistake({ where: path, problem, found: JSON.stringify(name), fix: 'do not unpack it either' });
}

function tarFiles(path: string): Map<string, Region> {
  const handle = openSync(path, 'r');
  const seen = new Set<string>();
  try {
    const entries = indexTar(handle, path, {
      fix: 'fetch or save the archive again',
      visit: (name, type) => {
        refuseEntry(path, name, type);
        if (seen.has(name)) throw mistake({ where: path, problem: `it has ${JSON.stringify(name)} twice` });
        seen.add(name);
      },
    });
    return new Map([...entries].map(([name, { offset, size }]) => [name, { file: path, offset, nbytes: size }]));
  } finally {
    closeSync(handle);
  }
}

/** A folder of this process's own with the content of a gzipped archive: compressed weights cannot be mapped. */
function unpacked(path: string): string {
  const folder = temporaryFolder('archive');
  let left = statSync(path).size * MAX_GROWTH + (64 << 20);
  // Throwing ends the unpacking where it is: what follows may be endless.
  const filter = (name: string, entry: { size?: number; type?: string }): boolean => {
    refuseEntry(path, name, entry.type ?? 'File');
    left -= entry.size ?? 0;
    if (left < 0) throw mistake({ where: path, problem: `it unpacks to more than ${MAX_GROWTH} times its size` });
    return true;
  };
  try {
    extract({ file: path, cwd: folder, sync: true, strict: true, filter });
  } catch (error) {
    rmSync(folder, { recursive: true, force: true });
    if (isUserError(error)) throw error;
    throw mistake({
      where: path,
      problem: `it cannot be unpacked: ${(error as Error).message}`,
      fix: 'fetch or save it again, or unpack it with tar and name the folder (TMPDIR says where neva unpacks)',
    });
  }
  return folder;
}

const temporary: string[] = [];

/** A new folder that is removed when the process ends. */
export function temporaryFolder(purpose: string): string {
  if (temporary.length === 0) {
    process.once('exit', () => {
      for (const folder of temporary) rmSync(folder, { recursive: true, force: true });
    });
  }
  const folder = mkdtempSync(join(tmpdir(), `neva-${purpose}-`));
  temporary.push(folder);
  return folder;
}

/** Two levels are all that an archive has. */
function folderFiles(folder: string): Map<string, Region> {
  const files = new Map<string, Region>();
  const add = (name: string): boolean => {
    const path = join(folder, name);
    const status = statSync(path, { throwIfNoEntry: false });
    if (status?.isFile()) files.set(name, wholeFile(path));
    return status?.isDirectory() ?? false;
  };
  for (const entry of readdirSync(folder).sort()) {
    if (add(entry)) for (const inner of readdirSync(join(folder, entry)).sort()) add(`${entry}/${inner}`);
  }
  return files;
}
