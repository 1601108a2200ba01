/** What a model holds, for comparing layouts: own name → type, shape and bytes. */
import assert from 'node:assert/strict';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import type { TensorEntry } from '../../src/checkpoint/safetensors.ts';

export type Contents = Map<string, { dtype: string; shape: readonly number[]; bytes: Buffer }>;

export const contentsOf = (entries: ReadonlyMap<string, TensorEntry>): Contents =>
  new Map(
    [...entries].map(([name, entry]) => [
      name,
      { dtype: entry.dtype, shape: entry.shape, bytes: Buffer.from(readTensor(entry)) },
    ]),
  );

/** Every tensor of `expected` whose name `keep` accepts is in `found`, bit for bit, and there is no other. */
export function assertSame(found: Contents, expected: Contents, keep: (name: string) => boolean = () => true): void {
  const names = [...expected.keys()].filter(keep);
  assert.deepEqual([...found.keys()].sort(), names.sort());
  for (const name of names) {
    const [a, b] = [found.get(name)!, expected.get(name)!];
    assert.deepEqual([a.dtype, a.shape], [b.dtype, b.shape], name);
    assert.ok(a.bytes.equals(b.bytes), `${name} differs`);
  }
}
