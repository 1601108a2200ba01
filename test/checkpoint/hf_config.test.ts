import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readConfigShapes, writeConfig } from '../../src/checkpoint/hf_config.ts';
import { llmType } from '../../src/checkpoint/hf_llm.ts';
import { isUserError } from '../../src/errors.ts';
import { type GptBlock, LLAMA_BLOCK, type NevaShape, NVGPT_BLOCK } from '../../src/model/shapes.ts';
import { fixture, readJson } from '../support/fixtures.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-config-'));
after(() => rmSync(folder, { recursive: true }));

function read(config: object) {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  return readConfigShapes(folder)!;
}

const tiny = readJson('llava/model/config.json');

test('what transformers saved of the tiny LLaVA, whole and in parts', () => {
  const whole = readConfigShapes(fixture('llava/model'))!;
  assert.equal(whole.kind, 'llava');
  assert.deepEqual(whole.llm, {
    numLayers: 3,
    hiddenSize: 48,
    ffnHiddenSize: 80,
    numAttentionHeads: 6,
    numQueryGroups: 2,
    headDim: 8,
    vocabSize: 96,
    normEpsilon: 1e-5,
    rotaryBase: 10000,
    maxPositions: 128,
    tiedEmbeddings: false,
  });
  assert.deepEqual(whole.vision, {
    imageSize: 28,
    patchSize: 7,
    hiddenSize: 32,
    numLayers: 3,
    numAttentionHeads: 4,
    ffnHiddenSize: 64,
    normEpsilon: 1e-5,
    selectLayer: -2,
    classTokenLength: 1,
  });
  assert.deepEqual(whole.projector, { type: 'mlp2x_gelu', inputSize: 32, outputSize: 48 });
  assert.deepEqual(readConfigShapes(fixture('llava/llm')), { kind: 'llm', llm: whole.llm });
  assert.deepEqual(readConfigShapes(fixture('llava/vision')), { kind: 'clip', vision: whole.vision });
});

test('a folder without config.json has none', () => {
  assert.equal(readConfigShapes(join(folder, 'nowhere')), null);
});

// As on the hub: transformers 4 leaves out what equals the class's default.
test('llava-1.5-7b-hf: what its config.json leaves out are LlamaConfig’s defaults', () => {
  const { llm, vision } = read({
    model_type: 'llava',
    image_token_index: 32000,
    projector_hidden_act: 'gelu',
    text_config: { model_type: 'llama', max_position_embeddings: 4096, rms_norm_eps: 1e-5, vocab_size: 32064 },
    vision_config: {
      model_type: 'clip_vision_model',
      hidden_size: 1024,
      image_size: 336,
      intermediate_size: 4096,
      num_attention_heads: 16,
      num_hidden_layers: 24,
      patch_size: 14,
      projection_dim: 768,
      vocab_size: 32000,
    },
    vision_feature_layer: -2,
    vision_feature_select_strategy: 'default',
  });
  assert.deepEqual(
    [llm!.hiddenSize, llm!.numLayers, llm!.ffnHiddenSize, llm!.numQueryGroups, llm!.headDim, llm!.vocabSize],
    [4096, 32, 11008, 32, 128, 32064],
  );
  assert.deepEqual([vision!.imageSize, vision!.patchSize, vision!.numLayers, vision!.normEpsilon], [336, 14, 24, 1e-5]);
});

test('rope_theta in the old place and in the new one', () => {
  assert.equal(read({ model_type: 'llama', rope_theta: 5e5 }).llm!.rotaryBase, 5e5);
  const parameters = { rope_theta: 1e6, rope_type: 'default' };
  assert.equal(read({ model_type: 'llama', rope_parameters: parameters }).llm!.rotaryBase, 1e6);
  assert.equal(read({ model_type: 'llama', rope_scaling: null }).llm!.rotaryBase, 10000);
});

