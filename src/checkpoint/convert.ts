/** Rewrites a model in another layout, tensor by tensor: memory is bounded by the largest one. */
import { copyFileSync, existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { mistake } from '../errors.ts';
import { besideName, syncFolder, writeFileAtomic } from '../files.ts';
import type { NevaShape } from '../model/shapes.ts';
import { castFloats, type Float } from './cast.ts';
import { tokenizerFiles } from './folder.ts';
import { type ConfigShapes, originalConfig, visionConfig, writeConfig } from './hf_config.ts';
import { llmConfig } from './hf_llm.ts';
import { imageTokenOf } from './image_token.ts';
import { type Layout, type Part, partOf, writeName } from './names.ts';
import { type NemoOutput, writeNemo } from './nemo_write.ts';
import { addTower, openWhole, useAverages, type WholeModel } from './parts.ts';
import { readTensor, streamTensor } from './pieces.ts';
import type { TensorEntry, TensorToWrite } from './safetensors.ts';
import { writeModel } from './write_model.ts';

export interface ConvertOptions {
  /** Anything that `openWeights` opens. */
  from: string;
  to: 'hf' | 'hf-new' | 'llava' | 'nemo' | 'nemo-mcore';
  out: string;
  part: 'all' | Part;
  /** null keeps every tensor's own. */
  dtype: Float | null;
  /** Tensor and pipeline parallel sizes of NeMo's archive; 1 elsewhere. */
  tp: number;
  pp: number;
  /** Hugging Face's layouts and LLaVA's: weights are cut into files of at most so many bytes; one file unless given. */
  maxShardBytes?: number;
  /** Moving averages in the place of the weights; of a checkpoint of neva's. */
  ema?: boolean;
  /** Told after every tensor: bytes written, and bytes in all. */
  onProgress?: (done: number, total: number) => void;
}

export interface Converted {
  tensors: number;
  bytes: number;
  /** What the reader of the result should know. */
  notes: string[];
}

/** Nothing stands at `out` until all of it is there; an existing `out` is refused. */
export function convert(asked: ConvertOptions): Converted {
  const out = resolve(asked.out);
  if (existsSync(out)) {
    throw mistake({ where: asked.out, problem: 'there is something already', fix: 'name what does not exist yet' });
  }
  const isNemo = asked.to === 'nemo' || asked.to === 'nemo-mcore';
  if (!isNemo && asked.tp * asked.pp !== 1) {
    throw mistake({ where: '--tp, --pp', problem: `${asked.to} is not split`, fix: 'leave them out' });
  }
  const whole = openWhole(asked.from);
  if (asked.ema) useAverages(whole, asked.from);
  const note = untrainedTokens(whole);
  const options = { ...asked, part: asked.part === 'all' ? wholePart(whole) : asked.part };
  const wanted = wantedParts(whole, options, isNemo);
  const beside = besideName(out);
  rmSync(beside, { recursive: true, force: true });
  mkdirSync(dirname(out), { recursive: true });
  try {
    const converted = isNemo ? toNemo(beside, whole, wanted, options) : toHf(beside, whole, wanted, options);
    renameSync(beside, out);
    syncFolder(dirname(out));
    return { ...converted, notes: [...note, ...converted.notes] };
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
}

/**
 * Tokens that were added to a frozen language model have no rows in its files, and neva makes the same ones whenever it loads
 * them: the result is the model as it is, with as many tokens as its embedding has rows.
 */
function untrainedTokens({ config, parts }: WholeModel): string[] {
  const rows = parts.llm?.entries.get('language_model.model.embed_tokens.weight')?.shape[0];
  if (!config?.llm || rows === undefined || rows >= config.llm.vocabSize) return [];
  const missing = config.llm.vocabSize - rows;
  config.llm = { ...config.llm, vocabSize: rows };
  return [
    `${missing} tokens that were added while the language model was frozen have no rows in it: neva makes them as the mean of the others, other programs may refuse them`,
  ];
}

/** What all of a model is: a LLaMA or NVGPT is all language model, a CLIP all tower. */
function wholePart({ config, parts }: WholeModel): 'all' | Part {
  if (config?.kind === 'llm' && !parts.projector) return 'llm';
  return config?.kind === 'clip' && !parts.projector ? 'vision' : 'all';
}

/** The parts that will be written; user errors for those that are not there. */
function wantedParts(whole: WholeModel, { from, to, part }: ConvertOptions, isNemo: boolean): readonly Part[] {
  // NeVA's archives have no tower, and LLaVA's own folder may do without: both name it.
  const namesTower = isNemo || (to === 'llava' && whole.config?.visionTower !== undefined);
  if (part === 'vision' || (part === 'all' && !namesTower)) addTower(whole, null);
  const all = (['llm', 'vision', 'projector'] as const).filter((p) => {
    return p !== 'vision' || (!isNemo && (whole.parts.vision || !namesTower));
  });
  const wanted = part === 'all' ? all : [part];
  const missing = wanted.find((p) => !whole.parts[p]);
  if (missing) throw mistake({ where: from, problem: `it has no ${missing}`, fix: 'choose another --part' });
  return wanted;
}

function toHf(folder: string, whole: WholeModel, wanted: readonly Part[], options: ConvertOptions): Converted {
  const { parts, config, tokenizerFolder } = whole;
  const layout: Layout = options.part === 'all' ? (options.to as Layout) : 'part';
  const linear = config?.projector?.type === 'linear';
  const entries = entriesOf(whole, wanted).map((entry) => ({ ...entry, name: writeName(entry.name, layout, linear) }));
  const toTensor = tensorMaker(
    options,
    entries.reduce((sum, entry) => sum + entry.nbytes, 0),
  );
  const tensors = entries.map(toTensor);
  mkdirSync(folder);
  const { maxShardBytes = Number.POSITIVE_INFINITY } = options;
  const bytes = writeModel(folder, tensors, maxShardBytes);
  const json = configOf(options, config);
  const notes: string[] = [];
  if (json && options.part === 'all' && options.to !== 'llava') {
    const vocabulary = needShape(options.from, config?.llm).vocabSize;
    const token = imageTokenOf(parts.projector?.path ?? null, tokenizerFolder);
    Object.assign(json, { image_token_index: token ?? vocabulary });
    const projector = config?.projector?.type;
    if (projector !== 'mlp2x_gelu') {
      notes.push(`transformers' LLaVA has a projector of two layers and cannot load this one, ${projector}; neva can`);
    }
    if (token === null) {
      notes.push(
        `the tokenizer has no <image>: config.json says image_token_index=${vocabulary}, the first id that is free; in transformers, add the token and resize the embeddings before use`,
      );
    }
  }
  if (json) {
    const dtype = options.dtype ?? tensors[0]!.dtype;
    writeFileAtomic(join(folder, 'config.json'), `${JSON.stringify({ ...json, dtype }, null, 2)}\n`);
  }
  if (wanted.includes('llm') && tokenizerFolder) {
    for (const file of tokenizerFiles(tokenizerFolder)) copyFileSync(file, join(folder, basename(file)));
  }
  const preprocessor = parts.vision && join(parts.vision.path, 'preprocessor_config.json');
  if (preprocessor && existsSync(preprocessor) && wanted.includes('vision')) {
    copyFileSync(preprocessor, join(folder, 'preprocessor_config.json'));
  }
  return { tensors: tensors.length, bytes, notes };
}

function toNemo(path: string, whole: WholeModel, wanted: readonly Part[], options: ConvertOptions): Converted {
  const { config, tokenizerFolder } = whole;
  const notes: string[] = [];
  const has = (part: Part) => wanted.includes(part);
  for (const part of has('vision')
    ? (['vision'] as const)
    : (['llm', ...(has('projector') ? ['projector'] : [])] as const)) {
    needShape(options.from, config?.[part as Part]);
  }
  const sentencePiece = has('llm') && tokenizerFolder ? join(tokenizerFolder, 'tokenizer.model') : null;
  const tokenizer = sentencePiece && existsSync(sentencePiece) ? sentencePiece : null;
  if (has('llm') && !tokenizer) {
    notes.push('there is no tokenizer.model to go into the archive: set model.tokenizer in NeMo');
  }
  if (has('projector') && has('llm')) {
    const tower = config?.visionTower ?? null;
    notes.push(
      tower
        ? `NeVA's archives hold no vision tower: NeMo will look for ${tower}`
        : "NeVA's archives hold no vision tower: write it with --part vision, and set model.mm_cfg.vision_encoder.from_pretrained in NeMo",
    );
  }
  const entries = new Map(entriesOf(whole, wanted).map((entry) => [entry.name, entry]));
  const output: NemoOutput = {
    names: options.to === 'nemo' ? 'legacy' : 'mcore',
    tp: options.tp,
    pp: options.pp,
    shape: config as Partial<NevaShape>,
    parts: { llm: has('llm'), vision: has('vision'), projector: has('projector') },
    entries,
    visionTower: config?.visionTower ?? null,
    tokenizer,
  };
  const form = options.out.endsWith('.nemo') ? 'tar' : 'folder';
  const total = [...entries.values()].reduce((sum, entry) => sum + entry.nbytes, 0);
  return { ...writeNemo(path, form, output, tensorMaker(options, total)), notes };
}

const entriesOf = ({ parts }: WholeModel, wanted: readonly Part[]): TensorEntry[] =>
  wanted.flatMap((part) =>
    [...parts[part]!.entries].filter(([name]) => partOf(name) === part).map(([name, entry]) => ({ ...entry, name })),
  );

function needShape<T>(from: string, shape: T | undefined): T {
  if (shape) return shape;
  throw mistake({ where: from, problem: 'it has no configuration that gives the shapes which the new one needs' });
}

function configOf({ part, to, from }: ConvertOptions, shapes: ConfigShapes | null): object | null {
  switch (part) {
    case 'llm':
      return llmConfig(needShape(from, shapes?.llm));
    case 'vision':
      return visionConfig(needShape(from, shapes?.vision));
    case 'projector':
      return null;
    case 'all': {
      const [llm, projector] = [needShape(from, shapes?.llm), needShape(from, shapes?.projector)];
      if (to === 'llava') return originalConfig({ ...shapes, kind: 'llava', llm, projector });
      return writeConfig({ llm, projector, vision: needShape(from, shapes?.vision) });
    }
  }
}

/** What an entry becomes when its turn has come: its own bytes, or rounded to the type that was asked for. */
function tensorMaker({ dtype, onProgress }: ConvertOptions, total: number) {
  let done = 0;
  // Used again by every part; the widest cast doubles it.
  let room = new Uint8Array(0);
  const progress = (bytes: number) => {
    done += bytes;
    onProgress?.(Math.min(done, total), total);
  };
  return (entry: TensorEntry): TensorToWrite => {
    const { name, shape } = entry;
    const told = (take: (part: Uint8Array) => void) =>
      streamTensor(entry, (part) => {
        take(part);
        progress(part.length);
      });
    if (dtype && dtype !== entry.dtype && entry.dtype.includes('float')) {
      const stream = (take: (part: Uint8Array) => void) =>
        told((part) => {
          if (room.length < 2 * part.length) room = new Uint8Array(2 * part.length);
          take(castFloats(part, entry.dtype, dtype, room));
        });
      return { name, dtype, shape, data: () => castFloats(readTensor(entry), entry.dtype, dtype), stream };
    }
    return { name, dtype: entry.dtype, shape, data: () => readTensor(entry), stream: told };
  };
}
