/** Shapes of the three parts, in the words of NeMo's configuration; filled from a config or from a checkpoint. */

/** NeMo's `normalization`; layernorm1p stores its weight minus one. */
export type Normalization = 'rmsnorm' | 'layernorm' | 'layernorm1p';

/** NeMo's `activation` (`fast-` there is a matter of storage); gelu-tanh is its gelu with openai_gelu. */
export type Activation = 'swiglu' | 'geglu' | 'reglu' | 'squared-relu' | 'gelu' | 'gelu-tanh';

/** True: in all linear layers of a block. */
export type Bias = boolean | 'attention' | 'mlp';

/** How rotary positions are stretched beyond the context that a model was first trained with (rotary.ts). */
export type RotaryScaling =
  | { type: 'linear' | 'dynamic'; factor: number }
  | {
      type: 'llama3';
      factor: number;
      lowFrequencyFactor: number;
      highFrequencyFactor: number;
      originalPositions: number;
    }
  | {
      type: 'yarn';
      factor: number;
      originalPositions: number;
      betaFast: number;
      betaSlow: number;
      attentionFactor: number;
      /** The borders between which it changes over are whole pairs. */
      truncate: boolean;
    };

/** A language model: LLaMA as it stands, and NVGPT, Nemotron or GPT-2 with `gpt`. */
export interface LlmShape {
  numLayers: number;
  /** C */
  hiddenSize: number;
  /** F, width of the MLP. */
  ffnHiddenSize: number;
  /** H */
  numAttentionHeads: number;
  /** G, key/value heads (equal to H without grouped queries). */
  numQueryGroups: number;
  /** D, NeMo's kv_channels; C/H unless the checkpoint says otherwise. */
  headDim: number;
  /** Tokens: rows of the embedding and the head, padding not counted. */
  vocabSize: number;
  /** Rows in memory where there are more: padding that takes no part (NeMo's make_vocab_size_divisible_by). */
  paddedVocabSize?: number;
  /** The norms' epsilon (NeMo: layernorm_epsilon). */
  normEpsilon: number;
  rotaryBase: number;
  /** Absent: not stretched. */
  rotaryScaling?: RotaryScaling;
  maxPositions: number;
  /** Output head shares the embedding's weight. */
  tiedEmbeddings: boolean;
  /** Absent in LLaMA. */
  gpt?: GptBlock;
}

/** What of a block is another than LLaMA's: NeMo's keys of nearly the same names. */
export interface GptBlock {
  normalization: Normalization;
  activation: Activation;
  /** learned_absolute: an embedding a position, added to the tokens' and the pictures'. */
  positions: 'rope' | 'learned_absolute';
  /** Share of a head's dimensions that is turned. */
  rotaryPercentage: number;
  /** Biases in the linear layers of the blocks: in all of them, in none, or in attention's or the MLP's alone. */
  bias: Bias;
}

export const LLAMA_BLOCK: GptBlock = {
  normalization: 'rmsnorm',
  activation: 'swiglu',
  positions: 'rope',
  rotaryPercentage: 1,
  bias: false,
};

/** NVGPT's block, where neither a checkpoint nor the configuration says otherwise. */
export const NVGPT_BLOCK: GptBlock = {
  normalization: 'layernorm1p',
  activation: 'squared-relu',
  positions: 'rope',
  rotaryPercentage: 0.5,
  bias: false,
};

/** A LLaMA has no `gpt`. */
export function gptOf(block: GptBlock): { gpt?: GptBlock } {
  const keys = Object.keys(LLAMA_BLOCK) as (keyof GptBlock)[];
  return keys.every((key) => block[key] === LLAMA_BLOCK[key]) ? {} : { gpt: block };
}

/** Positions that can be run: linear scaling (NeMo's seq_len_interpolation_factor) makes room for `factor` times as many. */
export const positionLimit = ({ maxPositions, rotaryScaling: scaling }: LlmShape): number =>
  scaling?.type === 'linear' ? Math.floor(maxPositions * scaling.factor) : maxPositions;

/** From transformers' two settings. */
export const biasOf = (attention: boolean, mlp: boolean): Bias =>
  attention === mlp ? attention : attention ? 'attention' : 'mlp';

export const hasBias = ({ bias }: GptBlock, where: 'attention' | 'mlp'): boolean => bias === true || bias === where;

export const blockOf = ({ gpt }: LlmShape): GptBlock => gpt ?? LLAMA_BLOCK;

export interface VisionShape {
  imageSize: number;
  patchSize: number;
  /** C of the tower. */
  hiddenSize: number;
  numLayers: number;
  numAttentionHeads: number;
  ffnHiddenSize: number;
  normEpsilon: number;
  /** Which hidden state is the feature, as an index into [embeddings, block 1, … block L]; −2 in LLaVA. */
  selectLayer: number;
  /** Leading tokens dropped from it (the class token): 1 in LLaVA, 0 keeps it. */
  classTokenLength: number;
}

/** NeMo's mm_mlp_adapter_type: `linear`, `mlp2x_gelu`, `mlp3x_gelu`, …, `identity`. */
export interface ProjectorShape {
  type: string;
  inputSize: number;
  outputSize: number;
}

export interface NevaShape {
  llm: LlmShape;
  vision: VisionShape;
  projector: ProjectorShape;
}

/** P: feature vectors that one picture becomes. */
export function featuresPerImage(v: VisionShape): number {
  const side = Math.floor(v.imageSize / v.patchSize);
  return side * side + 1 - v.classTokenLength;
}

/** Logits [rows, V] hold at most this many values: 64 MiB in float32. */
const CHUNK_VALUES = 2 ** 24;

/** Labelled positions whose logits are made at a time. */
export const logitRows = (vocabSize: number): number => Math.max(1, Math.floor(CHUNK_VALUES / vocabSize));
