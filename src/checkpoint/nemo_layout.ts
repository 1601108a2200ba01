/**
 * NeMo's weights: names, fused layouts, and how each is split over tensor-parallel ranks
 * (convert_llama_hf_to_nemo.py, convert_external_clip_to_nemo.py, megatron_change_num_partitions.py of NeMo 2.0.0rc0).
 */
import { isGated } from '../model/mlp.ts';
import { blockOf, type LlmShape, type VisionShape } from '../model/shapes.ts';

/**
 * How a weight lies over the ranks and what it is made of.
 * - `replicate`: every rank has the whole; `rows`, `columns`: split along the first or last dimension
 * - `vocab`: rows, after padding with zeros to a multiple
 * - `qkv`: for each query group its query heads, its key, its value; groups are split
 * - `blocks`: several own weights one after the other, each split by rows: a rank has its part of each
 */
export type Split = 'replicate' | 'rows' | 'columns' | 'vocab' | 'qkv' | 'blocks';

export interface NemoWeight {
  /** NeMo's name after `model.`; {L} is the block's number. */
  nemo: string;
  /** Other spellings that are read. */
  also?: string;
  /** neva's names; several where NeMo has them fused. */
  own: readonly string[];
  split: Split;
  /** Shape of the whole, merged and without padding. */
  shape: readonly number[];
  /** neva's shape where it is another one of as many elements. */
  ownShape?: readonly number[];
}

/** `legacy`: NeMo's own GPTModel (mcore_gpt: False); `mcore`: Megatron-core's. */
export type NemoNames = 'legacy' | 'mcore';

const SPELLING = {
  legacy: {
    embedding: 'language_model.embedding.word_embeddings',
    positions: 'language_model.embedding.position_embeddings.weight',
    layers: 'language_model.encoder.layers.{L}.',
    qkv: 'self_attention.query_key_value',
    attentionOut: 'self_attention.dense',
    gateUp: 'mlp.dense_h_to_4h',
    down: 'mlp.dense_4h_to_h',
    inputNorm: ['input_layernorm.'],
    postNorm: ['post_attention_layernorm.'],
    norm: 'language_model.encoder.final_layernorm.',
    head: 'language_model.output_layer.weight',
  },
  mcore: {
    embedding: 'embedding.word_embeddings',
    positions: 'embedding.position_embeddings.weight',
    layers: 'decoder.layers.{L}.',
    qkv: 'self_attention.linear_qkv',
    attentionOut: 'self_attention.linear_proj',
    gateUp: 'mlp.linear_fc1',
    down: 'mlp.linear_fc2',
    // The second of each is the name without Transformer Engine.
    inputNorm: ['self_attention.linear_qkv.layer_norm_', 'input_layernorm.'],
    postNorm: ['mlp.linear_fc1.layer_norm_', 'pre_mlp_layernorm.'],
    norm: 'decoder.final_layernorm.',
    head: 'output_layer.weight',
  },
} as const;

/** The language model's weights. `separateUp`: legacy's activations without `fast-` keep gate and up apart. */
export function llmWeights(names: NemoNames, s: LlmShape, separateUp = false): NemoWeight[] {
  const n = SPELLING[names];
  const own = 'language_model.model.';
  const [C, F, D] = [s.hiddenSize, s.ffnHiddenSize, s.headDim];
  const { normalization, activation, positions, bias } = blockOf(s);
  const linear = (nemo: string, body: readonly string[], split: Split, shape: readonly [number, number]) =>
    (bias ? (['weight', 'bias'] as const) : (['weight'] as const)).map(
      (kind): NemoWeight => ({
        nemo: `${n.layers}${nemo}.${kind}`,
        own: body.map((name) => `${own}layers.{L}.${name}.${kind}`),
        // The bias of a column split is added once, after the sum over ranks.
        split: split === 'columns' && kind === 'bias' ? 'replicate' : split,
        shape: kind === 'bias' ? [shape[0]] : shape,
      }),
    );
  const norm = (prefix: string, [nemo, also]: readonly [string, string?], body: string) =>
    (normalization === 'rmsnorm' ? (['weight'] as const) : (['weight', 'bias'] as const)).map(
      (kind): NemoWeight => ({
        nemo: prefix + nemo + kind,
        ...(also ? { also: prefix + also + kind } : {}),
        own: [`${own}${body}.${kind}`],
        split: 'replicate',
        shape: [C],
      }),
    );
  const vocabulary = (nemo: string, name: string): NemoWeight => ({
    nemo,
    own: [name],
    split: 'vocab',
    shape: [s.vocabSize, C],
  });
  const qkv = ['q', 'k', 'v'].map((which) => `self_attn.${which}_proj`);
  const mlp = (): NemoWeight[] => {
    if (!isGated(activation)) return linear(n.gateUp, ['mlp.up_proj'], 'rows', [F, C]);
    if (!separateUp) return linear(n.gateUp, ['mlp.gate_proj', 'mlp.up_proj'], 'blocks', [2 * F, C]);
    return [
      ...linear(n.gateUp, ['mlp.gate_proj'], 'rows', [F, C]),
      ...linear(`${n.gateUp}_2`, ['mlp.up_proj'], 'rows', [F, C]),
    ];
  };
  const table: NemoWeight = {
    nemo: n.positions,
    own: [`${own}embed_positions.weight`],
    split: 'replicate',
    shape: [s.maxPositions, C],
  };
  return [
    vocabulary(`${n.embedding}.weight`, `${own}embed_tokens.weight`),
    ...(positions === 'rope' ? [] : [table]),
    ...norm(n.layers, n.inputNorm, 'layers.{L}.input_layernorm'),
    ...linear(n.qkv, qkv, 'qkv', [(s.numAttentionHeads + 2 * s.numQueryGroups) * D, C]),
    ...linear(n.attentionOut, ['self_attn.o_proj'], 'columns', [C, s.numAttentionHeads * D]),
    ...norm(n.layers, n.postNorm, 'layers.{L}.post_attention_layernorm'),
    ...mlp(),
    ...linear(n.down, ['mlp.down_proj'], 'columns', [C, F]),
    ...norm('', [n.norm], 'norm'),
    ...(s.tiedEmbeddings ? [] : [vocabulary(n.head, 'language_model.lm_head.weight')]),
  ];
}

