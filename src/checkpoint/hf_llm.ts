/**
 * Language models in Hugging Face's `config.json`: LlamaConfig, NemotronConfig (NVGPT's blocks), and neva's own `nvgpt` for blocks
 * that no class of transformers has, under NeMo's keys.
 */
import {
  type Activation,
  biasOf,
  blockOf,
  type GptBlock,
  gptOf,
  hasBias,
  LLAMA_BLOCK,
  type LlmShape,
  type Normalization,
  type RotaryScaling,
} from '../model/shapes.ts';
import type { ConfigReader, Json } from './config_reader.ts';

export type LlmType = 'llama' | 'nemotron' | 'nvgpt';

export const isLlmType = (type: unknown): type is LlmType =>
  type === 'llama' || type === 'nemotron' || type === 'nvgpt';

/** What the classes take for keys that a file leaves out. */
const DEFAULTS = {
  llama: { layers: 32, hidden: 4096, ffn: 11008, heads: 32, vocab: 32000, positions: 2048, eps: 1e-6 },
  nemotron: { layers: 32, hidden: 6144, ffn: 24576, heads: 48, vocab: 256000, positions: 4096, eps: 1e-5 },
} as const;

/** Names in `hidden_act` → activations of an MLP without a gate. */
const PLAIN_ACTIVATIONS = {
  relu2: 'squared-relu',
  gelu: 'gelu',
  gelu_new: 'gelu-tanh',
  gelu_pytorch_tanh: 'gelu-tanh',
} as const satisfies Record<string, Activation>;

const NORMALIZATIONS = {
  rmsnorm: 'rmsnorm',
  layernorm: 'layernorm',
  layernorm1p: 'layernorm1p',
} as const satisfies Record<string, Normalization>;

const ACTIVATIONS = {
  swiglu: 'swiglu',
  geglu: 'geglu',
  reglu: 'reglu',
  'squared-relu': 'squared-relu',
  gelu: 'gelu',
  'gelu-tanh': 'gelu-tanh',
} as const satisfies Record<string, Activation>;

const POSITIONS = { rope: 'rope', learned_absolute: 'learned_absolute' } as const;
const YES_NO = { true: true, false: false } as const;
const BIASES = { ...YES_NO, attention: 'attention', mlp: 'mlp' } as const;

export function readLlm(read: ConfigReader, type: LlmType, c: Json): LlmShape {
  const d = DEFAULTS[type === 'nemotron' ? 'nemotron' : 'llama'];
  const rope = (c.rope_parameters ?? c.rope_scaling ?? {}) as Json;
  const hiddenSize = read.count(c, 'hidden_size', d.hidden);
  const numAttentionHeads = read.count(c, 'num_attention_heads', d.heads);
  const numQueryGroups = read.count(c, 'num_key_value_heads', numAttentionHeads);
  if (numAttentionHeads % numQueryGroups !== 0) {
    read.refuse('num_key_value_heads', `a divisor of the ${numAttentionHeads} heads`, String(numQueryGroups));
  }
  const maxPositions = read.count(c, 'max_position_embeddings', d.positions);
  const scaling = readScaling(read, c, rope, maxPositions);
  return {
    numLayers: read.count(c, 'num_hidden_layers', d.layers),
    hiddenSize,
    ffnHiddenSize: read.count(c, 'intermediate_size', d.ffn),
    numAttentionHeads,
    numQueryGroups,
    headDim: read.count(c, 'head_dim', hiddenSize / numAttentionHeads),
    vocabSize: read.count(c, 'vocab_size', d.vocab),
    normEpsilon: read.positive(c, type === 'llama' ? 'rms_norm_eps' : 'norm_eps', d.eps),
    // transformers 5 moved it into rope_parameters.
    rotaryBase: read.positive({ ...c, ...rope }, 'rope_theta', 10000),
    ...(scaling ? { rotaryScaling: scaling } : {}),
    maxPositions,
    tiedEmbeddings: c.tie_word_embeddings === true,
    ...gptOf(readBlock(read, type, c, rope)),
  };
}

function readBlock(read: ConfigReader, type: LlmType, c: Json, rope: Json): GptBlock {
  switch (type) {
    case 'llama':
      read.mustBe(c, 'hidden_act', 'silu');
      return { ...LLAMA_BLOCK, bias: readBias(read, c) };
    case 'nemotron':
      return {
        normalization: 'layernorm1p',
        activation: read.oneOf(c, 'hidden_act', PLAIN_ACTIVATIONS, 'relu2'),
        positions: 'rope',
        rotaryPercentage: read.positive({ ...c, ...rope }, 'partial_rotary_factor', 0.5),
        bias: readBias(read, c),
      };
    case 'nvgpt':
      return {
        normalization: read.oneOf(c, 'normalization', NORMALIZATIONS, 'layernorm1p'),
        activation: read.oneOf(c, 'activation', ACTIVATIONS, 'squared-relu'),
        positions: read.oneOf(c, 'position_embedding_type', POSITIONS, 'rope'),
        rotaryPercentage: read.positive(c, 'rotary_percentage', 1),
        bias: read.oneOf(c, 'bias', BIASES, 'false'),
      };
  }
}

const readBias = (read: ConfigReader, c: Json) =>
  biasOf(read.oneOf(c, 'attention_bias', YES_NO, 'false'), read.oneOf(c, 'mlp_bias', YES_NO, 'false'));

