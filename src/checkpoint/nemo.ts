/** Models of NeMo under neva's names: archives of LLaMA, CLIP and NeVA, and Lightning checkpoints, at any parallel size. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PbfReader } from 'pbf';
import { parse } from 'yaml';
import { mistake } from '../errors.ts';
import type { ConfigShapes } from './hf_config.ts';
import { readName } from './names.ts';
import { checkpointRanks, isArchive, openArchive, type RankFile, temporaryFolder } from './nemo_archive.ts';
import { type NemoConfig, parseNemoConfig, readNemoConfig } from './nemo_config.ts';
import { adapterName, isIgnored, isNemoName, llmWeights, type NemoWeight, visionWeights } from './nemo_layout.ts';
import { fitsShard, type Heads, mergeShards, shardShape } from './nemo_shards.ts';
import { fileKind } from './raw.ts';
import type { TensorEntry } from './safetensors.ts';
import { readTorchFile, type TorchFile } from './torch_zip.ts';
import { type Region, readRegion } from './zip.ts';

export interface NemoModel {
  /** Own name → where it lies. */
  entries: Map<string, TensorEntry>;
  config: ConfigShapes;
  tokenizerFolder: string | null;
}

/** More than any configuration or SentencePiece model has. */
const TEXT_LIMIT = 1 << 20;
const TOKENIZER_LIMIT = 64 << 20;

/** The model at a path, or null where it is none of NeMo's. Damage and contradictions are user errors. */
export function openNemo(path: string): NemoModel | null {
  if (isArchive(path)) {
    const { files, ranks } = openArchive(path);
    const where = `${path}: model_config.yaml`;
    const config = parseNemoConfig(readRegion(files.get('model_config.yaml')!, where, TEXT_LIMIT).toString(), where);
    const tokenizer = config.tokenizer ? files.get(config.tokenizer) : undefined;
    return merge(path, config, loadRanks(ranks), tokenizer ?? null);
  }
  if (statSync(path).isDirectory() || fileKind(path) !== 'torch') return null;
  const own = readTorchFile({ file: path, offset: 0, nbytes: statSync(path).size });
  if (![...own.entries.keys()].some(isNemoName)) return null;
  const config = own.config ? readNemoConfig(own.config, `${path}: hyper_parameters`) : hparams(path);
  return merge(path, config, loadRanks(checkpointRanks(path)), null);
}

/** The configuration that NeMo's logger leaves above the folder of checkpoints. */
function hparams(path: string): NemoConfig {
  for (let folder = dirname(path), up = 0; up < 4; folder = dirname(folder), up++) {
    const file = join(folder, 'hparams.yaml');
    if (!existsSync(file)) continue;
    const whole = parse(readFileSync(file, 'utf8'), { maxAliasCount: 100, logLevel: 'error' }) as {
      cfg?: unknown;
    } | null;
    return readNemoConfig(whole?.cfg ?? whole, file);
  }
  throw mistake({
    where: path,
    problem: "NeMo's weights without a configuration, which tells how they are fused",
    expected: 'hyper_parameters in the file, or hparams.yaml in a folder above it',
    fix: 'put hparams.yaml of the run beside it, or use the .nemo archive',
  });
}

interface Rank extends RankFile {
  file: TorchFile;
}

const loadRanks = (ranks: readonly RankFile[]): Rank[] =>
  ranks.map((rank) => ({ ...rank, file: readTorchFile(rank.region, rank.where) }));

/** Shards by NeMo's name after `model.`, in the order of tensor-parallel ranks; blocks counted over all stages. */
function collect(
  path: string,
  ranks: readonly Rank[],
  numLayers: number,
): { tp: number; shards: Map<string, TensorEntry[]> } {
  const tp = Math.max(...ranks.map((rank) => rank.tp)) + 1;
  const pp = Math.max(...ranks.map((rank) => rank.pp)) + 1;
  if (numLayers % pp !== 0) {
    throw mistake({ where: path, problem: `${numLayers} blocks cannot have been split over ${pp} pipeline stages` });
  }
  const shards = new Map<string, TensorEntry[]>();
  for (const rank of [...ranks].sort((a, b) => a.pp - b.pp || a.tp - b.tp)) {
    for (const [name, entry] of rank.file.entries) {
      const nemo = name.replace(/^model\.(?:module\.)?/, '');
      if (isIgnored(nemo)) continue;
      // Every stage counts its blocks from 0.
      const first = (rank.pp * numLayers) / pp;
      const whole = nemo.replace(/(?<=\blayers\.)\d+/, (number) => String(Number(number) + first));
      const list = shards.get(whole) ?? [];
      // Tied weights stand in the first stage and in the last.
      if (list.length === rank.tp) shards.set(whole, [...list, entry]);
    }
  }
  return { tp, shards };
}

