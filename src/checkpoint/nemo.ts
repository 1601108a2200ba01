/** Models of NeMo under neva's names: archives of LLaMA, CLIP and NeVA, and Lightning checkpoints, at any parallel size. */
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PbfReader } from 'pbf';
import { mistake } from '../errors.ts';
import type { ConfigShapes } from './hf_config.ts';
import { checkpointRanks, isArchive, openArchive, type RankFile, temporaryFolder } from './nemo_archive.ts';
import { type NemoConfig, parseNemoConfig, parseYaml, readNemoConfig } from './nemo_config.ts';
import { isNemoName } from './nemo_layout.ts';
import { type NemoForm, NemoMerger } from './nemo_merge.ts';
import { fileKind } from './raw.ts';
import type { TensorEntry } from './safetensors.ts';
import { readTorchFile } from './torch_zip.ts';
import { type Region, readRegion } from './zip.ts';

export interface NemoModel {
  /** Own name → where it lies. */
  entries: Map<string, TensorEntry>;
  config: ConfigShapes;
  tokenizerFolder: string | null;
  form: NemoForm;
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
    return merge(path, config, ranks, tokenizer ?? null);
  }
  if (statSync(path).isDirectory() || fileKind(path) !== 'torch') return null;
  const own = readTorchFile({ file: path, offset: 0, nbytes: statSync(path).size });
  if (![...own.entries.keys()].some(isNemoName)) return null;
  const config = own.config ? readNemoConfig(own.config, `${path}: hyper_parameters`) : hparams(path);
  return merge(path, config, checkpointRanks(path), null);
}

/** The configuration that NeMo's logger leaves above the folder of checkpoints. */
function hparams(path: string): NemoConfig {
  for (let folder = dirname(path), up = 0; up < 4; folder = dirname(folder), up++) {
    const file = join(folder, 'hparams.yaml');
    if (!existsSync(file)) continue;
    const whole = parseYaml(readFileSync(file, 'utf8'), file) as { cfg?: unknown } | null;
    return readNemoConfig(whole?.cfg ?? whole, file);
  }
  throw mistake({
    where: path,
    problem: "NeMo's weights without a configuration, which tells how they are fused",
    expected: 'hyper_parameters in the file, or hparams.yaml in a folder above it',
    fix: 'put hparams.yaml of the run beside it, or use the .nemo archive',
  });
}

function merge(path: string, config: NemoConfig, ranks: readonly RankFile[], tokenizer: Region | null): NemoModel {
  const { llm, vision, projector, feature, visionTower } = config;
  const merger = new NemoMerger(path, ranks, llm?.numLayers ?? vision?.numLayers ?? 1);
  const { form } = merger;
  const shapes: ConfigShapes = { kind: projector ? 'llava' : llm ? 'llm' : 'clip' };
  if (feature) shapes.feature = feature;
  if (visionTower) shapes.visionTower = visionTower;
  if (projector) shapes.projector = { ...projector, outputSize: llm?.hiddenSize ?? 0 };
  const rows = merger.vocabularyRows();
  // An archive of a run whose language model was frozen has only the projector.
  if (llm && rows !== null) {
    const known = config.vocabSize ?? (tokenizer && countPieces(tokenizer, path)) ?? rows;
    shapes.llm = { ...llm, vocabSize: Math.min(known, rows) };
    merger.takeLlm(shapes.llm);
  }
  if (vision) {
    shapes.vision = vision;
    merger.takeVision(vision);
  }
  const entries = merger.finish();
  return {
    entries,
    config: shapes,
    tokenizerFolder: tokenizer ? extractTokenizer(tokenizer, path) : null,
    form,
  };
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
