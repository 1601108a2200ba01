/** `model_config.yaml` of NeMo's archives to shapes and back. */
import { parse, stringify } from 'yaml';
import { mistake, type UserError } from '../errors.ts';
import { isGated } from '../model/mlp.ts';
import {
  type Activation,
  blockOf,
  type GptBlock,
  gptOf,
  type LlmShape,
  type NevaShape,
  type ProjectorShape,
  type VisionShape,
} from '../model/shapes.ts';
import type { VisionFeature } from './hf_config.ts';
import type { NemoNames } from './nemo_layout.ts';

type Config = Record<string, unknown>;

export interface NemoConfig {
  /** Without vocabSize, which the configuration does not tell. Absent in a CLIP archive. */
  llm?: Omit<LlmShape, 'vocabSize'>;
  /** The unpadded vocabulary, where neva wrote it. */
  vocabSize: number | null;
  vision?: VisionShape;
  projector?: { type: string; inputSize: number };
  feature?: VisionFeature;
  visionTower?: string;
  /** Name of the tokenizer's file in the archive. */
  tokenizer: string | null;
}

export const parseNemoConfig = (text: string, where: string): NemoConfig =>
  readNemoConfig(parseYaml(text, where), where);

/** What aliases unfold to is bounded by the parser. */
export function parseYaml(text: string, where: string): unknown {
  try {
    return parse(text, { maxAliasCount: 100, logLevel: 'error' });
  } catch (error) {
    throw mistake({ where, problem: 'not valid YAML', found: (error as Error).message.split('\n')[0]! });
  }
}

export function readNemoConfig(config: unknown, where: string): NemoConfig {
  const read = new ConfigReader(config, where);
  const own = read.section('vision');
  if (own) return { vocabSize: null, vision: read.vision(own), tokenizer: null };
  return {
    llm: read.llm(),
    vocabSize: read.optionalCount('vocab_size'),
    tokenizer: read.tokenizer(),
    ...read.neva(),
  };
}

/** Whether gate and up lie in one matrix (`fast-`) is told by the weights. */
const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  'fast-swiglu': 'swiglu',
  swiglu: 'swiglu',
  'fast-geglu': 'geglu',
  geglu: 'geglu',
  'fast-reglu': 'reglu',
  reglu: 'reglu',
  'squared-relu': 'squared-relu',
  gelu: 'gelu',
};

class ConfigReader {
  readonly #config: Config;
  readonly #where: string;

  constructor(config: unknown, where: string) {
    this.#where = where;
    if (typeof config !== 'object' || config === null || Array.isArray(config))
      throw this.#refuse('it', 'a mapping', config);
    this.#config = config as Config;
  }

