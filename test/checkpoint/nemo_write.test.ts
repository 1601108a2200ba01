/** Archives that neva writes: back to Hugging Face bit for bit at every parallel size, and as Python's tar and torch see them. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type ConvertOptions, convert } from '../../src/checkpoint/convert.ts';
import { llmConfig } from '../../src/checkpoint/hf_llm.ts';
import { writeSafetensors } from '../../src/checkpoint/safetensors.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { packageRoot } from '../../src/root.ts';
import { assertSame, contentsOf } from '../support/contents.ts';
import { fixture } from '../support/fixtures.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-nemo-write-'));
after(() => rmSync(folder, { recursive: true }));
const hf = fixture('foreign/hf');
const expected = contentsOf(openWeights(hf).entries);
let count = 0;

function converted(options: Partial<ConvertOptions>, suffix = '.nemo'): string {
  const out = join(folder, `${count++}${suffix}`);
  convert({ from: hf, to: 'nemo', out, part: 'all', dtype: null, tp: 1, pp: 1, ...options });
  return out;
}

const refuses = (options: Partial<ConvertOptions>, pattern: RegExp) => {
  const before = readdirSync(folder);
  assert.throws(
    () => converted(options),
    (error: unknown) => isUserError(error) && pattern.test(error.message),
  );
  assert.deepEqual(readdirSync(folder), before);
};

for (const to of ['nemo', 'nemo-mcore'] as const) {
  for (const [tp, pp] of [
    [1, 1],
    [2, 1],
    [1, 2],
    [2, 2],
  ] as const) {
    test(`hf → ${to} tp ${tp} pp ${pp} → hf is the same bit for bit`, () => {
      const nemo = converted({ to, tp, pp });
      const back = converted({ from: nemo, to: 'hf', part: 'llm' }, '');
      assertSame(contentsOf(openWeights(back).entries), expected, (name) => name.startsWith('language_model.'));
      assert.deepEqual(openWeights(back).config?.llm, openWeights(hf).config?.llm);
      assert.ok(existsSync(join(back, 'tokenizer.model')));
      assertSame(contentsOf(openWeights(nemo).entries), expected, (name) => !name.startsWith('vision_tower.'));
    });
  }
}

test('from one parallel size and naming to another, with every head split', () => {
  const two = converted({ part: 'llm', tp: 2, pp: 2 });
  const one = converted({ from: two, to: 'nemo-mcore', part: 'llm' });
  const again = converted({ from: one, part: 'llm', tp: 2 });
  assertSame(contentsOf(openWeights(again).entries), expected, (name) => name.startsWith('language_model.'));
});

/** A LLaMA of eight heads, with a vocabulary so small that some ranks hold nothing but padding. */
function eightHeads(groups: number): string {
  const model = join(folder, `heads-${groups}`);
  const [C, F, V, D] = [16, 32, 10, 2];
  const shapes: [string, number[]][] = [
    ['model.embed_tokens.weight', [V, C]],
    ['model.norm.weight', [C]],
    ['lm_head.weight', [V, C]],
  ];
  for (const layer of ['model.layers.0', 'model.layers.1']) {
    for (const [name, shape] of [
      ['self_attn.q_proj', [8 * D, C]],
      ['self_attn.k_proj', [groups * D, C]],
      ['self_attn.v_proj', [groups * D, C]],
      ['self_attn.o_proj', [C, 8 * D]],
      ['mlp.gate_proj', [F, C]],
      ['mlp.up_proj', [F, C]],
      ['mlp.down_proj', [C, F]],
      ['input_layernorm', [C]],
      ['post_attention_layernorm', [C]],
    ] as const) {
      shapes.push([`${layer}.${name}.weight`, [...shape]]);
    }
  }
  mkdirSync(model, { recursive: true });
  let next = 0;
  const tensors = shapes.map(([name, shape]) => ({
    name,
    shape,
    dtype: 'float32' as const,
    data: () => new Uint8Array(new Float32Array(shape.reduce((a, b) => a * b)).map(() => next++).buffer),
  }));
  writeSafetensors(join(model, 'model.safetensors'), tensors);
  const config = {
    numLayers: 2,
    hiddenSize: C,
    ffnHiddenSize: F,
    numAttentionHeads: 8,
    numQueryGroups: groups,
    headDim: D,
    vocabSize: V,
    normEpsilon: 1e-5,
    rotaryBase: 5e5,
    maxPositions: 32,
    tiedEmbeddings: false,
  };
  writeFileSync(join(model, 'config.json'), JSON.stringify(llmConfig(config)));
  return model;
}

