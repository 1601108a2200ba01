/** Models in several files, with an index of which tensor is in which. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { mistake } from '../errors.ts';
import { isStringRecord, readSafetensors, type TensorEntry } from './safetensors.ts';

/**
 * Reads the headers of a sharded model from its `*.index.json`.
 * Shards are looked for beside the index only: a name with a folder in it is refused.
 * @param read what reads one shard
 */
export function readShardIndex(
  indexFile: string,
  read = (file: string): ReadonlyMap<string, TensorEntry> => readSafetensors(file).entries,
): Map<string, TensorEntry> {
  let index: unknown;
  try {
    index = JSON.parse(readFileSync(indexFile, 'utf8'));
  } catch (error) {
    throw mistake({ where: indexFile, problem: 'not valid JSON', found: (error as Error).message });
  }
  const map = (index as { weight_map?: unknown } | null)?.weight_map;
  if (!isStringRecord(map))
    throw mistake({ where: indexFile, problem: 'weight_map must map tensor names to file names' });
  const shards = new Map<string, ReadonlyMap<string, TensorEntry>>();
  const entries = new Map<string, TensorEntry>();
  for (const [name, shard] of Object.entries(map)) {
    if (shard !== basename(shard) || shard === '..') {
      throw mistake({ where: indexFile, problem: `shard ${JSON.stringify(shard)} lies outside the model's folder` });
    }
    const file = join(dirname(indexFile), shard);
    if (!shards.has(shard)) {
      if (!existsSync(file)) {
        throw mistake({
          where: file,
          problem: 'a shard named in the index is missing',
          fix: 'fetch the rest of the model',
        });
      }
      shards.set(shard, read(file));
    }
    const entry = shards.get(shard)!.get(name);
    if (entry === undefined) {
      throw mistake({ where: file, problem: `tensor ${name} is not here, although ${basename(indexFile)} says so` });
    }
    entries.set(name, entry);
  }
  return entries;
}
