/** Writes NeMo's archives: LLaMA, CLIP, NeVA or a projector alone, for any tensor and pipeline parallel size. */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Header } from 'tar';
import { mistake } from '../errors.ts';
import { rotaryFrequencies } from '../model/rotary.ts';
import { blockOf, type LlmShape, type NevaShape } from '../model/shapes.ts';
import { writeName } from './names.ts';
import { writeNemoConfig } from './nemo_config.ts';
import { adapterPrefix, llmWeights, type NemoNames, type NemoWeight, visionWeights } from './nemo_layout.ts';
import { type Heads, headsOf, ownTensors, shardShape, splitShard } from './nemo_shards.ts';
import { OutFile } from './out_file.ts';
import { madeEntry } from './pieces.ts';
import type { TensorEntry, TensorToWrite } from './safetensors.ts';
import { planTorchFile } from './torch_write.ts';

export interface NemoOutput {
  names: NemoNames;
  tp: number;
  pp: number;
  /** What is written: any of the language model, the projector, and the tower alone. */
  shape: Partial<NevaShape>;
  parts: { llm: boolean; vision: boolean; projector: boolean };
  /** Own name → where it lies. */
  entries: ReadonlyMap<string, TensorEntry>;
  visionTower: string | null;
  /** A SentencePiece model to go into the archive. */
  tokenizer: string | null;
}

type ToTensor = (entry: TensorEntry) => TensorToWrite;

interface ArchiveFile {
  name: string;
  nbytes: number;
  write(out: OutFile): void;
}

/**
 * Writes an archive as a tar at `path`, or as a folder. `toTensor` gives the bytes of an entry, converted where another type
 * was asked for; it is called when their turn has come. Returns how many tensors and bytes were written.
 */
export function writeNemo(
  path: string,
  form: 'tar' | 'folder',
  output: NemoOutput,
  toTensor: ToTensor,
): { tensors: number; bytes: number } {
  refuseUneven(output);
  const { tp, pp, tokenizer } = output;
  const artifact = tokenizer && readFileSync(tokenizer);
  // NeMo puts 32 hexadecimal digits before every file of its own.
  const artifactName =
    artifact && `${createHash('sha256').update(artifact).digest('hex').slice(0, 32)}_tokenizer.model`;
  const { llm, vision, projector } = output.shape;
  const config = writeNemoConfig({
    shape: {
      ...(output.parts.vision ? { vision } : { llm, vision }),
      ...(output.parts.projector ? { projector } : {}),
    },
    names: output.names,
    tp,
    pp,
    divisibleBy: llm ? divisor(llm.vocabSize) : 1,
    visionTower: output.visionTower,
    tokenizer: artifactName,
  });
  const files = [fixedFile('model_config.yaml', Buffer.from(config))];
  if (artifact && artifactName) files.push(fixedFile(artifactName, artifact));
  let tensors = 0;
  for (let stage = 0; stage < pp; stage++) {
    for (let rank = 0; rank < tp; rank++) {
      const list = rankEntries(output, rank, stage).map(toTensor);
      tensors += list.length;
      files.push({ name: rankFile(output, rank, stage), ...planTorchFile(list) });
    }
  }
  const bytes = form === 'tar' ? writeTar(path, files) : writeFolder(path, files);
  return { tensors, bytes };
}

function rankFile({ tp, pp }: NemoOutput, rank: number, stage: number): string {
  const two = String(rank).padStart(2, '0');
  if (tp * pp === 1) return 'model_weights.ckpt';
  const folder = pp === 1 ? `mp_rank_${two}` : `tp_rank_${two}_pp_rank_${String(stage).padStart(3, '0')}`;
  return `${folder}/model_weights.ckpt`;
}

/** The converters' rule: the largest power of two, at most 128, that divides the vocabulary. */
function divisor(vocabSize: number): number {
  let power = 128;
  while (vocabSize % power !== 0) power /= 2;
  return power;
}

export function paddedVocabulary(vocabSize: number, tp: number): number {
  const multiple = divisor(vocabSize) * tp;
  return Math.ceil(vocabSize / multiple) * multiple;
}

function weightsOf({ names, shape, parts }: NemoOutput): { weights: NemoWeight[]; layers: number; heads: Heads } {
  const { llm, vision } = shape;
  if (parts.llm) return { weights: llmWeights(names, llm!), layers: llm!.numLayers, heads: llm! };
  if (!parts.vision) return { weights: [], layers: 0, heads: llm! };
  return { weights: visionWeights(vision!), layers: vision!.numLayers, heads: headsOf(vision!) };
}

function refuseUneven(output: NemoOutput): void {
  const { tp, pp, shape, parts } = output;
  const { weights, layers, heads } = weightsOf(output);
  const uneven = weights.find((weight) => shardShape(weight, tp, heads) === null);
  if (uneven) {
    throw mistake({
      where: `--tp ${tp}`,
      problem: `${uneven.nemo} of [${uneven.shape.join(', ')}] cannot be split over ${tp} ranks`,
      fix: 'choose a divisor of the query groups (without groups: of the attention heads) and of the MLP width',
    });
  }
  if (layers % pp !== 0 || (pp > 1 && !parts.llm)) {
    throw mistake({ where: `--pp ${pp}`, problem: `${layers} blocks cannot be split over ${pp} pipeline stages` });
  }
  if (pp > 1 && (shape.llm as LlmShape).tiedEmbeddings) {
    throw mistake({ where: `--pp ${pp}`, problem: 'a model whose head is its embedding is not split over stages' });
  }
}

