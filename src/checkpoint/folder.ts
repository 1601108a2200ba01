/**
 * A checkpoint folder (DESIGN §5): everything that a run needs to go on as if it had not stopped.
 *
 *     step=0000100/
 *       model.safetensors       parameters that trained, and the projector, under neva's (llava-hf's) names
 *       projector.safetensors   the projector once more, alone
 *       optimizer.safetensors   exp_avg.NAME and exp_avg_sq.NAME
 *       ema.safetensors         moving averages of what trains, where exp_manager.ema is on
 *       frozen.safetensors      parts that did not train, where save_frozen_weights asks for them (frozen.ts)
 *       state.json              position, random state, where the frozen parts are
 *       config.json             the whole model's shapes, as Hugging Face writes them
 *       config.yaml             the run's configuration
 *       tokenizer files
 *       manifest.json           size and checksum of every file above
 *     last                      names the newest one
 *
 * It is complete or absent. write_folder.ts writes it, saver.ts does so while training goes on, prune.ts removes old ones.
 */
import { existsSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { AdamWState, Engine, Parameter, Shard, Tensor } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { cutOut } from '../model/parameters.ts';
import type { NevaShape } from '../model/shapes.ts';
import { wholeShape } from '../model/split.ts';
import type { FrozenCopy } from './frozen.ts';
import { readJsonObject } from './json.ts';
import { damageOf } from './manifest.ts';
import { isVocabulary } from './names.ts';
import { readSafetensors, type TensorEntry } from './safetensors.ts';

/** Weights that are not in the checkpoint because they did not change: where they are, and what tells them from others. */
export interface FrozenReference {
  part: 'llm' | 'vision' | 'projector';
  path: string;
  /** It is in the checkpoint all the same, in frozen.safetensors; `path` says where it came from. */
  included?: boolean;
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
  /** The same of every rank, where there are several. */
  rngOfRanks?: string[];
  seed: number;
  /** Conversation template: what generation must use again. */
  template: string;
  templateCompat: 'default' | 'llava' | 'nemo';
  imageAspect: string;
  useImStartEnd: boolean;
  /** `data.sep_image_conv_front`; absent in checkpoints written before it was kept. */
  imageToFront?: boolean;
  additionalTokens: string[];
  frozen: FrozenReference[];
  /** Of float16 training (src/train/loss_scale.ts). */
  lossScale?: { scale: number; good: number; tolerance: number; skipped: number };
}

/** What an optimizer keeps of a weight; `average`: its moving average, where one is kept. All are float32. */
export interface WeightState extends AdamWState {
  average?: Tensor;
}

export interface CheckpointContent {
  state: CheckpointState;
  shape: NevaShape;
  /** Those that trained, and the projector's. */
  parameters: readonly Parameter[];
  optimizer: ReadonlyMap<string, WeightState>;
  /** Copied as they are: config.yaml, tokenizer files, preprocessor_config.json. */
  files: readonly string[];
  /** See frozen.ts. */
  frozenCopy?: FrozenCopy | null;
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

/** Parts that did not train, under own names. */
export const FROZEN = 'frozen.safetensors';
const AVERAGES = 'ema.safetensors';
export const hasAverages = (folder: string): boolean => existsSync(join(folder, AVERAGES));

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

/** The newest checkpoint in a folder (before the one of that name) that is whole, or null. */
export function newestWhole(dir: string, before?: string): string | null {
  const names = checkpointsIn(dir).filter((name) => before === undefined || name < before);
  return names.findLast((name) => damageOf(join(dir, name)) === null) ?? null;
}

/** Throws a user error for a damaged checkpoint; it offers the newest one before it that is whole. */
export function verifyCheckpoint(folder: string): void {
  const damage = damageOf(folder);
  if (damage === null) return;
  const before = newestWhole(dirname(folder), basename(folder));
  throw mistake({
    where: folder,
    problem: `this checkpoint is damaged: ${damage}`,
    fix: before
      ? `go on from the newest one before it that is whole: echo ${before} > ${join(dirname(folder), 'last')}`
      : 'there is no whole one before it; start again with exp_manager.resume_if_exists=false',
  });
}

/**
 * Puts a checkpoint's values into parameters and optimizer states of the same names and shapes; of a weight that is
 * shared out, its stretch (`shards`: those of the optimizer's states, by name). Padding of the vocabulary is not in the file:
 * it is zero.
 */
export function restore(
  engine: Engine,
  folder: string,
  parameters: readonly Parameter[],
  optimizer: ReadonlyMap<string, WeightState>,
  shards: ReadonlyMap<string, Shard | null> = new Map(),
): void {
  const weights = readSafetensors(join(folder, 'model.safetensors')).entries;
  const moments = readSafetensors(join(folder, 'optimizer.safetensors')).entries;
  // An average that begins now begins as the weights.
  const averages = hasAverages(folder) ? readSafetensors(join(folder, AVERAGES)).entries : weights;
  const fill = filler(engine, folder);
  for (const { name, value, main, rows, shard } of parameters) {
    fill(weights, name, main ?? value, rows, shard);
    if (main) engine.round(value, main);
  }
  for (const [name, { expAvg, expAvgSq, average }] of optimizer) {
    // Moments lie in the file as their weight does, which has been compared with the parameter's.
    const rows = isVocabulary(name) ? weights.get(name)?.shape[0] : undefined;
    fill(moments, `exp_avg.${name}`, expAvg, rows, shards.get(name));
    fill(moments, `exp_avg_sq.${name}`, expAvgSq, rows, shards.get(name));
    if (average) fill(averages, name, average, rows, shards.get(name));
  }
}

/** Names of the checkpoints in a folder, oldest first. */
export function checkpointsIn(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir)
    .filter((name) => /^step=\d+$/.test(name))
    .sort();
}

/** Fills a tensor, or its first `rows`, with the entry of that name. */
function filler(engine: Engine, folder: string) {
  return (
    entries: ReadonlyMap<string, TensorEntry>,
    name: string,
    target: Tensor,
    rows = target.shape[0],
    shard?: Shard | null,
  ) => {
    const entry = entries.get(name);
    const expected = shard
      ? wholeShape({ value: target, shard })
      : target.shape.map((size, i) => (i === 0 ? rows! : size));
    if (!entry || entry.shape.join() !== expected.join()) {
      throw mistake({
        where: folder,
        problem: `this run's ${name} cannot be continued from it`,
        expected: `[${expected.join(', ')}]`,
        found: entry ? `[${entry.shape.join(', ')}]` : 'nothing of that name',
        fix: 'resume with the model and freeze settings that the run began with, or start a new run (exp_manager.name=…)',
      });
    }
    engine.scope(() => {
      const stored = engine.fromFile(entry.file, entry.offset, entry.shape, entry.dtype);
      const padding = [shard ? 0 : target.shape[0]! - rows!, ...target.shape.slice(1)];
      const whole = padding[0] ? engine.concat([stored, engine.zeros(padding, entry.dtype)], 0) : stored;
      engine.assign(target, cutOut(engine, whole, shard));
    });
  };
}