test('Llama-3.1-8B as it is on the hub', () => {
  const { llm } = read({
    model_type: 'llama',
    hidden_size: 4096,
    intermediate_size: 14336,
    max_position_embeddings: 131072,
    num_attention_heads: 32,
    num_hidden_layers: 32,
    num_key_value_heads: 8,
    rms_norm_eps: 1e-5,
    rope_scaling: {
      factor: 8.0,
      low_freq_factor: 1.0,
      high_freq_factor: 4.0,
      original_max_position_embeddings: 8192,
      rope_type: 'llama3',
    },
    rope_theta: 500000.0,
    vocab_size: 128256,
  });
  assert.deepEqual([llm!.numQueryGroups, llm!.headDim, llm!.rotaryBase], [8, 128, 5e5]);
  assert.deepEqual(llm!.rotaryScaling, {
    type: 'llama3',
    factor: 8,
    lowFrequencyFactor: 1,
    highFrequencyFactor: 4,
    originalPositions: 8192,
  });
});

test('embeddings are tied when the whole or its language model says so', () => {
  assert.equal(read({ ...tiny, tie_word_embeddings: true }).llm!.tiedEmbeddings, true);
  const text_config = { ...tiny.text_config, tie_word_embeddings: true };
  assert.equal(read({ ...tiny, text_config }).llm!.tiedEmbeddings, true);
  assert.equal(read(tiny).llm!.tiedEmbeddings, false);
});

test('the class token is kept by the strategy full', () => {
  const full = { ...tiny, vision_feature_select_strategy: 'full', image_seq_length: 17 };
  assert.equal(read(full).vision!.classTokenLength, 0);
});

test('in a whole CLIP’s older config, vision_config_dict counts', () => {
  const config = { model_type: 'clip', vision_config: { hidden_size: 768 }, vision_config_dict: { hidden_size: 1024 } };
  assert.equal(read(config).vision!.hiddenSize, 1024);
});

test('a LLaVA original gives its language model and projector; the tower is elsewhere', () => {
  const config = read({
    model_type: 'llava_llama',
    hidden_size: 64,
    mm_hidden_size: 32,
    mm_projector_type: 'mlp2x_gelu',
    mm_vision_tower: 'openai/clip-vit-large-patch14-336',
    mm_vision_select_layer: -3,
    mm_vision_select_feature: 'cls_patch',
  });
  assert.deepEqual(Object.keys(config).sort(), ['feature', 'kind', 'llm', 'projector', 'visionTower']);
  assert.equal(config.visionTower, 'openai/clip-vit-large-patch14-336');
  assert.deepEqual(config.feature, { selectLayer: -3, classTokenLength: 0 });
  assert.deepEqual(config.projector, { type: 'mlp2x_gelu', inputSize: 32, outputSize: 64 });
});

const blocks: GptBlock[] = [
  NVGPT_BLOCK,
  { ...NVGPT_BLOCK, bias: true, activation: 'gelu-tanh', rotaryPercentage: 0.25 },
  { ...NVGPT_BLOCK, activation: 'swiglu' },
  { normalization: 'layernorm', activation: 'gelu', positions: 'learned_absolute', rotaryPercentage: 1, bias: true },
  { ...LLAMA_BLOCK, bias: true },
  { ...LLAMA_BLOCK, bias: 'attention' },
  { ...NVGPT_BLOCK, bias: 'mlp' },
  { ...NVGPT_BLOCK, activation: 'geglu', bias: 'attention' },
];

test('blocks are written as the class of transformers that has them', () => {
  const { llm } = read(tiny) as unknown as NevaShape;
  const types = [undefined, ...blocks].map((gpt) => llmType(gpt ? { ...llm, gpt } : llm));
  assert.deepEqual(types, ['llama', 'nemotron', 'nemotron', 'nvgpt', 'nvgpt', 'llama', 'llama', 'nemotron', 'nvgpt']);
});

test('NemotronConfig’s defaults, for what a file leaves out', () => {
  const { llm } = read({ model_type: 'nemotron' });
  assert.deepEqual(
    [llm!.hiddenSize, llm!.numAttentionHeads, llm!.headDim, llm!.vocabSize, llm!.normEpsilon],
    [6144, 48, 128, 256000, 1e-5],
  );
  assert.deepEqual(llm!.gpt, NVGPT_BLOCK);
});

