/** What is in a model on the disk, without loading it: `neva checkpoint inspect`. */
import { existsSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { DType } from '../engine/engine.ts';
import { isUserError } from '../errors.ts';
import { type CheckpointState, isCheckpoint, tokenizerFiles } from './folder.ts';
import type { ConfigShapes } from './hf_config.ts';
import { localPath } from './hub.ts';
import { readJsonObject } from './json.ts';
import { damageOf } from './manifest.ts';
import { type Part, partOf } from './names.ts';
import { isArchive } from './nemo_archive.ts';
import type { NemoForm } from './nemo_merge.ts';
import { referTo } from './parts.ts';
import { fileEntries, fileKind, folderEntries } from './raw.ts';
import type { TensorEntry } from './safetensors.ts';
import { openWeights, type Weights } from './weights.ts';

export interface PartContent {
  tensors: number;
  parameters: number;
  bytes: number;
  dtypes: DType[];
}

export interface Reference {
  part: Part;
  path: string;
  /** Whether what is there is what the checkpoint was trained with. */
  state: 'included' | 'found' | 'missing' | 'changed';
}

export interface Inspection {
  path: string;
  /** In words: what it is and in which layout. */
  kind: string;
  /** NeMo's naming and parallel sizes; null elsewhere, where nothing is split. */
  nemo: NemoForm | null;
  parts: { [part in Part]?: PartContent };
  /** Parts that a checkpoint of neva's refers to. */
  references: Reference[];
  config: ConfigShapes | null;
  /** Files of the tokenizer. */
  tokenizer: string[];
  /** Of a checkpoint of neva's; null elsewhere. */
  training: Pick<
    CheckpointState,
    'stage' | 'step' | 'epoch' | 'consumedSamples' | 'loss' | 'valLoss' | 'template' | 'templateCompat' | 'imageAspect'
  > | null;
  /** By the manifest: `whole`, or what is wrong; null where there is none. */
  checksums: string | null;
  tensors: { name: string; dtype: DType; shape: readonly number[]; bytes: number }[];
}

/** @param path a model's file or folder, or a name of the hub's cache. Throws user errors as reading it would. */
export function inspect(path: string): Inspection {
  const local = localPath(path);
  const own = isCheckpoint(local);
  const checksums = own ? (damageOf(local) ?? 'whole') : null;
  const weights = openWeights(local);
  const entries = [...weights.entries].map(([name, entry]) => ({ ...entry, name }));
  const state = own ? (readJsonObject(join(local, 'state.json')) as unknown as CheckpointState) : null;
  return {
    path: local,
    kind: kindOf(local, weights, own),
    nemo: weights.nemo ?? null,
    parts: contentOf(entries),
    references: (state?.frozen ?? []).map(({ part, path: at, fingerprint, included }) => ({
      part,
      path: at,
      state: included ? 'included' : !existsSync(at) ? 'missing' : stateOf(part, at, fingerprint),
    })),
    config: weights.config,
    tokenizer: weights.tokenizerFolder ? tokenizerFiles(weights.tokenizerFolder).map((file) => basename(file)) : [],
    training: state && {
      stage: state.stage,
      step: state.step,
      epoch: state.epoch,
      consumedSamples: state.consumedSamples,
      loss: state.loss,
      valLoss: state.valLoss,
      template: state.template,
      templateCompat: state.templateCompat,
      imageAspect: state.imageAspect,
    },
    checksums,
    tensors: entries
      .map(({ name, dtype, shape, nbytes }) => ({ name, dtype, shape, bytes: nbytes }))
      .sort((a, b) => (a.name < b.name ? -1 : 1)),
  };
}

function stateOf(part: Part, path: string, fingerprint: string): Reference['state'] {
  try {
    return referTo(part, openWeights(path)).fingerprint === fingerprint ? 'found' : 'changed';
  } catch (error) {
    if (isUserError(error)) return 'changed';
    throw error;
  }
}

function contentOf(entries: readonly TensorEntry[]): Inspection['parts'] {
  const parts: Inspection['parts'] = {};
  for (const { name, dtype, shape, nbytes } of entries) {
    const part = partOf(name);
    parts[part] ??= { tensors: 0, parameters: 0, bytes: 0, dtypes: [] };
    const content = parts[part];
    content.tensors++;
    content.parameters += shape.reduce((product, size) => product * size, 1);
    content.bytes += nbytes;
    if (!content.dtypes.includes(dtype)) content.dtypes.push(dtype);
  }
  return parts;
}

function kindOf(path: string, { config, has, nemo }: Weights, own: boolean): string {
  const isFolder = statSync(path).isDirectory();
  const models = { llava: 'LLaVA', llm: 'language model', clip: 'CLIP' };
  const model = config ? models[config.kind] : has('projector') ? 'projector' : has('llm') ? 'language model' : 'CLIP';
  if (own) return 'checkpoint of neva';
  if (nemo) {
    const form = isFolder ? 'folder' : { tar: 'tar', gzip: 'gzipped tar' }[fileKind(path) as 'tar' | 'gzip'];
    return isArchive(path) ? `NeMo archive (${form}): ${model}` : `Lightning checkpoint of NeMo: ${model}`;
  }
  const names = [...(isFolder ? folderEntries(path) : fileEntries(path)).keys()];
  const form = isFolder ? 'folder' : fileKind(path) === 'torch' ? 'torch file' : 'safetensors file';
  return `${model}, ${layoutOf(names)} (${form})`;
}

/** Which of the layouts the names of a file are of. */
function layoutOf(names: readonly string[]): string {
  const some = (pattern: RegExp) => names.some((name) => pattern.test(name));
  if (some(/^model\.(?:language_model|multi_modal_projector|vision_tower\.vision_model)\./)) return 'Hugging Face, new';
  if (some(/^(?:language_model|multi_modal_projector|vision_tower)\./)) return 'Hugging Face, old';
  if (some(/mm_projector\./)) return "LLaVA's own";
  return 'Hugging Face';
}