  section(key: string, within: Config = this.#config): Config | null {
    const value = within[key];
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Config) : null;
  }

  llm(): Omit<LlmShape, 'vocabSize'> {
    this.#only('megatron_legacy', [false], false);
    this.#only('transformer_block_type', ['pre_ln'], 'pre_ln');
    this.#only('headscale', [false], false);
    // Llama 3.1's stretched positions, in later NeMo.
    this.#only('scale_positional_embedding', [false], false);
    const hiddenSize = this.#count('hidden_size');
    const numAttentionHeads = this.#count('num_attention_heads');
    const numQueryGroups = this.optionalCount('num_query_groups') ?? numAttentionHeads;
    const headDim = this.optionalCount('kv_channels') ?? hiddenSize / numAttentionHeads;
    if (numAttentionHeads % numQueryGroups !== 0 || !Number.isInteger(headDim)) {
      throw this.#refuse('num_query_groups', `a divisor of ${numAttentionHeads} heads of whole width`, numQueryGroups);
    }
    return {
      numLayers: this.#layers(),
      hiddenSize,
      ffnHiddenSize: this.#count('ffn_hidden_size'),
      numAttentionHeads,
      numQueryGroups,
      headDim,
      normEpsilon: this.#positive('layernorm_epsilon', 1e-5),
      rotaryBase: this.#positive('rotary_base', 10000),
      maxPositions: this.optionalCount('max_position_embeddings') ?? this.#count('encoder_seq_length'),
      tiedEmbeddings: this.#value('share_embeddings_and_output_weights') === true,
      ...gptOf(this.#block()),
      ...this.#scaling(),
    };
  }

  /** LLaMA's where the file is silent; weights that are of another block are then refused by name and shape. */
  #block(): GptBlock {
    const bias = this.#only('bias', [true, false], false);
    const activation = this.#only('activation', Object.keys(ACTIVATIONS), 'fast-swiglu');
    const byTanh =
      this.#value('openai_gelu') === true ||
      // NeMo's fused kernel of bias and GELU computes it by tanh.
      (bias && (this.#value('bias_activation_fusion') ?? this.#value('bias_gelu_fusion')) === true);
    return {
      normalization: this.#only('normalization', ['rmsnorm', 'layernorm', 'layernorm1p'] as const, 'rmsnorm'),
      activation: activation === 'gelu' && byTanh ? 'gelu-tanh' : ACTIVATIONS[activation]!,
      positions: this.#only('position_embedding_type', ['rope', 'learned_absolute'] as const, 'rope'),
      rotaryPercentage: this.#positive('rotary_percentage', 1),
      bias,
    };
  }

  #scaling(): Pick<LlmShape, 'rotaryScaling'> {
    const factor = this.#positive('seq_len_interpolation_factor', 1);
    return factor === 1 ? {} : { rotaryScaling: { type: 'linear', factor } };
  }

  vision(c: Config): VisionShape {
    const own = new ConfigReader(c, `${this.#where}: vision`);
    const hiddenSize = own.#count('hidden_size');
    const imageSize = own.#count('img_h');
    const width = own.optionalCount('img_w') ?? imageSize;
    if (width !== imageSize) throw own.#refuse('img_w', String(imageSize), width);
    own.#only('activation', ['quick-gelu', 'quick_gelu'], 'quick-gelu');
    own.#only('class_token_length', [1], 1);
    return {
      imageSize,
      patchSize: own.#count('patch_dim'),
      hiddenSize,
      numLayers: own.#layers(),
      numAttentionHeads: own.#count('num_attention_heads'),
      ffnHiddenSize: own.optionalCount('ffn_hidden_size') ?? 4 * hiddenSize,
      normEpsilon: own.#positive('layernorm_epsilon', 1e-5),
      selectLayer: -2,
      classTokenLength: 1,
    };
  }

  neva(): Pick<NemoConfig, 'projector' | 'feature' | 'visionTower'> {
    const mm = this.section('mm_cfg');
    const tower = mm && this.section('vision_encoder', mm);
    if (!mm || !tower) return {};
    const from = tower.from_pretrained;
    const number = (key: string, fallback: number) =>
      Number.isInteger(tower[key]) ? (tower[key] as number) : fallback;
    return {
      projector: { type: String(mm.mm_mlp_adapter_type ?? 'linear'), inputSize: number('hidden_size', 1024) },
      feature: { selectLayer: number('vision_select_layer', -2), classTokenLength: number('class_token_length', 1) },
      ...(typeof from === 'string' && from !== '' ? { visionTower: from } : {}),
    };
  }

  /** `nemo:NAME` refers to a file of the archive. */
  tokenizer(): string | null {
    const model = this.section('tokenizer')?.model;
    const match = typeof model === 'string' ? /^nemo:([^/\\]+\.model)$/.exec(model) : null;
    return match ? match[1]! : null;
  }

  optionalCount(key: string): number | null {
    return (this.#value(key) ?? null) === null ? null : this.#count(key);
  }

  /** `${key}` and `${.key}` stand for another key of the same mapping, as OmegaConf writes them. */
  #value(key: string): unknown {
    const value = this.#config[key];
    const other = typeof value === 'string' ? /^\$\{\.?(?:model\.)?(\w+)\}$/.exec(value) : null;
    return other ? this.#config[other[1]!] : value;
  }

  #count(key: string): number {
    const value = this.#value(key);
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.#refuse(key, 'a whole number above 0', value);
  }

  /** Every block is looked for by name: a file must not ask for billions. */
  #layers(): number {
    const count = this.#count('num_layers');
    if (count > 10_000) throw this.#refuse('num_layers', 'at most 10000', count);
    return count;
  }

  #positive(key: string, fallback: number): number {
    // YAML 1.1 writes 1e-05, which YAML 1.2 takes for text.
    const value = Number(this.#value(key) ?? fallback);
    if (value > 0 && Number.isFinite(value)) return value;
    throw this.#refuse(key, 'a number above 0', this.#value(key));
  }

  #only<const T>(key: string, allowed: readonly T[], fallback: T): T {
    const value = this.#value(key) ?? fallback;
    const plain = typeof value === 'string' ? value.toLowerCase() : value;
    const found = allowed.find((each) => each === plain);
    if (found === undefined) throw this.#refuse(key, allowed.join(' or '), value);
    return found;
  }

  #refuse(key: string, expected: string, found: unknown): UserError {
    return mistake({
      where: `${this.#where}: ${key}`,
      problem: "neva's model does not have this",
      expected,
      found: JSON.stringify(found ?? null).slice(0, 80),
    });
  }
}

export interface WrittenConfig {
  shape: { llm?: LlmShape | undefined; vision?: VisionShape | undefined; projector?: ProjectorShape | undefined };
  names: NemoNames;
  tp: number;
  pp: number;
  divisibleBy: number;
  /** Where NeMo will find the tower, which is not in a NeVA archive. */
  visionTower: string | null;
  tokenizer: string | null;
}

const NLP = 'nemo.collections.nlp.models.language_modeling.megatron_gpt_model.MegatronGPTModel';
const NEVA = 'nemo.collections.multimodal.models.multimodal_llm.neva.neva_model.MegatronNevaModel';
const CLIP =
  'nemo.collections.multimodal.models.vision_language_foundation.clip.megatron_clip_models.MegatronCLIPModel';