test('shapes written are shapes read', () => {
  const { llm, vision, projector } = read(tiny) as unknown as NevaShape;
  for (const shape of [
    { llm, vision, projector },
    { llm: { ...llm, rotaryBase: 12345, tiedEmbeddings: true, headDim: 16 }, vision, projector },
    ...blocks.map((gpt) => ({ llm: { ...llm, gpt }, vision, projector })),
    { llm, vision: { ...vision, selectLayer: -1, classTokenLength: 0 }, projector: { ...projector, type: 'linear' } },
  ]) {
    assert.deepEqual(read(writeConfig(shape)), { kind: 'llava', ...shape });
  }
});

const text = (more: object) => ({ ...tiny, text_config: { ...tiny.text_config, ...more } });
const tower = (more: object) => ({ ...tiny, vision_config: { ...tiny.vision_config, ...more } });
const refused: [string, object, RegExp][] = [
  ['another model', { model_type: 'qwen2_vl' }, /qwen2_vl/],
  ['no model_type', {}, /model_type/],
  ['a language model that is no LLaMA', text({ model_type: 'mistral' }), /text_config[\s\S]*mistral/],
  ['a tower that is no CLIP', tower({ model_type: 'siglip_vision_model' }), /vision_config[\s\S]*siglip/],
  ['a tower with exact GELU', tower({ hidden_act: 'gelu' }), /quick_gelu[\s\S]*gelu/],
  [
    'llama 3 positions without their borders',
    { model_type: 'llama', rope_scaling: { rope_type: 'llama3', factor: 8 } },
    /low_freq_factor/,
  ],
  ['stretched positions without a factor', { model_type: 'llama', rope_scaling: { type: 'linear' } }, /factor/],
  ['YaRN without a factor', text({ rope_parameters: { rope_theta: 1e4, rope_type: 'yarn' } }), /factor/],
  [
    'another way of stretching positions',
    text({ rope_parameters: { rope_theta: 1e4, rope_type: 'longrope' } }),
    /rope scaling[\s\S]*linear, dynamic, llama3 or yarn[\s\S]*longrope/,
  ],
  ['a Nemotron with a gate', { model_type: 'nemotron', hidden_act: 'silu' }, /hidden_act[\s\S]*relu2[\s\S]*silu/],
  ['an NVGPT with an unknown norm', { model_type: 'nvgpt', normalization: 'scalenorm' }, /layernorm1p[\s\S]*scalenorm/],
  ['biases that are no yes or no', { model_type: 'llama', attention_bias: 'qkv' }, /attention_bias[\s\S]*"qkv"/],
  ['GPT-2 as Hugging Face has it', { model_type: 'gpt2' }, /"gpt2"[\s\S]*NeMo's archives/],
  [
    'a number of image positions that is not the tower’s',
    { ...tiny, image_seq_length: 576 },
    /image_seq_length[\s\S]*expected: 16[\s\S]*found: +576/,
  ],
  ['several feature layers', { ...tiny, vision_feature_layer: [-2, -5] }, /vision_feature_layer/],
  [
    'an unknown strategy',
    { ...tiny, vision_feature_select_strategy: 'cls' },
    /vision_feature_select_strategy[\s\S]*cls/,
  ],
  ['a projector without biases', { ...tiny, multimodal_projector_bias: false }, /multimodal_projector_bias/],
  ['a projector with another activation', { ...tiny, projector_hidden_act: 'relu' }, /projector_hidden_act[\s\S]*relu/],
  [
    'LLaVA 1.6',
    { model_type: 'llava_llama', mm_projector_type: 'linear', mm_patch_merge_type: 'spatial_unpad' },
    /spatial_unpad/,
  ],
  ['a size that is no number', { model_type: 'llama', hidden_size: '4096' }, /hidden_size/],
  ['heads that do not divide', { model_type: 'llama', hidden_size: 100, num_attention_heads: 3 }, /head/],
  ['groups that do not divide', { model_type: 'llama', num_key_value_heads: 5 }, /num_key_value_heads/],
  ['an epsilon of zero', { model_type: 'llama', rms_norm_eps: 0 }, /rms_norm_eps/],
];
for (const [what, config, expected] of refused) {
  test(`refused, naming the file: ${what}`, () => {
    assert.throws(
      () => read(config),
      (e: unknown) => isUserError(e) && e.message.includes(join(folder, 'config.json')) && expected.test(e.message),
    );
  });
}
