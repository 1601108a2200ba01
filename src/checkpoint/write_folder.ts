/**
 * Writing a checkpoint folder from a snapshot: plain memory that training no longer touches, so that a worker thread can write
 * it (saver.ts) while training goes on. Written beside, synced, renamed; then `last` names it.
 */
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import type { DType, Engine, Tensor } from '../engine/engine.ts';
import { besideName, syncFolder, writeFileAtomic } from '../files.ts';
import { type CheckpointContent, checkpointName, FROZEN } from './folder.ts';
import type { FrozenCopy } from './frozen.ts';
import { writeConfig } from './hf_config.ts';
import { entryOfFile, type ManifestEntry, manifestText } from './manifest.ts';
import { writeSafetensors } from './safetensors.ts';

export interface SnapshotTensor {
  name: string;
  dtype: DType;
  shape: readonly number[];
  bytes: Uint8Array<ArrayBuffer>;
}

export interface Snapshot {
  step: number;
  /** File name → tensors. */
  tensors: readonly [file: string, list: readonly SnapshotTensor[]][];
  /** File name → text. */
  texts: readonly [file: string, text: string][];
  /** Copied as they are. */
  files: readonly string[];
  /** Parts that did not train, already on the disk. */
  frozen?: FrozenCopy | null;
}

/** What a checkpoint holds of parameters and of their optimizer's state. */
export interface SnapshotTensors {
  weights: readonly SnapshotTensor[];
  /** Named `exp_avg.NAME` and `exp_avg_sq.NAME`. */
  moments: readonly SnapshotTensor[];
  /** Moving averages, named as the weights; none where they are not kept. */
  averages: readonly SnapshotTensor[];
}

const entryOf =
  (engine: Engine) =>
  (name: string, tensor: Tensor, rows = tensor.shape[0]): SnapshotTensor => ({
    name,
    dtype: tensor.dtype,
    shape: rows === tensor.shape[0] ? [...tensor.shape] : [rows!, ...tensor.shape.slice(1)],
    bytes: leadingRows(engine, tensor, rows),
  });

/** Copies everything that training will change. Host memory: the weights' bytes in float32, and twice as many of moments. */
export function tensorsOf(
  engine: Engine,
  { parameters, optimizer }: Pick<CheckpointContent, 'parameters' | 'optimizer'>,
): SnapshotTensors {
  const entry = entryOf(engine);
  // Padding is a matter of how a run is laid out: with another layout, a checkpoint goes on all the same.
  const rowsOf = new Map(parameters.map(({ name, rows }) => [name, rows]));
  return {
    // The main weight is the exact one; `value` is its rounding.
    weights: parameters.map(({ name, value, main, rows }) => entry(name, main ?? value, rows)),
    moments: [...optimizer].flatMap(([name, { expAvg, expAvgSq }]) => [
      entry(`exp_avg.${name}`, expAvg, rowsOf.get(name)),
      entry(`exp_avg_sq.${name}`, expAvgSq, rowsOf.get(name)),
    ]),
    averages: [...optimizer].flatMap(([name, { average }]) =>
      average ? [entry(name, average, rowsOf.get(name))] : [],
    ),
  };
}

export function takeSnapshot(
  content: Omit<CheckpointContent, 'parameters' | 'optimizer'>,
  { weights, moments, averages }: SnapshotTensors,
): Snapshot {
  return {
    step: content.state.step,
    tensors: [
      ['model.safetensors', weights],
      ['projector.safetensors', weights.filter(({ name }) => name.startsWith('multi_modal_projector.'))],
      ['optimizer.safetensors', moments],
      ...(averages.length > 0 ? [['ema.safetensors', averages] as [string, SnapshotTensor[]]] : []),
    ],
    texts: [
      ['state.json', `${JSON.stringify(content.state, null, 2)}\n`],
      ['config.json', `${JSON.stringify(writeConfig(content.shape), null, 2)}\n`],
    ],
    files: content.files,
    frozen: content.frozenCopy ?? null,
  };
}

function leadingRows(engine: Engine, tensor: Tensor, rows: number | undefined): Uint8Array<ArrayBuffer> {
  if (rows === tensor.shape[0]) return engine.bytes(tensor) as Uint8Array<ArrayBuffer>;
  const part = engine.slice(tensor, 0, 0, rows!);
  const bytes = engine.bytes(part) as Uint8Array<ArrayBuffer>;
  part.dispose();
  return bytes;
}