function readScaling(read: ConfigReader, c: Json, rope: Json, maxPositions: number): RotaryScaling | null {
  const type = String(rope.rope_type ?? rope.type ?? 'default');
  // Beside the others in files that follow Phi-3.
  const originalPositions = () =>
    read.count(
      { ...rope, ...c },
      'original_max_position_embeddings',
      (rope.original_max_position_embeddings as number) ?? maxPositions,
    );
  switch (type) {
    case 'default':
      return null;
    case 'linear':
    case 'dynamic':
      return { type, factor: read.positive(rope, 'factor') };
    case 'llama3':
      return {
        type,
        factor: read.positive(rope, 'factor'),
        lowFrequencyFactor: read.positive(rope, 'low_freq_factor'),
        highFrequencyFactor: read.positive(rope, 'high_freq_factor'),
        originalPositions: originalPositions(),
      };
    case 'yarn': {
      const ratio = maxPositions / originalPositions();
      const factor = read.positive(rope, 'factor', ratio > 1 ? ratio : undefined);
      return {
        type,
        factor,
        originalPositions: originalPositions(),
        betaFast: read.positive(rope, 'beta_fast', 32),
        betaSlow: read.positive(rope, 'beta_slow', 1),
        attentionFactor: read.positive(rope, 'attention_factor', yarnAttentionFactor(read, rope, factor)),
        truncate: rope.truncate !== false,
      };
    }
    default:
      return read.refuse('rope scaling', 'default, linear, dynamic, llama3 or yarn', type);
  }
}

/** As the paper has it, or DeepSeek's two scales of it. */
function yarnAttentionFactor(read: ConfigReader, rope: Json, factor: number): number {
  const magnitude = (scale: number) => (factor <= 1 ? 1 : 0.1 * scale * Math.log(factor) + 1);
  if (!rope.mscale || !rope.mscale_all_dim) return magnitude(1);
  return magnitude(read.number(rope, 'mscale')) / magnitude(read.number(rope, 'mscale_all_dim'));
}

/** The type under which a shape is written: that of a class of transformers where one has it. */
export function llmType(shape: LlmShape): LlmType {
  const block = blockOf(shape);
  const { normalization, activation, positions } = block;
  if (!gptOf({ ...block, bias: LLAMA_BLOCK.bias }).gpt) return 'llama';
  const plain = Object.values(PLAIN_ACTIVATIONS).includes(activation as 'gelu');
  return normalization === 'layernorm1p' && plain && positions === 'rope' ? 'nemotron' : 'nvgpt';
}

const ARCHITECTURES = { llama: 'LlamaForCausalLM', nemotron: 'NemotronForCausalLM', nvgpt: 'NvgptForCausalLM' };

export function llmConfig(s: LlmShape): Json {
  const type = llmType(s);
  return {
    architectures: [ARCHITECTURES[type]],
    model_type: type,
    ...blockConfig(type, blockOf(s)),
    num_hidden_layers: s.numLayers,
    hidden_size: s.hiddenSize,
    intermediate_size: s.ffnHiddenSize,
    num_attention_heads: s.numAttentionHeads,
    num_key_value_heads: s.numQueryGroups,
    head_dim: s.headDim,
    vocab_size: s.vocabSize,
    [type === 'llama' ? 'rms_norm_eps' : 'norm_eps']: s.normEpsilon,
    rope_theta: s.rotaryBase,
    ...(s.rotaryScaling ? { rope_scaling: scalingConfig(s.rotaryScaling) } : {}),
    max_position_embeddings: s.maxPositions,
    tie_word_embeddings: s.tiedEmbeddings,
  };
}

function blockConfig(type: LlmType, block: GptBlock): Json {
  switch (type) {
    case 'llama':
      return { hidden_act: 'silu', ...(block.bias ? biasConfig(block) : {}) };
    case 'nemotron': {
      const act = Object.entries(PLAIN_ACTIVATIONS).find(([, activation]) => activation === block.activation)![0];
      return {
        hidden_act: act,
        partial_rotary_factor: block.rotaryPercentage,
        ...biasConfig(block),
      };
    }
    case 'nvgpt':
      return {
        normalization: block.normalization,
        activation: block.activation,
        position_embedding_type: block.positions,
        rotary_percentage: block.rotaryPercentage,
        bias: block.bias,
      };
  }
}

const biasConfig = (block: GptBlock): Json => ({
  attention_bias: hasBias(block, 'attention'),
  mlp_bias: hasBias(block, 'mlp'),
});

function scalingConfig(scaling: RotaryScaling): Json {
  const { type, factor } = scaling;
  switch (type) {
    case 'linear':
    case 'dynamic':
      return { rope_type: type, factor };
    case 'llama3':
      return {
        rope_type: type,
        factor,
        low_freq_factor: scaling.lowFrequencyFactor,
        high_freq_factor: scaling.highFrequencyFactor,
        original_max_position_embeddings: scaling.originalPositions,
      };
    case 'yarn':
      return {
        rope_type: type,
        factor,
        original_max_position_embeddings: scaling.originalPositions,
        beta_fast: scaling.betaFast,
        beta_slow: scaling.betaSlow,
        attention_factor: scaling.attentionFactor,
        truncate: scaling.truncate,
      };
  }
}