/** The tower's weights in a CLIP archive. Its qkv is not grouped: all queries, all keys, all values. */
export function visionWeights(s: VisionShape): NemoWeight[] {
  const own = 'vision_tower.vision_model.';
  const nemo = 'vision_encoder.backbone.';
  const [C, F, side] = [s.hiddenSize, s.ffnHiddenSize, Math.floor(s.imageSize / s.patchSize)];
  const one = (name: string, body: string, shape: readonly number[], also?: string): NemoWeight => ({
    nemo: nemo + name,
    own: [own + body],
    split: 'replicate',
    shape,
    ...(also ? { also: nemo + also } : {}),
  });
  const pair = (name: string, body: readonly string[], split: Split, out: number, inner: number): NemoWeight[] =>
    (['weight', 'bias'] as const).map((kind) => ({
      nemo: `${nemo}${name}.${kind}`,
      own: body.map((each) => `${own}${each}.${kind}`),
      // The bias of a column split is added once, after the sum over ranks.
      split: split === 'columns' && kind === 'bias' ? 'replicate' : split,
      shape: kind === 'bias' || inner === 0 ? [out] : [out, inner],
    }));
  const block = 'encoder.layers.{L}.';
  const layer = 'transformer.layers.{L}.';
  const qkv = ['q', 'k', 'v'].map((which) => `${block}self_attn.${which}_proj`);
  return [
    { ...one('cls_token', 'embeddings.class_embedding', [1, 1, C]), ownShape: [C] },
    one('conv1.weight', 'embeddings.patch_embedding.weight', [C, 3, s.patchSize, s.patchSize]),
    one(
      'position_embeddings',
      'embeddings.position_embedding.weight',
      [side * side + 1, C],
      'position_embeddings.weight',
    ),
    ...pair('preprocess_layernorm', ['pre_layrnorm'], 'replicate', C, 0),
    ...pair(`${layer}input_layernorm`, [`${block}layer_norm1`], 'replicate', C, 0),
    ...pair(`${layer}self_attention.query_key_value`, qkv, 'blocks', 3 * C, C),
    ...pair(`${layer}self_attention.dense`, [`${block}self_attn.out_proj`], 'columns', C, C),
    ...pair(`${layer}post_attention_layernorm`, [`${block}layer_norm2`], 'replicate', C, 0),
    ...pair(`${layer}mlp.dense_h_to_4h`, [`${block}mlp.fc1`], 'rows', F, C),
    ...pair(`${layer}mlp.dense_4h_to_h`, [`${block}mlp.fc2`], 'columns', C, F),
    ...pair('transformer.final_layernorm', ['post_layernorm'], 'replicate', C, 0),
  ];
}

/** Where NeMo keeps the projector: a plain module, the same on every rank. */
export const adapterPrefix = (names: NemoNames): string =>
  `${SPELLING[names].embedding}.adapter_layer.mm_projector_adapter.mm_projector.`;

/** A projector's name in NeMo after the part that differs, in LLaVA's spelling (`mm_projector.0.weight`), or null. */
export function adapterName(nemo: string): string | null {
  const match = /\.adapter_layer\.(?:mm_projector_adapter\.mm_projector|mm_linear_adapter\.linear)\.(.+)$/.exec(nemo);
  return match && `mm_projector.${match[1]}`;
}

/** Whether a name is NeMo's: none of Hugging Face's or LLaVA's begins so. */
export const isNemoName = (name: string): boolean =>
  /^model\.(?:module\.)?(?:language_model\.(?:embedding|encoder|output_layer|rotary_pos_emb)|decoder|embedding|output_layer|rotary_pos_emb|vision_encoder)\./.test(
    name,
  );

/** What is in archives and no weight of the model, or of a half of CLIP that neva has no use for, or there twice. */
export const isIgnored = (nemo: string): boolean =>
  /(?:_extra_state|inv_freq)$|^(?:text_encoder|logit_scale|vision_encoder\.head|word_embeddings_for_head)\b/.test(nemo);