function merge(path: string, config: NemoConfig, ranks: readonly Rank[], tokenizer: Region | null): NemoModel {
  const numLayers = config.llm?.numLayers ?? config.vision?.numLayers ?? 1;
  const { tp, shards } = collect(path, ranks, numLayers);
  const problems: string[] = [];
  const entries = new Map<string, TensorEntry>();
  const shapes: ConfigShapes = { kind: config.projector ? 'llava' : config.llm ? 'llama' : 'clip' };
  if (config.feature) shapes.feature = config.feature;
  if (config.visionTower) shapes.visionTower = config.visionTower;

  const names = [...shards.keys()].some((name) => name.startsWith('language_model.')) ? 'legacy' : 'mcore';
  const embedding = shards.get(`${names === 'legacy' ? 'language_model.' : ''}embedding.word_embeddings.weight`);
  if (config.llm && embedding) {
    const rows = (embedding[0]?.shape[0] ?? 0) * tp;
    const known = config.vocabSize ?? (tokenizer && countPieces(tokenizer, path)) ?? rows;
    shapes.llm = { ...config.llm, vocabSize: Math.min(known, rows) };
    const separateUp = [...shards.keys()].some((name) => name.endsWith('mlp.dense_h_to_4h_2.weight'));
    take(llmWeights(names, shapes.llm, separateUp), numLayers, shapes.llm);
  }
  if (config.projector) {
    const outputSize = config.llm?.hiddenSize ?? 0;
    shapes.projector = { ...config.projector, outputSize };
  }
  if (config.vision) {
    shapes.vision = config.vision;
    const headDim = config.vision.hiddenSize / config.vision.numAttentionHeads;
    const heads = { numAttentionHeads: config.vision.numAttentionHeads, numQueryGroups: 1, headDim };
    take(visionWeights(config.vision), numLayers, heads);
  }
  for (const [name, list] of shards) takeModule(name, list[0]!);
  refuse(path, problems);
  if (entries.size === 0) throw mistake({ where: path, problem: 'there are no weights in it', fix: 'save it again' });
  return { entries, config: shapes, tokenizerFolder: tokenizer ? extractTokenizer(tokenizer, path) : null };

  function take(weights: readonly NemoWeight[], layers: number, heads: Heads): void {
    for (const weight of weights) {
      const count = weight.nemo.includes('{L}') ? layers : 1;
      for (let layer = 0; layer < count; layer++) {
        const [name, also] = [weight.nemo, weight.also].map((n) => n?.replace('{L}', String(layer)));
        const found = shards.get(name!) ? name! : also && shards.get(also) ? also : null;
        const list = found ? shards.get(found)! : [];
        if (!found || list.length !== tp) problems.push(`${name}: missing on ${tp - list.length} of ${tp} ranks`);
        else if (list.every(({ shape }) => fitsShard(weight, shape, tp, heads))) {
          for (const entry of mergeShards(weight, layer, list, heads)) entries.set(entry.name, entry);
        } else {
          const expected = shardShape(weight, tp, heads);
          const shown = expected ? `[${expected.join(', ')}]` : `what can be split over ${tp} ranks`;
          problems.push(`${found}: [${list[0]!.shape.join(', ')}] in the file, ${shown} by the configuration`);
        }
        if (found) shards.delete(found);
      }
    }
  }

  /** Modules that every rank has whole, under torch's names: the projector, and a tower of Hugging Face's that trained. */
  function takeModule(name: string, entry: TensorEntry): void {
    const tower = /\.word_embeddings\.vision_encoder\.(.+)$/.exec(name);
    const reading = readName(adapterName(name) ?? tower?.[1] ?? '');
    if (reading === null) problems.push(`${name}: [${entry.shape.join(', ')}], not a weight of the configured model`);
    else if ('name' in reading) entries.set(reading.name, { ...entry, name: reading.name });
  }
}

function refuse(path: string, problems: readonly string[]): void {
  if (problems.length === 0) return;
  const more = problems.length > 12 ? [`… and ${problems.length - 12} more`] : [];
  throw mistake({
    where: path,
    problem: 'its configuration contradicts its weights',
    found: [...problems.slice(0, 12), ...more].join('\n            '),
    fix: 'correct model_config.yaml, or use the archive that belongs to it',
  });
}

/** Pieces of a SentencePiece model: field 1 of its message. */
function countPieces(region: Region, path: string): number {
  const where = `${path}: tokenizer`;
  try {
    const bytes = readRegion(region, where, TOKENIZER_LIMIT);
    return new PbfReader(bytes).readFields((tag, count: { pieces: number }) => void (tag === 1 && count.pieces++), {
      pieces: 0,
    }).pieces;
  } catch (error) {
    throw mistake({ where, problem: 'not a SentencePiece model', found: (error as Error).message });
  }
}

/** A folder with the archive's tokenizer under the name that tokenizers have. */
function extractTokenizer(region: Region, path: string): string {
  const folder = temporaryFolder('tokenizer');
  writeFileSync(join(folder, 'tokenizer.model'), readRegion(region, `${path}: tokenizer`, TOKENIZER_LIMIT));
  return folder;
}
