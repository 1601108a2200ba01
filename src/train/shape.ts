/** Shapes from checkpoints and configuration: the checkpoint decides, and a configuration that contradicts it is refused. */
import type { NevaConfig } from '../config/index.ts';
import { UserError } from '../errors.ts';
import {
  type Activation,
  blockOf,
  type GptBlock,
  gptOf,
  LLAMA_BLOCK,
  type LlmShape,
  type NevaShape,
  NVGPT_BLOCK,
  positionLimit,
  type VisionShape,
} from '../model/shapes.ts';

/** What checkpoints say about the parts; undefined where a part starts at random. */
export interface KnownShapes {
  llm?: LlmShape | undefined;
  vision?: VisionShape | undefined;
  projector?: { type: string } | undefined;
}

interface Asked {
  key: string;
  value: number | boolean | string | null;
}

/** @param tokens that the tokenizer has: the language model gets rows for all of them */
export function resolveShape(config: NevaConfig, known: KnownShapes, tokens: number): NevaShape {
  const check = new Checker();
  const llm = llmShape(config, known.llm, tokens, check);
  const vision = visionShape(config, known.vision, check);
  const projector = {
    type: config.model.mm_cfg.mm_mlp_adapter_type,
    inputSize: vision.hiddenSize,
    outputSize: llm.hiddenSize,
  };
  if (config.model.encoder_seq_length > positionLimit(llm)) {
    check.complain(
      `model.encoder_seq_length=${config.model.encoder_seq_length} is more than the ${positionLimit(llm)} positions of the language model`,
    );
  }
  check.finish();
  return { llm, vision, projector };
}

class Checker {
  readonly #problems: string[] = [];

  complain(problem: string): void {
    this.#problems.push(problem);
  }

  /** The checkpoint's value, which a configured one must equal. */
  known(from: number | boolean | string, { key, value }: Asked): void {
    if (value !== null && value !== from) this.complain(`${key}=${value}, but the checkpoint has ${from}`);
  }

  /** The configured value of a part that starts at random. */
  needed({ key, value }: Asked, fallback: number | null = null): number {
    if (typeof value === 'number') return value;
    if (fallback === null) this.complain(`${key} must be given: there is no checkpoint to take it from`);
    return fallback ?? 1;
  }

