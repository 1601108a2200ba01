/**
 * A checkpoint folder (DESIGN §5): everything that a run needs to go on as if it had not stopped.
 *
 *     step=0000100/
 *       model.safetensors       parameters that trained, and the projector, under neva's (llava-hf's) names
 *       projector.safetensors   the projector once more, alone
 *       optimizer.safetensors   exp_avg.NAME and exp_avg_sq.NAME
 *       state.json              position, random state, where the frozen parts are
 *       config.json             the whole model's shapes, as Hugging Face writes them
 *       config.yaml             the run's configuration
 *       tokenizer files
 *       manifest.json           size and SHA-256 of every file above
 *     last                      names the newest one
 *
 * It is written beside, synced and renamed: complete or absent.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { AdamWState, Engine, Parameter, Tensor } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { besideName, syncFolder, writeFileAtomic } from '../files.ts';
import type { NevaShape } from '../model/shapes.ts';
import { writeConfig } from './hf_config.ts';
import { readJsonObject } from './json.ts';
import { readSafetensors, type TensorEntry, type TensorToWrite, writeSafetensors } from './safetensors.ts';

/** Weights that are not in the checkpoint because they did not change: where they are, and what tells them from others. */
export interface FrozenReference {
  part: 'llm' | 'vision' | 'projector';
  path: string;
  /** See `fingerprintOf` in fingerprint.ts. */
  fingerprint: string;
}

export interface CheckpointState {
  format: 1;
  stage: string;
  step: number;
  epoch: number;
  consumedSamples: number;
  valLoss: number | null;
  loss: number | null;
  /** Base64 of the engine's generator state. */
  rng: string;
  seed: number;
  /** Conversation template: what generation must use again. */
  template: string;
  templateCompat: 'llava' | 'nemo';
  imageAspect: string;
  useImStartEnd: boolean;
  additionalTokens: string[];
  frozen: FrozenReference[];
}

export interface CheckpointContent {
  state: CheckpointState;
  shape: NevaShape;
  /** Those that trained, and the projector's. */
  parameters: readonly Parameter[];
  optimizer: ReadonlyMap<string, AdamWState>;
  /** Copied as they are: config.yaml, tokenizer files, preprocessor_config.json. */
  files: readonly string[];
}

const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
];

/** The files of a tokenizer's folder that go into a checkpoint. */
export const tokenizerFiles = (folder: string): string[] =>
  TOKENIZER_FILES.map((name) => join(folder, name)).filter((path) => existsSync(path));

export const checkpointName = (step: number): string => `step=${String(step).padStart(7, '0')}`;

/**
 * Writes checkpoint `state.step` into `dir` and points `last` at it. Returns its folder.
 * One of the same step is replaced: after going back to an earlier one it may be damaged, or of other settings.
 */
export function saveCheckpoint(engine: Engine, dir: string, content: CheckpointContent): string {
  const name = checkpointName(content.state.step);
  const target = join(dir, name);
  mkdirSync(dir, { recursive: true });
  const beside = besideName(target);
  rmSync(beside, { recursive: true, force: true });
  mkdirSync(beside);
  try {
    writeContent(engine, beside, content);
    syncFolder(beside);
    if (existsSync(target)) removeFolder(target);
    renameSync(beside, target);
  } catch (error) {
    rmSync(beside, { recursive: true, force: true });
    throw error;
  }
  syncFolder(dir);
  writeFileAtomic(join(dir, 'last'), `${name}\n`);
  return target;
}

/** Takes the name away before the files, so that a checkpoint is never half there under its name. */
function removeFolder(folder: string): void {
  const removed = besideName(`${folder}.removed`);
  rmSync(removed, { recursive: true, force: true });
  renameSync(folder, removed);
  rmSync(removed, { recursive: true, force: true });
}