/** The memory of a snapshot, each buffer once: to be handed to another thread. */
export const buffersOf = ({ tensors }: Snapshot): ArrayBuffer[] => [
  ...new Set(tensors.flatMap(([, list]) => list.map(({ bytes }) => bytes.buffer))),
];

/** Bytes that the tensors of a snapshot take on the disk. */
export const snapshotBytes = ({ tensors }: Snapshot): number =>
  tensors.reduce((sum, [, list]) => list.reduce((part, { bytes }) => part + bytes.length, sum), 0);

/**
 * Writes a snapshot into `dir` as step=NNNNNNN and points `last` at it. Returns its folder.
 * One of the same step is replaced: after going back to an earlier one it may be damaged, or of other settings.
 */
export function writeCheckpoint(dir: string, snapshot: Snapshot): string {
  const name = checkpointName(snapshot.step);
  const target = join(dir, name);
  const last = join(dir, 'last');
  mkdirSync(dir, { recursive: true });
  requireSpace(dir, snapshotBytes(snapshot));
  const beside = besideName(target);
  rmSync(beside, { recursive: true, force: true });
  mkdirSync(beside);
  try {
    writeContent(beside, snapshot);
    syncFolder(beside);
    if (existsSync(target)) {
      // Killed between the two renames, no name is left that leads nowhere: the newest one is then found without `last`.
      if (existsSync(last) && readFileSync(last, 'utf8').trim() === name) rmSync(last);
      removeFolder(target);
    }
    renameSync(beside, target);
  } catch (error) {
    rmSync(beside, { recursive: true, force: true });
    throw error;
  }
  syncFolder(dir);
  writeFileAtomic(last, `${name}\n`);
  return target;
}

export const saveCheckpoint = (engine: Engine, dir: string, content: CheckpointContent): string =>
  writeCheckpoint(dir, takeSnapshot(content, tensorsOf(engine, content)));

/** Takes the name away before the files, so that a checkpoint is never half there under its name. */
export function removeFolder(folder: string): void {
  const removed = besideName(`${folder}.removed`);
  rmSync(removed, { recursive: true, force: true });
  renameSync(folder, removed);
  rmSync(removed, { recursive: true, force: true });
}

/** For texts, tokenizer and whatever else writes to the disk meanwhile. */
const MARGIN = 8 << 20;

/** Fails before the first byte, so that a disk is not filled up to the brim: logs and metrics go to the same one. */
export function requireSpace(dir: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(dir);
  const free = bavail * bsize;
  if (free >= bytes + MARGIN) return;
  const message = `ENOSPC: ${megabytes(bytes + MARGIN)} MB are needed and ${megabytes(free)} MB are free`;
  throw Object.assign(new Error(message), { code: 'ENOSPC' });
}

const megabytes = (bytes: number) => (bytes / 1e6).toFixed(1);

function writeContent(folder: string, { tensors, texts, files, frozen }: Snapshot): void {
  const manifest: Record<string, ManifestEntry> = {};
  for (const [name, list] of tensors) {
    const lazy = list.map((tensor) => ({ ...tensor, data: () => tensor.bytes }));
    manifest[name] = writeSafetensors(join(folder, name), lazy);
  }
  for (const [name, text] of texts) {
    writeSynced(join(folder, name), text);
    manifest[name] = entryOfFile(join(folder, name));
  }
  for (const file of files) {
    const copy = join(folder, basename(file));
    copyFileSync(file, copy);
    syncFile(copy);
    manifest[basename(file)] = entryOfFile(copy);
  }
  if (frozen) {
    linkOrCopy(frozen.path, join(folder, FROZEN));
    manifest[FROZEN] = frozen.entry;
  }
  writeSynced(join(folder, 'manifest.json'), manifestText(manifest));
}

/** Not every file system has hard links. */
function linkOrCopy(from: string, to: string): void {
  try {
    linkSync(from, to);
  } catch (error) {
    if (!['EPERM', 'ENOTSUP', 'ENOSYS', 'EMLINK', 'EXDEV'].includes((error as NodeJS.ErrnoException).code ?? ''))
      throw error;
    copyFileSync(from, to);
    syncFile(to);
  }
}

function writeSynced(path: string, text: string): void {
  writeFileSync(path, text);
  syncFile(path);
}

function syncFile(path: string): void {
  const handle = openSync(path, 'r+');
  try {
    fsyncSync(handle);
  } finally {
    closeSync(handle);
  }
}
