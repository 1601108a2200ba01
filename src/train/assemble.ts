/** From configuration to a model ready for a stage: where each part's weights come from, and which of them train. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { FrozenReference } from '../checkpoint/folder.ts';
import { localPath } from '../checkpoint/hub.ts';
import { addTower, isModel, openWhole, referTo, type WholeModel } from '../checkpoint/parts.ts';
import { openWeights, type Weights } from '../checkpoint/weights.ts';
import type { NevaConfig } from '../config/index.ts';
import { loadTokenizer } from '../data/tokenizer.ts';
import type { DType, Engine } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import type { StepWork } from '../model/flops.ts';
import { NevaModel, type Part } from '../model/neva.ts';
import { countElements } from '../model/parameters.ts';
import type { NevaShape } from '../model/shapes.ts';
import { stageOf } from '../model/stage.ts';
import { type Ranks, SINGLE } from '../parallel/ranks.ts';
import { requireDivisible, tensorSplit } from '../parallel/tensor.ts';
import { layoutOf } from '../plan/layout.ts';
import { newestCheckpoint } from '../report/run_folder.ts';
import { resolveShape } from './shape.ts';

/** What activations are computed in; float32 for the settings that are not here. */
const COMPUTE_DTYPES: { [precision: string]: DType } = { bf16: 'bfloat16', '16': 'float16' };

export interface Assembled {
  model: NevaModel;
  tokenizerFolder: string;
  /** Folder of the vision tower, whose preprocessor_config.json applies; null when it started at random. */
  visionFolder: string | null;
  trains: StepWork['trains'];
  /** Parts that do not train, for checkpoints to refer to. */
  frozen: FrozenReference[];
  /** Blocks of each pipeline stage. */
  layout: readonly number[];
  /** One row a part: name, parameters, whether it trains, where it came from. */
  table: { part: string; parameters: number; trains: boolean; from: string }[];
  /** What was done to the weights beyond loading them. */
  notes: string[];
}

/**
 * Loads (or draws) every part. Everything that does not fit is a user error, before anything is trained.
 * @param checkpoint one that the run goes on from and that holds the parts which do not train: they are taken from there
 */
export function assemble(
  engine: Engine,
  config: NevaConfig,
  ranks: Ranks = SINGLE,
  checkpoint: string | null = null,
): Assembled {
  const { mm_cfg: mm } = config.model;
  const { sources, shape, tokenizerFolder } = resolveSources(config, checkpoint);
  requireDivisible(shape.llm, ranks.mesh.tensor);
  const trains = { vision: !mm.vision_encoder.freeze, projector: true, llm: !mm.llm.freeze };
  const layout = layoutOf(config.model, shape, trains);
  engine.seed(config.model.seed);
  const from = { vision_encoder: sources.vision, projector: sources.projector, llm: sources.llm };
  const doesTrain = { vision_encoder: trains.vision, projector: true, llm: trains.llm };
  const computeDtype = COMPUTE_DTYPES[config.trainer.precision] ?? 'float32';
  // What trains is read in full precision; the rest as it is computed with, mapped from its file where that has it.
  const source = (weights: Weights | undefined, part: 'llm' | 'vision' | 'projector', train: boolean) =>
    weights?.source(engine, part, train ? 'float32' : computeDtype) ?? null;
  const notes = sources.llm ? addedTokens(sources.llm, shape, trains.llm) : [];
  const model = new NevaModel(engine, shape, {
    sources: {
      vision_encoder: source(sources.vision, 'vision', trains.vision),
      projector: source(sources.projector, 'projector', true),
      llm: source(sources.llm, 'llm', trains.llm),
    },
    computeDtype,
    attention: {
      flash: config.model.use_flash_attention,
      recompute: config.model.activations_checkpoint_granularity === 'selective',
    },
    init: { std: config.model.init_method_std, scaled: config.model.use_scaled_init_method },
    split: tensorSplit(ranks.tensor, config.model.sequence_parallel),
    stage: stageOf(layout, ranks.at.pipeline),
  });
  const lowPrecisionWeights = computeDtype !== 'float32' && config.model.megatron_amp_O2;
  for (const { name, parameters } of model.parts) {
    if (doesTrain[name]) makeTrainable(engine, parameters, lowPrecisionWeights ? computeDtype : 'float32');
    else setDtype(engine, parameters, computeDtype);
  }
  return {
    model,
    tokenizerFolder,
    visionFolder: sources.vision?.path ?? null,
    trains,
    frozen: frozenReferences(model.parts, from, doesTrain),
    layout,
    table: model.parts.map(({ name, parameters }) => ({
      part: name,
      parameters: allStages(ranks, parameters),
      trains: doesTrain[name],
      from: from[name]?.path ?? 'random',
    })),
    notes,
  };
}

/** Elements of a part, over all stages that have some of it. */
function allStages({ pipeline }: Ranks, parameters: Part['parameters']): number {
  const own = countElements(parameters.filter(({ twin }) => twin !== 'last'));
  return pipeline.down.sum([own], 'the other stages to count their weights')[0]!;
}