function writeContent(engine: Engine, folder: string, content: CheckpointContent): void {
  const manifest: Record<string, { bytes: number; sha256: string }> = {};
  const tensors = (name: string, list: TensorToWrite[]) => {
    manifest[name] = writeSafetensors(join(folder, name), list);
  };
  const text = (name: string, value: string) => {
    writeSynced(join(folder, name), value);
    manifest[name] = fingerprint(join(folder, name));
  };
  const entry = (name: string, tensor: Tensor): TensorToWrite => ({
    name,
    dtype: tensor.dtype,
    shape: tensor.shape,
    data: () => engine.bytes(tensor),
  });

  // The main weight is the exact one; `value` is its rounding.
  const weights = content.parameters.map(({ name, value, main }) => entry(name, main ?? value));
  tensors('model.safetensors', weights);
  tensors(
    'projector.safetensors',
    weights.filter(({ name }) => name.startsWith('multi_modal_projector.')),
  );
  tensors(
    'optimizer.safetensors',
    [...content.optimizer].flatMap(([name, { expAvg, expAvgSq }]) => [
      entry(`exp_avg.${name}`, expAvg),
      entry(`exp_avg_sq.${name}`, expAvgSq),
    ]),
  );
  text('state.json', `${JSON.stringify(content.state, null, 2)}\n`);
  text('config.json', `${JSON.stringify(writeConfig(content.shape), null, 2)}\n`);
  for (const file of content.files) {
    const copy = join(folder, basename(file));
    copyFileSync(file, copy);
    syncFile(copy);
    manifest[basename(file)] = fingerprint(copy);
  }
  writeSynced(join(folder, 'manifest.json'), `${JSON.stringify({ format: 1, files: manifest }, null, 2)}\n`);
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

function fingerprint(path: string): { bytes: number; sha256: string } {
  const digest = createHash('sha256');
  const chunk = Buffer.allocUnsafe(1 << 20);
  const handle = openSync(path, 'r');
  let bytes = 0;
  try {
    for (let read = readSync(handle, chunk); read > 0; read = readSync(handle, chunk)) {
      digest.update(chunk.subarray(0, read));
      bytes += read;
    }
  } finally {
    closeSync(handle);
  }
  return { bytes, sha256: digest.digest('hex') };
}

export const isCheckpoint = (folder: string): boolean => existsSync(join(folder, 'state.json'));

/** The state of a checkpoint folder, after its files were compared with the manifest. Damage is a user error. */
export function readCheckpoint(folder: string): CheckpointState {
  verifyCheckpoint(folder);
  const state = readJsonObject(join(folder, 'state.json')) as unknown as CheckpointState;
  if (state.format !== 1) {
    throw mistake({
      where: join(folder, 'state.json'),
      problem: 'written by another version of neva',
      expected: 'format 1',
      found: JSON.stringify(state.format),
    });
  }
  return state;
}

/** Throws a user error unless every file has the size and the checksum of the manifest; names the one before it. */
export function verifyCheckpoint(folder: string): void {
  const manifestFile = join(folder, 'manifest.json');
  const damaged = (problem: string) => {
    const before = checkpointsIn(dirname(folder))
      .filter((name) => name < basename(folder))
      .at(-1);
    return mistake({
      where: folder,
      problem: `this checkpoint is damaged: ${problem}`,
      fix: before
        ? `continue from the one before it: write ${before} into ${join(dirname(folder), 'last')}`
        : 'there is no earlier one beside it; start again with exp_manager.resume_if_exists=false',
    });
  };
  if (!existsSync(manifestFile)) throw damaged('manifest.json is missing');
  const files = readJsonObject(manifestFile).files as Record<string, { bytes: number; sha256: string }>;
  for (const [name, { bytes, sha256 }] of Object.entries(files)) {
    const path = join(folder, name);
    const size = statSync(path, { throwIfNoEntry: false })?.size;
    if (size === undefined) throw damaged(`${name} is missing`);
    if (size !== bytes) throw damaged(`${name} has ${size} bytes instead of ${bytes}`);
    if (fingerprint(path).sha256 !== sha256) throw damaged(`${name} does not match its checksum`);
  }
}

/** Puts a checkpoint's values into parameters and optimizer states of the same names and shapes. */
export function restore(
  engine: Engine,
  folder: string,
  parameters: readonly Parameter[],
  optimizer: ReadonlyMap<string, AdamWState>,
): void {
  const weights = readSafetensors(join(folder, 'model.safetensors')).entries;
  const moments = readSafetensors(join(folder, 'optimizer.safetensors')).entries;
  const fill = (entries: ReadonlyMap<string, TensorEntry>, name: string, target: Tensor) => {
    const entry = entries.get(name);
    if (!entry || entry.shape.join() !== target.shape.join()) {
      throw mistake({
        where: folder,
        problem: `this run's ${name} cannot be continued from it`,
        expected: `[${target.shape.join(', ')}]`,
        found: entry ? `[${entry.shape.join(', ')}]` : 'nothing of that name',
        fix: 'resume with the model and freeze settings that the run began with, or start a new run (exp_manager.name=…)',
      });
    }
    engine.scope(() => engine.assign(target, engine.fromFile(entry.file, entry.offset, entry.shape, entry.dtype)));
  };
  for (const { name, value, main } of parameters) {
    fill(weights, name, main ?? value);
    if (main) engine.assign(value, main);
  }
  for (const [name, { expAvg, expAvgSq }] of optimizer) {
    fill(moments, `exp_avg.${name}`, expAvg);
    fill(moments, `exp_avg_sq.${name}`, expAvgSq);
  }
}

/** Names of the checkpoints in a folder, oldest first. */
export function checkpointsIn(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((name) => /^step=\d+$/.test(name))
    .sort();
}

/**
 * Removes all but the newest and the `keep` best by validation loss (training loss where nothing was validated), and what an
 * interrupted save left. `keep` −1 keeps all. Nothing is pruned while no file names the newest.
 */
export function pruneCheckpoints(dir: string, keep: number): void {
  for (const name of existsSync(dir) ? readdirSync(dir) : []) {
    if (/^step=\d+\..*\.partial$/.test(name)) rmSync(join(dir, name), { recursive: true, force: true });
  }
  const newest = join(dir, 'last');
  if (keep < 0 || !existsSync(newest)) return;
  const last = readFileSync(newest, 'utf8').trim();
  const ranked = checkpointsIn(dir)
    .filter((name) => name !== last)
    .map((name) => ({ name, loss: lossOf(join(dir, name)) }))
    .sort((a, b) => (a.loss === b.loss ? (a.name < b.name ? 1 : -1) : a.loss - b.loss));
  for (const { name } of ranked.slice(keep)) removeFolder(join(dir, name));
}

/** What checkpoints are ranked by; one whose state cannot be read is the worst. */
function lossOf(folder: string): number {
  try {
    const { valLoss, loss } = readJsonObject(join(folder, 'state.json')) as unknown as CheckpointState;
    return valLoss ?? loss ?? Number.POSITIVE_INFINITY;
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}
