/** The language model's shape from checkpoint, configuration and tokenizer. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { compose } from '../../src/config/index.ts';
import { isUserError } from '../../src/errors.ts';
import { LLAMA_BLOCK, type LlmShape, NVGPT_BLOCK, type VisionShape } from '../../src/model/shapes.ts';
import { type KnownShapes, resolveShape } from '../../src/train/shape.ts';

const llm: LlmShape = {
  numLayers: 2,
  hiddenSize: 64,
  ffnHiddenSize: 128,
  numAttentionHeads: 4,
  numQueryGroups: 2,
  headDim: 16,
  vocabSize: 1000,
  normEpsilon: 1e-5,
  rotaryBase: 10000,
  maxPositions: 512,
  tiedEmbeddings: false,
};
const vision: VisionShape = {
  imageSize: 32,
  patchSize: 8,
  hiddenSize: 32,
  numLayers: 2,
  numAttentionHeads: 2,
  ffnHiddenSize: 64,
  normEpsilon: 1e-5,
  selectLayer: -2,
  classTokenLength: 1,
};

/** The shape of the language model by the demo's configuration with `overrides`. */
function resolved(overrides: string[], known: KnownShapes = { llm, vision }, tokens = 1000): LlmShape {
  const { config } = compose({
    configName: 'neva_pretrain',
    overrides: [
      'model.make_vocab_size_divisible_by=1',
      'model.mm_cfg.vision_encoder.vision_select_layer=-2',
      ...overrides,
    ],
  });
  return resolveShape(config, known, tokens).llm;
}

const refuses = (overrides: string[], expected: RegExp, known?: KnownShapes, tokens?: number) =>
  assert.throws(
    () => resolved(overrides, known, tokens),
    (error: unknown) => isUserError(error) && expected.test(error.message),
  );

const sizes = ['num_layers=2', 'hidden_size=64', 'ffn_hidden_size=128', 'num_attention_heads=4'].map(
  (k) => `model.${k}`,
);
const random: KnownShapes = { vision };
const { numQueryGroups: _, ...rest } = llm;
const fresh = { ...rest, numQueryGroups: 4, maxPositions: 256 };

test('from nothing: LLaMA, or NVGPT by model_type, and every key of the block', () => {
  assert.deepEqual(resolved(sizes, random), fresh);
  const nvgpt = [...sizes, 'model.mm_cfg.llm.model_type=nvgpt'];
  assert.deepEqual(resolved(nvgpt, random), { ...fresh, gpt: NVGPT_BLOCK });
  const keys = ['normalization=layernorm', 'activation=fast-geglu', 'bias=true', 'rotary_percentage=0.25'];
  const all = [...nvgpt, ...keys.map((key) => `model.${key}`), 'model.position_embedding_type=learned_absolute'];
  assert.deepEqual(resolved(all, random).gpt, {
    normalization: 'layernorm',
    activation: 'geglu',
    positions: 'learned_absolute',
    rotaryPercentage: 0.25,
    bias: true,
  });
  const gpt2 = [...nvgpt, 'model.activation=gelu', 'model.openai_gelu=true'];
  assert.equal(resolved(gpt2, random).gpt?.activation, 'gelu-tanh');
  refuses([...nvgpt, 'model.rotary_percentage=0.2'], /rotary_percentage=0.2[\s\S]*16/, random);
});

test('NVGPT’s configurations describe NVGPT’s block', () => {
  const named = (name: string, more: string[] = []) =>
    resolved([`model=${name}`, 'model.mm_cfg.llm.from_pretrained=null', ...more], random);
  const { gpt, numLayers, hiddenSize, ffnHiddenSize, numAttentionHeads, headDim } = named('nvgpt_8b');
  assert.deepEqual(gpt, NVGPT_BLOCK);
  assert.deepEqual([numLayers, hiddenSize, ffnHiddenSize, numAttentionHeads, headDim], [32, 4096, 16384, 32, 128]);
  assert.deepEqual(named('nvgpt_22b').gpt, NVGPT_BLOCK);
  assert.equal(named('nvgpt_22b').headDim, 128);
  assert.deepEqual(named('nvgpt_43b', sizes).gpt, NVGPT_BLOCK);
  // A checkpoint of LLaMA under NVGPT's configuration.
  refuses(
    ['model=nvgpt_8b', 'model.mm_cfg.llm.from_pretrained=x'],
    /ffn_hidden_size=16384[\s\S]*has 128[\s\S]*normalization=layernorm1p[\s\S]*rmsnorm[\s\S]*rotary_percentage=0\.5/,
  );
});

