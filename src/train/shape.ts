/** Shapes from checkpoints and configuration: the checkpoint decides, and a configuration that contradicts it is refused. */
import type { NevaConfig } from '../config/index.ts';
import { UserError } from '../errors.ts';
import type { LlamaShape, NevaShape, VisionShape } from '../model/shapes.ts';

/** What checkpoints say about the parts; undefined where a part starts at random. */
export interface KnownShapes {
  llm?: LlamaShape | undefined;
  vision?: VisionShape | undefined;
  projector?: { type: string } | undefined;
}

interface Asked {
  key: string;
  value: number | boolean | null;
}

/** @param vocabSize rows that the tokenizer needs; the padded number when the LLM starts at random */
export function resolveShape(config: NevaConfig, known: KnownShapes, vocabSize: number): NevaShape {
  const check = new Checker();
  const llm = llmShape(config, known.llm, vocabSize, check);
  const vision = visionShape(config, known.vision, check);
  const projector = {
    type: config.model.mm_cfg.mm_mlp_adapter_type,
    inputSize: vision.hiddenSize,
    outputSize: llm.hiddenSize,
  };
  if (config.model.encoder_seq_length > llm.maxPositions) {
    check.complain(
      `model.encoder_seq_length=${config.model.encoder_seq_length} is more than the ${llm.maxPositions} positions of the language model`,
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
  known(from: number | boolean, { key, value }: Asked): void {
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

function llmShape(
  { model: m }: NevaConfig,
  known: LlamaShape | undefined,
  vocabSize: number,
  check: Checker,
): LlamaShape {
  const asked = {
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
    tiedEmbeddings: {
      key: 'model.share_embeddings_and_output_weights',
      value: m.share_embeddings_and_output_weights,
    },
  } satisfies Record<keyof LlamaShape, Asked>;
  if (known) {
    for (const name of Object.keys(asked) as (keyof LlamaShape)[]) check.known(known[name], asked[name]);
    if (vocabSize > known.vocabSize) {
      check.complain(
        `the tokenizer has ${vocabSize} tokens, but the checkpoint's embedding only ${known.vocabSize} rows`,
      );
    }
    return known;
  }
  const hiddenSize = check.needed(asked.hiddenSize);
  const numAttentionHeads = check.needed(asked.numAttentionHeads);
  const multiple = m.make_vocab_size_divisible_by * m.tensor_model_parallel_size;
  return {
    numLayers: check.needed(asked.numLayers),
    hiddenSize,
    ffnHiddenSize: check.needed(asked.ffnHiddenSize),
    numAttentionHeads,
    numQueryGroups: check.needed(asked.numQueryGroups, numAttentionHeads),
    headDim: check.needed(asked.headDim, hiddenSize / numAttentionHeads),
    vocabSize: check.needed(asked.vocabSize, Math.ceil(vocabSize / multiple) * multiple),
    normEpsilon: check.needed(asked.normEpsilon, 1e-5),
    rotaryBase: check.needed(asked.rotaryBase, 10000),
    maxPositions: check.needed(asked.maxPositions, m.encoder_seq_length),
    tiedEmbeddings: m.share_embeddings_and_output_weights ?? false,
  };
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
