/** Weights on disk under neva's own names, whatever layout the files have; values stay on disk until they are loaded. */
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { DType, Engine, Tensor } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { cutOut, type WeightSource } from '../model/parameters.ts';
import { widen } from './cast.ts';
import { FROZEN } from './folder.ts';
import { type ConfigShapes, readConfigShapes } from './hf_config.ts';
import { localPath } from './hub.ts';
import { type Part, partOf, readName } from './names.ts';
import { openNemo } from './nemo.ts';
import type { NemoForm } from './nemo_merge.ts';
import { readTensor } from './pieces.ts';
import { fileEntries, folderEntries } from './raw.ts';
import { readSafetensors, type TensorEntry } from './safetensors.ts';

export interface Weights {
  /** The folder or file that was opened, absolute. */
  readonly path: string;
  /** What config.json beside the weights says; null where there is none. */
  readonly config: ConfigShapes | null;
  /** Own name → where it lies. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  has(part: Part): boolean;
  /** One part's weights, to be loaded as `dtype` (float32 unless said); mapped without a copy where the file has it. */
  source(engine: Engine, part: Part, dtype?: DType): WeightSource;
  /** The folder that holds the tokenizer, or null. */
  readonly tokenizerFolder: string | null;
  /** How NeMo wrote it, where it did. */
  readonly nemo?: NemoForm;
}

/**
 * Opens what a path or a name of the hub stands for: a Hugging Face or LLaVA folder, one of neva's checkpoint folders, a single
 * file of safetensors or torch.save, a `.nemo` archive (tar, gzipped, or unpacked), a Lightning checkpoint of NeMo's.
 */
export function openWeights(path: string): Weights {
  const absolute = localPath(path);
  const nemo = openNemo(absolute);
  if (nemo) return { ...weightsOf(absolute, nemo.config, nemo.entries, nemo.tokenizerFolder), nemo: nemo.form };
  const isFolder = statSync(absolute).isDirectory();
  const folder = isFolder ? absolute : dirname(absolute);
  const entries = ownEntries(path, isFolder ? folderEntries(absolute) : fileEntries(absolute));
  // Of a checkpoint of neva's: parts that did not train. Tokens that were added have no rows there.
  const frozenFile = isFolder ? join(absolute, FROZEN) : null;
  const frozen =
    frozenFile && existsSync(frozenFile) ? readSafetensors(frozenFile).entries : new Map<string, TensorEntry>();
  for (const [name, entry] of frozen) entries.set(name, entry);
  const tokenizer = ['tokenizer.json', 'tokenizer.model'].some((name) => existsSync(join(folder, name)));
  const rows = frozen.get('language_model.model.embed_tokens.weight')?.shape[0];
  return weightsOf(absolute, isFolder ? readConfigShapes(absolute) : null, entries, tokenizer ? folder : null, rows);
}

function weightsOf(
  path: string,
  config: ConfigShapes | null,
  entries: Weights['entries'],
  tokenizerFolder: string | null,
  rows?: number,
): Weights {
  const parts = new Set([...entries.keys()].map(partOf));
  return {
    path,
    config,
    entries,
    tokenizerFolder,
    has: (part) => parts.has(part),
    source: (engine, part, dtype = 'float32') => ({
      ...partSource(engine, path, entries, part, dtype),
      vocabSize: rows ?? config?.llm?.vocabSize ?? null,
    }),
  };
}

/** Entries under neva's names, from those of any layout of Hugging Face's or LLaVA's. */
function ownEntries(path: string, raw: ReadonlyMap<string, TensorEntry>): Map<string, TensorEntry> {
  const entries = new Map<string, TensorEntry>();
  const unknown: string[] = [];
  for (const [name, entry] of raw) {
    const reading = readName(name);
    if (reading === null) unknown.push(`${name} [${entry.shape.join(', ')}]`);
    if (reading === null || 'dropped' in reading) continue;
    const twin = entries.get(reading.name);
    if (twin) throw mistake({ where: path, problem: `${twin.name} and ${name} are the same weight` });
    entries.set(reading.name, entry);
  }
  refuseUnknown(path, unknown);
  return entries;
}

/** Tensors of no known model, told in one table. */
function refuseUnknown(path: string, unknown: readonly string[]): void {
  if (unknown.length === 0) return;
  const more = unknown.length > 12 ? [`… and ${unknown.length - 12} more`] : [];
  throw mistake({
    where: path,
    problem: 'it has tensors that belong to no model that neva knows',
    expected: 'LLaMA, CLIP or LLaVA in any of their layouts, or a projector',
    found: [...unknown.slice(0, 12), ...more].join('\n            '),
  });
}

function partSource(
  engine: Engine,
  path: string,
  entries: Weights['entries'],
  part: Part,
  wanted: DType,
): Omit<WeightSource, 'vocabSize'> {
  return {
    path,
    names: [...entries.keys()].filter((name) => partOf(name) === part),
    shapeOf: (name) => entries.get(name)?.shape ?? null,
    load: (name, shard) =>
      engine.scope(() => {
        // Mapped, so that no more than the stretch is ever read of the file.
        const stored = cutOut(engine, load(engine, entries.get(name)!), shard);
        return stored.dtype === wanted ? stored : engine.cast(stored, wanted);
      }),
  };
}

/** A tensor as it is stored: mapped where it is one run of a file, put together in memory elsewhere. */
export function load(engine: Engine, entry: TensorEntry): Tensor {
  const { file, offset, shape, dtype } = entry;
  if (!entry.pieces) return engine.fromFile(file, offset, shape, dtype);
  return engine.tensor(widen(readTensor(entry), dtype), shape, dtype);
}
