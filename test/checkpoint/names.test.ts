import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Layout, partOf, readName, writeName } from '../../src/checkpoint/names.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { packageRoot } from '../../src/root.ts';

const OWN = {
  embedding: 'language_model.model.embed_tokens.weight',
  query: 'language_model.model.layers.7.self_attn.q_proj.weight',
  norm: 'language_model.model.norm.weight',
  head: 'language_model.lm_head.weight',
  first: 'multi_modal_projector.linear_1.weight',
  second: 'multi_modal_projector.linear_2.bias',
  patch: 'vision_tower.vision_model.embeddings.patch_embedding.weight',
  block: 'vision_tower.vision_model.encoder.layers.3.self_attn.out_proj.bias',
  before: 'vision_tower.vision_model.pre_layrnorm.weight',
};

/** Spelled out from the layouts' own documentation and files, so that the table of rules is checked and not repeated. */
const LAYOUTS: Record<Layout, Record<keyof typeof OWN, string>> = {
  hf: OWN,
  'hf-new': {
    embedding: 'model.language_model.embed_tokens.weight',
    query: 'model.language_model.layers.7.self_attn.q_proj.weight',
    norm: 'model.language_model.norm.weight',
    head: 'lm_head.weight',
    first: 'model.multi_modal_projector.linear_1.weight',
    second: 'model.multi_modal_projector.linear_2.bias',
    patch: 'model.vision_tower.vision_model.embeddings.patch_embedding.weight',
    block: 'model.vision_tower.vision_model.encoder.layers.3.self_attn.out_proj.bias',
    before: 'model.vision_tower.vision_model.pre_layrnorm.weight',
  },
  llava: {
    embedding: 'model.embed_tokens.weight',
    query: 'model.layers.7.self_attn.q_proj.weight',
    norm: 'model.norm.weight',
    head: 'lm_head.weight',
    first: 'model.mm_projector.0.weight',
    second: 'model.mm_projector.2.bias',
    patch: 'model.vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight',
    block: 'model.vision_tower.vision_tower.vision_model.encoder.layers.3.self_attn.out_proj.bias',
    before: 'model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight',
  },
  part: {
    embedding: 'model.embed_tokens.weight',
    query: 'model.layers.7.self_attn.q_proj.weight',
    norm: 'model.norm.weight',
    head: 'lm_head.weight',
    first: 'model.mm_projector.0.weight',
    second: 'model.mm_projector.2.bias',
    patch: 'vision_model.embeddings.patch_embedding.weight',
    block: 'vision_model.encoder.layers.3.self_attn.out_proj.bias',
    before: 'vision_model.pre_layrnorm.weight',
  },
};

for (const [layout, names] of Object.entries(LAYOUTS)) {
  test(`the ${layout} layout is read and written`, () => {
    for (const [what, name] of Object.entries(names)) {
      const own = OWN[what as keyof typeof OWN];
      assert.deepEqual(readName(name), { name: own, part: partOf(own) });
      assert.equal(writeName(own, layout as Layout), name);
    }
  });
}

test('a linear projector has no number in LLaVA', () => {
  assert.equal(writeName('multi_modal_projector.linear_1.bias', 'llava', true), 'model.mm_projector.bias');
  for (const name of ['model.mm_projector.bias', 'mm_projector.bias']) {
    assert.deepEqual(readName(name), { name: 'multi_modal_projector.linear_1.bias', part: 'projector' });
  }
  assert.equal(
    (readName('model.mm_projector.4.weight') as { name: string }).name,
    'multi_modal_projector.linear_3.weight',
  );
  assert.equal(readName('model.mm_projector.1.weight'), null);
});

test('buffers and the text half of CLIP are dropped with a reason; anything else is unknown', () => {
  for (const name of [
    'model.layers.0.self_attn.rotary_emb.inv_freq',
    'vision_model.embeddings.position_ids',
    'text_model.encoder.layers.0.mlp.fc1.weight',
    'text_model.embeddings.position_ids',
    'logit_scale',
    'visual_projection.weight',
  ]) {
    assert.ok('dropped' in readName(name)!, name);
  }
  for (const name of ['image_newline', 'model.image_newline', 'transformer.h.0.attn.weight', 'lm_head.bias', '']) {
    assert.equal(readName(name), null, name);
  }
});

test('every name that transformers saved, whole or in parts, is read to one and the same set', () => {
  const read = (folder: string) =>
    [...readSafetensors(join(packageRoot, 'test/fixtures/llava', folder, 'model.safetensors')).entries.keys()].map(
      (name) => (readName(name) as { name: string }).name,
    );
  const whole = read('model').sort();
  const parts = [...read('llm'), ...read('vision')].sort();
  assert.deepEqual(
    parts,
    whole.filter((name) => partOf(name) !== 'projector'),
  );
  assert.equal(new Set(whole).size, whole.length);
});