for (const [groups, sizes] of [
  [8, [1, 2, 4, 8]],
  [4, [1, 2, 4]],
] as const) {
  for (const to of ['nemo', 'nemo-mcore'] as const) {
    test(`${groups} groups of eight heads: ${to} at ${sizes} ranks, one stage and two, to all other sizes, and back`, () => {
      const model = eightHeads(groups);
      const other = to === 'nemo' ? 'nemo-mcore' : 'nemo';
      const expected = contentsOf(openWeights(model).entries);
      for (const tp of sizes) {
        for (const pp of [1, 2]) {
          const many = converted({ from: model, part: 'llm', tp, pp, to });
          for (const next of sizes.filter((size) => size !== tp)) {
            const few = converted({ from: many, part: 'llm', tp: next, pp: 3 - pp, to: other });
            const back = openWeights(converted({ from: few, part: 'llm', to: 'hf' }, ''));
            assertSame(contentsOf(back.entries), expected);
            assert.deepEqual(back.config, openWeights(model).config);
          }
        }
      }
    });
  }
}

test('the vision tower as a CLIP archive, the projector as one of its own', () => {
  for (const tp of [1, 2]) {
    const { entries, config } = openWeights(converted({ part: 'vision', tp }));
    assertSame(contentsOf(entries), expected, (name) => name.startsWith('vision_tower.'));
    assert.deepEqual(config, { kind: 'clip', vision: openWeights(hf).config?.vision });
    const projector = openWeights(converted({ part: 'projector', to: 'nemo-mcore', tp }));
    assertSame(contentsOf(projector.entries), expected, (name) => name.startsWith('multi_modal_projector.'));
    assert.deepEqual(projector.config?.projector, openWeights(hf).config?.projector);
  }
});

test('all of a model that is but one part is that part', () => {
  const llm = converted({ from: fixture('foreign/llm_mcore_tp2.nemo'), to: 'hf' }, '');
  assert.equal(openWeights(llm).config?.kind, 'llm');
  const tower = converted({ from: fixture('foreign/clip_tp2.nemo'), to: 'hf' }, '');
  assertSame(contentsOf(openWeights(tower).entries), expected, (name) => name.startsWith('vision_tower.'));
});

test('a folder where --out does not end in .nemo', () => {
  const out = converted({ tp: 2 }, '');
  assert.deepEqual(
    readdirSync(out).filter((name) => !/tokenizer/.test(name)),
    ['model_config.yaml', 'mp_rank_00', 'mp_rank_01'],
  );
  assertSame(contentsOf(openWeights(out).entries), expected, (name) => !name.startsWith('vision_tower.'));
});

test('LLaVA’s own layout, with its tower only named, goes through NeMo and back', () => {
  const nemo = converted({ from: fixture('foreign/original'), tp: 2 });
  assert.equal(openWeights(nemo).config?.visionTower, 'openai/clip-tiny');
  const back = converted({ from: nemo, to: 'llava' }, '');
  assert.equal(openWeights(back).config?.visionTower, 'openai/clip-tiny');
  assertSame(contentsOf(openWeights(back).entries), expected, (name) => !name.startsWith('vision_tower.'));
});

test('--dtype converts every weight', () => {
  const out = join(folder, 'wide.nemo');
  convert({ from: hf, to: 'nemo', out, part: 'llm', dtype: 'float32', tp: 2, pp: 1 });
  for (const { dtype } of openWeights(out).entries.values()) assert.equal(dtype, 'float32');
  const back = join(folder, 'narrow');
  convert({ from: out, to: 'hf', out: back, part: 'llm', dtype: 'bfloat16', tp: 1, pp: 1 });
  assertSame(contentsOf(openWeights(back).entries), expected, (name) => name.startsWith('language_model.'));
});

test('what cannot be split is refused, and nothing is left', () => {
  refuses({ tp: 4, part: 'llm' }, /--tp 4: .*query_key_value[\s\S]*cannot be split over 4/);
  refuses({ pp: 3, part: 'llm' }, /--pp 3: 2 blocks cannot/);
  refuses({ pp: 2, part: 'vision' }, /--pp 2/);
  refuses({ to: 'hf', tp: 2 }, /hf is not split/);
  refuses({ from: fixture('foreign/neva_projector.nemo'), to: 'nemo' }, /it has no llm/);
});

const python = (() => {
  try {
    execFileSync('python3', ['-c', 'import torch, yaml, safetensors'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

test('torch reads what neva writes, and its tensors are those of an independent conversion', { skip: !python }, () => {
  const archives = [
    converted({}),
    converted({ part: 'llm', tp: 2 }),
    converted({ to: 'nemo-mcore', tp: 2, pp: 2 }),
    converted({ to: 'nemo-mcore', part: 'llm', pp: 2 }),
    converted({ part: 'vision', tp: 2 }),
  ];
  const output = execFileSync('python3', [join(packageRoot, 'test/tools/check_nemo.py'), hf, ...archives], {
    encoding: 'utf8',
  });
  assert.equal(output.trim().split('\n').length, archives.length);
});
