/** Reading test/fixtures: JSON, and tensors of a safetensors file into an engine. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import type { Engine, Tensor } from '../../src/engine/engine.ts';
import { packageRoot } from '../../src/root.ts';

export const fixture = (name: string): string => join(packageRoot, 'test/fixtures', name);

export const readJson = (name: string) => JSON.parse(readFileSync(fixture(name), 'utf8'));

export interface TensorFile {
  names: string[];
  has(name: string): boolean;
  load(name: string): Tensor;
  values(name: string): ArrayLike<number>;
}

export function tensorFile(engine: Engine, name: string): TensorFile {
  const path = fixture(name);
  const { entries } = readSafetensors(path);
  const load = (tensor: string): Tensor => {
    const entry = entries.get(tensor);
    if (!entry) throw new Error(`${name} has no tensor "${tensor}"`);
    return engine.fromFile(path, entry.offset, entry.shape, entry.dtype);
  };
  return {
    names: [...entries.keys()],
    has: (tensor) => entries.has(tensor),
    load,
    values: (tensor) => {
      const loaded = load(tensor);
      const values = engine.read(loaded);
      loaded.dispose();
      return values;
    },
  };
}
