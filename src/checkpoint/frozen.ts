/**
 * Weights that do not train, kept by the run itself (exp_manager.checkpoint_callback_params.save_frozen_weights): one file beside the checkpoints,
 * written when the run begins, of which every checkpoint has a hard link. It takes its room once, and a checkpoint can be moved on its own.
 */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { FrozenReference } from './folder.ts';
import { entryOfFile, type ManifestEntry } from './manifest.ts';
import { type Part, partOf } from './names.ts';
import { readTensor, streamTensor } from './pieces.ts';
import { type TensorToWrite, writeSafetensors } from './safetensors.ts';
import type { Weights } from './weights.ts';
import { requireSpace } from './write_folder.ts';

export interface FrozenCopy {
  path: string;
  entry: ManifestEntry;
}

/** Writes the weights of `references` into `dir`, unless they are there. Values are the bits of their files. */
export function keepFrozen(
  dir: string,
  references: readonly FrozenReference[],
  weightsOf: (part: Part) => Weights,
): FrozenCopy {
  const label = createHash('sha256')
    .update(references.map(({ fingerprint }) => fingerprint).join())
    .digest('hex');
  const path = join(dir, `frozen-${label.slice(0, 16)}.safetensors`);
  if (existsSync(path)) return { path, entry: entryOfFile(path) };
  mkdirSync(dir, { recursive: true });
  // What an interrupted start left.
  for (const name of readdirSync(dir)) if (/^frozen-.*\.partial$/.test(name)) rmSync(join(dir, name), { force: true });
  const tensors = references.flatMap(({ part }) =>
    [...weightsOf(part).entries].flatMap(([name, entry]): TensorToWrite[] => {
      if (partOf(name) !== part) return [];
      const { dtype, shape } = entry;
      return [{ name, dtype, shape, data: () => readTensor(entry), stream: (take) => streamTensor(entry, take) }];
    }),
  );
  requireSpace(
    dir,
    references.reduce((sum, { part }) => sum + bytesOf(weightsOf(part), part), 0),
  );
  return { path, entry: writeSafetensors(path, tensors) };
}

const bytesOf = ({ entries }: Weights, part: Part): number =>
  [...entries].reduce((sum, [name, { nbytes }]) => sum + (partOf(name) === part ? nbytes : 0), 0);