/** What NeMo 2.0.0rc0 needs to build and load the model. */
export function writeNemoConfig({ shape, ...about }: WrittenConfig): string {
  const parallel = { tensor_model_parallel_size: about.tp, pipeline_model_parallel_size: about.pp };
  const { llm, vision, projector } = shape;
  const config: Config = llm
    ? { ...parallel, ...llmSection(llm, about), ...(projector ? mmSection({ llm, vision, projector }, about) : {}) }
    : { ...parallel, ...clipSection(vision!) };
  config.target = llm ? (projector ? NEVA : NLP) : CLIP;
  config.nemo_version = '2.0.0rc0';
  return stringify(config);
}

function llmSection(s: LlmShape, { names, divisibleBy, tokenizer }: Omit<WrittenConfig, 'shape'>): Config {
  const { normalization, activation, positions, rotaryPercentage, bias } = blockOf(s);
  const scaling = s.rotaryScaling;
  if (typeof bias !== 'boolean') {
    throw mistake({
      where: '--to nemo',
      problem: 'NeMo has biases in all linear layers or in none',
      found: `biases in ${bias === 'mlp' ? 'the MLP' : 'attention'} alone`,
      fix: 'use --to hf',
    });
  }
  if (scaling && scaling.type !== 'linear') {
    throw mistake({
      where: '--to nemo',
      problem: 'NeMo 2.0.0rc0 cannot stretch positions so',
      expected: 'positions as they are, or stretched linearly (seq_len_interpolation_factor)',
      found: `${scaling.type}, factor ${scaling.factor}`,
      fix: 'use --to hf',
    });
  }
  return {
    mcore_gpt: names === 'mcore',
    transformer_engine: names === 'mcore',
    micro_batch_size: 1,
    global_batch_size: 1,
    encoder_seq_length: s.maxPositions,
    max_position_embeddings: s.maxPositions,
    position_embedding_type: positions,
    rotary_percentage: rotaryPercentage,
    seq_len_interpolation_factor: scaling ? scaling.factor : null,
    rotary_base: s.rotaryBase,
    num_layers: s.numLayers,
    hidden_size: s.hiddenSize,
    ffn_hidden_size: s.ffnHiddenSize,
    num_attention_heads: s.numAttentionHeads,
    num_query_groups: s.numQueryGroups === s.numAttentionHeads ? null : s.numQueryGroups,
    kv_channels: s.headDim === s.hiddenSize / s.numAttentionHeads ? null : s.headDim,
    hidden_dropout: 0,
    attention_dropout: 0,
    ffn_dropout: 0,
    normalization,
    layernorm_epsilon: s.normEpsilon,
    bias,
    activation: activation === 'gelu-tanh' ? 'gelu' : isGated(activation) ? `fast-${activation}` : activation,
    openai_gelu: activation === 'gelu-tanh',
    bias_activation_fusion: false,
    transformer_block_type: 'pre_ln',
    share_embeddings_and_output_weights: s.tiedEmbeddings,
    make_vocab_size_divisible_by: divisibleBy,
    // neva's own key: what is left of the embedding's rows without the padding.
    vocab_size: s.vocabSize,
    megatron_amp_O2: false,
    tokenizer: {
      library: 'sentencepiece',
      type: null,
      model: tokenizer && `nemo:${tokenizer}`,
      sentencepiece_legacy: false,
    },
  };
}

function mmSection(
  { llm, vision, projector }: Partial<NevaShape> & { projector: ProjectorShape },
  { visionTower }: Omit<WrittenConfig, 'shape'>,
): Config {
  return {
    mm_cfg: {
      llm: { from_pretrained: null, freeze: false, model_type: llm?.gpt ? 'nvgpt' : 'llama_2' },
      vision_encoder: {
        from_pretrained: visionTower ?? '',
        from_hf: true,
        patch_dim: vision?.patchSize ?? 14,
        hidden_size: projector.inputSize,
        vision_select_layer: vision?.selectLayer ?? -2,
        class_token_length: vision?.classTokenLength ?? 1,
        freeze: true,
      },
      pretrain_mm_mlp_adapter: null,
      mm_mlp_adapter_type: projector.type,
      use_im_start_end: false,
    },
  };
}

function clipSection(s: VisionShape): Config {
  return {
    mcore_gpt: false,
    vision: {
      img_h: s.imageSize,
      img_w: s.imageSize,
      patch_dim: s.patchSize,
      num_channels: 3,
      class_token_length: 1,
      num_layers: s.numLayers,
      hidden_size: s.hiddenSize,
      ffn_hidden_size: s.ffnHiddenSize,
      num_attention_heads: s.numAttentionHeads,
      layernorm_epsilon: s.normEpsilon,
      activation: 'quick-gelu',
      megatron_legacy: true,
    },
  };
}