  finish(): void {
    if (this.#problems.length > 0)
      throw new UserError(`the model's shape:\n${this.#problems.map((p) => `  ${p}`).join('\n')}`);
  }
}

type Model = NevaConfig['model'];

function llmShape({ model: m }: NevaConfig, known: LlmShape | undefined, tokens: number, check: Checker): LlmShape {
  const shape = known ? knownShape(m, known, tokens, check) : newShape(m, tokens, check);
  const multiple = m.make_vocab_size_divisible_by * m.tensor_model_parallel_size;
  const padded = Math.ceil(shape.vocabSize / multiple) * multiple;
  const { headDim, gpt } = shape;
  if (gpt?.positions === 'rope' && Math.trunc(headDim * gpt.rotaryPercentage) % 2 !== 0) {
    check.complain(
      `model.rotary_percentage=${gpt.rotaryPercentage} turns an odd part of the heads' ${headDim} dimensions`,
    );
  }
  return padded === shape.vocabSize ? shape : { ...shape, paddedVocabSize: padded };
}

const asked = (m: Model) => ({
  numLayers: { key: 'model.num_layers', value: m.num_layers },
  hiddenSize: { key: 'model.hidden_size', value: m.hidden_size },
  ffnHiddenSize: { key: 'model.ffn_hidden_size', value: m.ffn_hidden_size },
  numAttentionHeads: { key: 'model.num_attention_heads', value: m.num_attention_heads },
  numQueryGroups: { key: 'model.num_query_groups', value: m.num_query_groups },
  headDim: { key: 'model.kv_channels', value: m.kv_channels },
  vocabSize: { key: 'model.vocab_size', value: m.vocab_size },
  normEpsilon: { key: 'model.layernorm_epsilon', value: m.layernorm_epsilon },
  rotaryBase: { key: 'model.rotary_base', value: m.rotary_base },
  maxPositions: { key: 'model.max_position_embeddings', value: m.max_position_embeddings },
  tiedEmbeddings: { key: 'model.share_embeddings_and_output_weights', value: m.share_embeddings_and_output_weights },
});

const askedBlock = (m: Model) => ({
  normalization: { key: 'model.normalization', value: m.normalization },
  activation: { key: 'model.activation', value: activationOf(m) },
  positions: { key: 'model.position_embedding_type', value: m.position_embedding_type },
  rotaryPercentage: { key: 'model.rotary_percentage', value: m.rotary_percentage },
  bias: { key: 'model.bias', value: m.bias },
});

/** Whether gate and up lie in one matrix (`fast-`) is a matter of NeMo's files. */
function activationOf({ activation, openai_gelu }: Model): Activation | null {
  if (activation === null) return null;
  const plain = activation.replace(/^fast-/, '') as Activation;
  return plain === 'gelu' && openai_gelu ? 'gelu-tanh' : plain;
}

/** The checkpoint's shape, with rows for the tokens that the tokenizer has more, and positions stretched if that is asked. */
function knownShape(m: Model, known: LlmShape, tokens: number, check: Checker): LlmShape {
  const block = blockOf(known);
  const wanted = asked(m);
  const vocabSize = Math.max(known.vocabSize, tokens);
  for (const name of Object.keys(wanted) as (keyof typeof wanted)[]) {
    check.known(name === 'vocabSize' ? vocabSize : known[name], wanted[name]);
  }
  const wantedBlock = askedBlock(m);
  for (const name of Object.keys(wantedBlock) as (keyof typeof wantedBlock)[]) {
    // Learned positions are not turned, whatever share is given.
    if (name === 'rotaryPercentage' && block.positions !== 'rope') continue;
    check.known(block[name], wantedBlock[name]);
  }
  const factor = m.seq_len_interpolation_factor;
  const had = known.rotaryScaling;
  if (factor !== null && had && !(had.type === 'linear' && had.factor === factor)) {
    check.complain(
      `model.seq_len_interpolation_factor=${factor}, but the checkpoint's positions are stretched already: ${had.type}, factor ${had.factor}`,
    );
  }
  return { ...known, vocabSize, ...(had ? {} : stretchedBy(m, block, check)) };
}

function newShape(m: Model, tokens: number, check: Checker): LlmShape {
  const wanted = asked(m);
  const hiddenSize = check.needed(wanted.hiddenSize);
  const numAttentionHeads = check.needed(wanted.numAttentionHeads);
  const family = m.mm_cfg.llm.model_type === 'nvgpt' ? NVGPT_BLOCK : LLAMA_BLOCK;
  const block: GptBlock = {
    normalization: m.normalization ?? family.normalization,
    activation: activationOf(m) ?? family.activation,
    positions: m.position_embedding_type ?? family.positions,
    rotaryPercentage: m.rotary_percentage ?? family.rotaryPercentage,
    bias: m.bias ?? family.bias,
  };
  if (m.vocab_size !== null && m.vocab_size < tokens) {
    check.complain(`model.vocab_size=${m.vocab_size}, but the tokenizer has ${tokens} tokens`);
  }
  return {
    numLayers: check.needed(wanted.numLayers),
    hiddenSize,
    ffnHiddenSize: check.needed(wanted.ffnHiddenSize),
    numAttentionHeads,
    numQueryGroups: check.needed(wanted.numQueryGroups, numAttentionHeads),
    headDim: check.needed(wanted.headDim, hiddenSize / numAttentionHeads),
    vocabSize: check.needed(wanted.vocabSize, tokens),
    normEpsilon: check.needed(wanted.normEpsilon, 1e-5),
    rotaryBase: check.needed(wanted.rotaryBase, 10000),
    maxPositions: check.needed(wanted.maxPositions, m.encoder_seq_length),
    tiedEmbeddings: m.share_embeddings_and_output_weights ?? false,
    ...gptOf(block),
    ...stretchedBy(m, block, check),
  };
}

/** NeMo's position interpolation. */
function stretchedBy(
  { seq_len_interpolation_factor: factor }: Model,
  { positions }: GptBlock,
  check: Checker,
): Pick<LlmShape, 'rotaryScaling'> {
  if (factor === null || factor === 1) return {};
  if (positions !== 'rope') {
    check.complain(`model.seq_len_interpolation_factor=${factor}: only rotary positions can be stretched`);
  }
  return { rotaryScaling: { type: 'linear', factor } };
}

function visionShape({ model: m }: NevaConfig, known: VisionShape | undefined, check: Checker): VisionShape {
  const v = m.mm_cfg.vision_encoder;
  const key = (name: string) => `model.mm_cfg.vision_encoder.${name}`;
  const asked = {
    imageSize: { key: key('image_size'), value: v.image_size },
    patchSize: { key: key('patch_dim'), value: v.patch_dim },
    hiddenSize: { key: key('hidden_size'), value: v.hidden_size },
    numLayers: { key: key('num_layers'), value: v.num_layers },
    numAttentionHeads: { key: key('num_attention_heads'), value: v.num_attention_heads },
    ffnHiddenSize: { key: key('ffn_hidden_size'), value: v.ffn_hidden_size },
    normEpsilon: { key: key('layernorm_epsilon'), value: v.layernorm_epsilon },
  };
  // Which state is the feature is the run's choice, not the tower's.
  const feature = { selectLayer: v.vision_select_layer, classTokenLength: v.class_token_length };
  const shape: VisionShape = known
    ? { ...known, ...feature }
    : {
        imageSize: check.needed(asked.imageSize),
        patchSize: check.needed(asked.patchSize),
        hiddenSize: check.needed(asked.hiddenSize),
        numLayers: check.needed(asked.numLayers),
        numAttentionHeads: check.needed(asked.numAttentionHeads),
        ffnHiddenSize: check.needed(asked.ffnHiddenSize),
        normEpsilon: check.needed(asked.normEpsilon, 1e-5),
        ...feature,
      };
  if (known) for (const name of Object.keys(asked) as (keyof typeof asked)[]) check.known(known[name], asked[name]);
  const states = shape.numLayers + 1;
  if (feature.selectLayer >= states || feature.selectLayer < -states) {
    check.complain(`${key('vision_select_layer')}=${feature.selectLayer}, but the tower has ${states} hidden states`);
  }
  return shape;
}
