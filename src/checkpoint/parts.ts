/** Where each part of a model comes from, when a path names a whole one. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { mistake } from '../errors.ts';
import { fingerprintOf } from './fingerprint.ts';
import { type FrozenReference, isCheckpoint, readCheckpoint } from './folder.ts';
import type { ConfigShapes } from './hf_config.ts';
import { type Part, partOf } from './names.ts';
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
export function openWhole(folder: string): WholeModel {
  const own = openWeights(folder);
  const parts: WholeModel['parts'] = {};
  for (const part of ['llm', 'vision', 'projector'] as const) if (own.has(part)) parts[part] = own;
  if (!isCheckpoint(folder)) return { config: own.config, parts, tokenizerFolder: own.tokenizerFolder };
  for (const { part, path, fingerprint } of readCheckpoint(folder).frozen) {
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

/** What a checkpoint notes of a part that did not train. */
export function referTo(part: Part, weights: Weights): FrozenReference {
  const own = new Map([...weights.entries].filter(([name]) => partOf(name) === part));
  return { part, path: weights.path, fingerprint: fingerprintOf(own) };
}