function addedTokens({ path, config }: Weights, { llm }: NevaShape, train: boolean): string[] {
  const known = config?.llm?.vocabSize ?? llm.vocabSize;
  if (llm.vocabSize === known) return [];
  const frozen = train ? '' : ', and stay so, as the language model is frozen';
  return [
    `${llm.vocabSize - known} tokens have no row in ${path}: theirs begin as the mean of its ${known} rows${frozen}`,
  ];
}

/** Where parts and tokenizer come from, and the model's shape: all that can be known without an engine. */
export function resolveSources(
  config: NevaConfig,
  checkpoint: string | null = null,
): { sources: Sources; shape: NevaShape; tokenizerFolder: string } {
  const { tokenizer } = config.model;
  const sources = openSources(config, checkpoint);
  const tokenizerFolder = tokenizer.model ? localPath(tokenizer.model) : sources.tokenizerFolder;
  if (!tokenizerFolder) {
    throw mistake({
      where: 'model.tokenizer.model',
      problem: 'there is no tokenizer beside the language model',
      expected: 'tokenizer.json or tokenizer.model',
      fix: 'set model.tokenizer.model=FILE or FOLDER',
    });
  }
  const { vocabSize } = loadTokenizer(tokenizerFolder, tokenizer.additional_special_tokens ?? []);
  const shape = resolveShape(config, sources.shapes, vocabSize);
  return { sources, shape, tokenizerFolder };
}

export interface Sources {
  llm?: Weights | undefined;
  vision?: Weights | undefined;
  projector?: Weights | undefined;
  shapes: Parameters<typeof resolveShape>[1];
  tokenizerFolder: string | null;
}

/** model.restore_from_path gives all that it holds; the keys of the parts give the rest. */
function openSources(config: NevaConfig, checkpoint: string | null): Sources {
  const { mm_cfg: mm, restore_from_path: restore } = config.model;
  const named = checkpoint ?? (restore ? modelFolder(restore) : null);
  const whole: WholeModel | null = named ? openWhole(named) : null;
  const open = (path: string | null) => (path ? openWeights(path) : undefined);
  if (whole) addTower(whole, mm.vision_encoder.from_pretrained);
  const llm = whole?.parts.llm ?? open(mm.llm.from_pretrained);
  const vision = whole?.parts.vision ?? open(mm.vision_encoder.from_pretrained);
  const projector = whole?.parts.projector ?? open(projectorFile(mm.pretrain_mm_mlp_adapter));
  if (whole) requireSame('model.restore_from_path', whole.config?.projector?.type, mm.mm_mlp_adapter_type);
  return {
    llm,
    vision,
    projector,
    shapes: { llm: whole?.config?.llm ?? llm?.config?.llm, vision: whole?.config?.vision ?? vision?.config?.vision },
    tokenizerFolder: whole?.tokenizerFolder ?? llm?.tokenizerFolder ?? null,
  };
}

function requireSame(where: string, type: string | undefined, asked: string): void {
  if (type === undefined || type === asked) return;
  throw mistake({
    where,
    problem: 'another kind of projector',
    expected: `model.mm_cfg.mm_mlp_adapter_type=${asked}`,
    found: type,
    fix: `set model.mm_cfg.mm_mlp_adapter_type=${type}`,
  });
}

/** A model's own file or folder, or the newest checkpoint of a run or experiment folder. */
export function modelFolder(path: string): string {
  const local = localPath(path);
  return isModel(local) ? local : newestCheckpoint(local);
}

/** The file or folder that holds a projector, from whatever the key names. */
function projectorFile(path: string | null): string | null {
  if (!path) return null;
  const local = localPath(path);
  const own = join(local, 'projector.safetensors');
  if (existsSync(own)) return own;
  // A folder that LLaVA's first stage wrote may hold nothing but this.
  const original = join(local, 'mm_projector.bin');
  if (existsSync(original)) return original;
  return isModel(local) ? local : join(newestCheckpoint(local), 'projector.safetensors');
}

/**
 * Trained weights get memory of their own: what was mapped from a file must not depend on it any longer. Below float32
 * (megatron_amp_O2) the optimizer works on a float32 main weight, and `value` is its rounding.
 */
function makeTrainable(engine: Engine, parameters: Part['parameters'], dtype: DType): void {
  for (const parameter of parameters) {
    const loaded = parameter.value;
    const own = engine.keep(engine.scale(loaded, 1));
    loaded.dispose();
    parameter.main = dtype === 'float32' ? null : own;
    parameter.value = dtype === 'float32' ? own : engine.keep(engine.zeros(own.shape, dtype));
    if (parameter.main) engine.round(parameter.value, own);
    parameter.trainable = true;
  }
}

/** Frozen weights that began at random are drawn in float32, like all. */
function setDtype(engine: Engine, parameters: Part['parameters'], dtype: DType): void {
  for (const parameter of parameters) {
    const { value } = parameter;
    if (value.dtype === dtype) continue;
    parameter.value = engine.keep(engine.cast(value, dtype));
    value.dispose();
  }
}

function frozenReferences(
  parts: readonly Part[],
  from: { [name in Part['name']]: Weights | undefined },
  trains: { [name in Part['name']]: boolean },
): FrozenReference[] {
  return parts.flatMap(({ name }) => {
    const weights = from[name];
    if (trains[name] || !weights) return [];
    return [referTo(name === 'vision_encoder' ? 'vision' : name, weights)];
  });
}