/** The tensors of one rank, under NeMo's names. */
function rankEntries(output: NemoOutput, rank: number, stage: number): TensorEntry[] {
  const { tp, pp, shape, parts, entries, names } = output;
  const { weights, layers, heads } = weightsOf(output);
  const paddedRows = shape.llm ? paddedVocabulary(shape.llm.vocabSize, tp) : 0;
  const perStage = layers / pp;
  const made: TensorEntry[] = [];
  const add = (weight: NemoWeight, name: string, layer: number) => {
    const own = ownTensors(weight, layer, heads).map((wanted) => entryOf(entries, wanted));
    made.push(splitShard(weight, `model.${name}`, own, { tp, rank, heads, paddedRows }));
  };
  const [first, last] = [stage === 0, stage === pp - 1];
  for (const weight of weights.filter(({ nemo }) => !nemo.includes('{L}'))) {
    // Of what stands outside the blocks, the embedding begins the model, and the rest of a language model ends it.
    const here = parts.vision || (weight.nemo.includes('embedding') ? first : last);
    if (here) add(weight, weight.nemo, 0);
  }
  for (let i = 0; i < perStage; i++) {
    for (const weight of weights.filter(({ nemo }) => nemo.includes('{L}'))) {
      add(weight, weight.nemo.replace('{L}', String(i)), stage * perStage + i);
    }
  }
  // A buffer that NeMo's own GPTModel expects in its files; Megatron-core computes it.
  if (parts.llm && names === 'legacy' && blockOf(shape.llm!).positions === 'rope') {
    made.push(inverseFrequencies(shape.llm!));
  }
  if (parts.projector && first) {
    const linear = shape.projector?.type === 'linear';
    for (const [name, entry] of entries) {
      if (!name.startsWith('multi_modal_projector.')) continue;
      const suffix = writeName(name, 'part', linear).replace('model.mm_projector.', '');
      made.push({ ...entry, name: `model.${adapterPrefix(names)}${suffix}` });
    }
  }
  return made;
}

/** [R/2], not stretched: NeMo divides the positions. */
function inverseFrequencies({ rotaryScaling: _, ...shape }: LlmShape): TensorEntry {
  const values = rotaryFrequencies(shape);
  const name = 'model.language_model.rotary_pos_emb.inv_freq';
  return madeEntry(name, 'float32', [values.length], new Uint8Array(values.buffer));
}

function entryOf(
  entries: ReadonlyMap<string, TensorEntry>,
  { name, shape }: { name: string; shape: readonly number[] },
): TensorEntry {
  const entry = entries.get(name);
  if (entry?.shape.join() === shape.join()) return entry;
  throw mistake({
    where: entry?.file ?? name,
    problem: `${name} is not what the configuration says`,
    expected: `[${shape.join(', ')}]`,
    found: entry ? `[${entry.shape.join(', ')}]` : 'missing',
  });
}

const fixedFile = (name: string, bytes: Buffer): ArchiveFile => ({
  name,
  nbytes: bytes.length,
  write: (out) => out.write(bytes),
});

function intoFile(path: string, nbytes: number, write: (out: OutFile) => void): number {
  const out = new OutFile(path, nbytes);
  try {
    write(out);
    out.finish();
    return out.position;
  } catch (error) {
    out.abandon();
    throw error;
  }
}

function writeFolder(folder: string, files: readonly ArchiveFile[]): number {
  let bytes = 0;
  for (const { name, nbytes, write } of files) {
    const path = join(folder, name);
    mkdirSync(dirname(path), { recursive: true });
    bytes += intoFile(path, nbytes, write);
  }
  return bytes;
}

const BLOCK = 512;

/** Uncompressed, with names that begin with `./`, as NeMo looks them up. */
function writeTar(path: string, files: readonly ArchiveFile[]): number {
  const header = (name: string, type: 'File' | 'Directory', size: number): Buffer => {
    const block = Buffer.alloc(BLOCK);
    new Header({ path: `./${name}`, type, size, mode: type === 'File' ? 0o644 : 0o755, mtime: new Date(0) }).encode(
      block,
    );
    return block;
  };
  const total = files.reduce((sum, { nbytes }) => sum + nbytes, 0);
  return intoFile(path, total, (out) => {
    const folders = new Set<string>();
    for (const { name, nbytes, write } of files) {
      const folder = dirname(name);
      if (folder !== '.' && !folders.has(folder)) out.write(header(`${folder}/`, 'Directory', 0));
      folders.add(folder);
      out.write(header(name, 'File', nbytes));
      write(out);
      out.write(Buffer.alloc((BLOCK - (nbytes % BLOCK)) % BLOCK));
    }
    out.write(Buffer.alloc(2 * BLOCK));
  });
}