test('a checkpoint decides, and what contradicts it is refused key by key', () => {
  const nvgpt = { llm: { ...llm, gpt: NVGPT_BLOCK }, vision };
  assert.deepEqual(resolved([], nvgpt), nvgpt.llm);
  assert.deepEqual(resolved(['model.activation=squared-relu', 'model.rotary_percentage=0.5'], nvgpt), nvgpt.llm);
  assert.deepEqual(resolved(['model.activation=swiglu', 'model.normalization=rmsnorm']), llm);
  refuses(
    ['model.activation=fast-swiglu', 'model.normalization=rmsnorm', 'model.bias=true', 'model.num_layers=3'],
    /num_layers=3[\s\S]*has 2[\s\S]*normalization=rmsnorm[\s\S]*layernorm1p[\s\S]*activation=swiglu[\s\S]*squared-relu[\s\S]*bias=true/,
    nvgpt,
  );
  refuses(['model.position_embedding_type=learned_absolute'], /learned_absolute[\s\S]*rope/);
  const learned = { ...llm, gpt: { ...LLAMA_BLOCK, positions: 'learned_absolute' as const } };
  assert.deepEqual(resolved(['model.rotary_percentage=0.5'], { llm: learned, vision }), learned);
});

test('the vocabulary has rows for the tokenizer’s tokens and is padded to a multiple for all ranks', () => {
  const pad = (multiple: number, tp = 1) => [
    `model.make_vocab_size_divisible_by=${multiple}`,
    `model.tensor_model_parallel_size=${tp}`,
  ];
  assert.deepEqual(resolved(pad(128)), { ...llm, paddedVocabSize: 1024 });
  assert.deepEqual(resolved(pad(8)), llm, '1000 is a multiple of 8');
  assert.deepEqual(resolved(pad(128, 4), undefined, 1025), { ...llm, vocabSize: 1025, paddedVocabSize: 1536 });
  assert.deepEqual(resolved([], undefined, 1008), { ...llm, vocabSize: 1008 });
  assert.deepEqual(resolved([], undefined, 900), llm, 'rows that the tokenizer does not use stay');
  const { vocabSize, paddedVocabSize } = resolved([...sizes, ...pad(128)], random);
  assert.deepEqual([vocabSize, paddedVocabSize], [1000, 1024]);
  refuses([...sizes, 'model.vocab_size=900'], /vocab_size=900[\s\S]*1000 tokens/, random);
  refuses(['model.vocab_size=1000'], /vocab_size=1000[\s\S]*1008/, undefined, 1008);
});

test('seq_len_interpolation_factor stretches positions that are not stretched yet', () => {
  const rotaryScaling = { type: 'linear' as const, factor: 4 };
  const factor = 'model.seq_len_interpolation_factor=4';
  assert.deepEqual(resolved([factor]), { ...llm, rotaryScaling });
  assert.deepEqual(resolved([factor], { llm: { ...llm, rotaryScaling }, vision }), { ...llm, rotaryScaling });
  assert.deepEqual(resolved(['model.seq_len_interpolation_factor=1']), llm);
  assert.equal(
    resolved([factor, 'model.encoder_seq_length=2048']).rotaryScaling?.factor,
    4,
    'there is room for 4 × 512',
  );
  refuses(['model.encoder_seq_length=2048'], /2048 is more than the 512/);
  refuses(['model.seq_len_interpolation_factor=2'], /stretched already: linear, factor 4/, {
    llm: { ...llm, rotaryScaling },
    vision,
  });
  const learned = { ...llm, gpt: { ...LLAMA_BLOCK, positions: 'learned_absolute' as const } };
  refuses([factor], /only rotary positions/, { llm: learned, vision });
});
