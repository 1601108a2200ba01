/** Where each part of a model comes from, when a path names a whole one. */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { mistake } from '../errors.ts';
import { fingerprintOf } from './fingerprint.ts';
import { type FrozenReference, isCheckpoint, readCheckpoint } from './folder.ts';
import type { ConfigShapes } from './hf_config.ts';
import { localPath } from './hub.ts';
import { type Part, partOf } from './names.ts';
import { readSafetensors } from './safetensors.ts';
import { openWeights, type Weights } from './weights.ts';

export interface WholeModel {
  /** The shapes that the folder's own config.json gives. */
  config: ConfigShapes | null;
  /** The weights that hold each part; absent where the model lacks it. */
  parts: { [part in Part]?: Weights };
  tokenizerFolder: string | null;
}

/**
 * Opens a whole model: a Hugging Face LLaVA folder, or one of neva's checkpoint folders, whose frozen parts are found through
 * the references that it carries. A reference that leads nowhere is a user error naming the part.
 */
export function openWhole(path: string): WholeModel {
  const folder = localPath(path);
  const own = openWeights(folder);
  const parts: WholeModel['parts'] = {};
  for (const part of ['llm', 'vision', 'projector'] as const) if (own.has(part)) parts[part] = own;
  if (!isCheckpoint(folder)) return { config: own.config, parts, tokenizerFolder: own.tokenizerFolder };
  for (const { part, path, fingerprint, included } of readCheckpoint(folder).frozen) {
    if (included) continue;
    if (!existsSync(path)) {
      throw mistake({
        where: folder,
        problem: `its ${part} did not train and was left where it was, but is no longer there`,
        expected: path,
        fix: `put it back, or correct the path under "frozen" in ${join(folder, 'state.json')}`,
      });
    }
    const weights = openWeights(path);
    if (referTo(part, weights).fingerprint !== fingerprint) {
      throw mistake({
        where: path,
        problem: `the ${part} has changed since ${folder} was saved`,
        expected: 'the weights that this checkpoint was trained with',
        found: 'others',
        fix: `put the former ones back, or correct the path under "frozen" in ${join(folder, 'state.json')}`,
      });
    }
    parts[part] = weights;
  }
  return { config: own.config, parts, tokenizerFolder: own.tokenizerFolder };
}

/**
 * Adds the tower to a LLaVA whose weights lack it: from `path`, or from where the model says that it had it.
 * The choice of hidden state stays the model's.
 */
export function addTower(whole: WholeModel, path: string | null): void {
  const { config, parts } = whole;
  const source = path ?? config?.visionTower;
  // LLaVA's own folders may hold the tower's weights, and give its shape only by its name.
  if (!source || (parts.vision && (!config || config.vision))) return;
  const tower = openWeights(source);
  parts.vision ??= tower;
  const vision = tower.config?.vision;
  if (config && vision) config.vision = { ...vision, ...config.feature };
}

/** Puts the moving averages of a checkpoint of neva's in the place of the weights that they follow. */
export function useAverages(whole: WholeModel, folder: string): void {
  const file = join(folder, 'ema.safetensors');
  if (!existsSync(file)) {
    throw mistake({
      where: folder,
      problem: 'it holds no moving average of its weights',
      expected: 'ema.safetensors, which a run with exp_manager.ema.enable=true saves',
      fix: 'leave --ema out',
    });
  }
  const averages = readSafetensors(file).entries;
  for (const part of ['llm', 'vision', 'projector'] as const) {
    const weights = whole.parts[part];
    if (!weights) continue;
    const entries = new Map([...weights.entries].map(([name, entry]) => [name, averages.get(name) ?? entry]));
    whole.parts[part] = { ...weights, entries };
  }
}

/** Whether a path names a model itself, and no run or experiment that has one in its checkpoints. */
export function isModel(path: string): boolean {
  return statSync(path).isFile() || ['config.json', 'model_config.yaml'].some((name) => existsSync(join(path, name)));
}

/** What a checkpoint notes of a part that did not train. */
export function referTo(part: Part, weights: Weights): FrozenReference {
  const own = new Map([...weights.entries].filter(([name]) => partOf(name) === part));
  return { part, path: weights.path, fingerprint: fingerprintOf(own) };
}
