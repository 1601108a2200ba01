/** NeMo's archives, made by test/tools/foreign_models.py without neva's code. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { openArchive } from '../../src/checkpoint/nemo_archive.ts';
import { OutFile } from '../../src/checkpoint/out_file.ts';
import { addTower, openWhole } from '../../src/checkpoint/parts.ts';
import { readTensor, streamTensor } from '../../src/checkpoint/pieces.ts';
import { fileEntries } from '../../src/checkpoint/raw.ts';
import { planTorchFile } from '../../src/checkpoint/torch_write.ts';
import { readTorchFile } from '../../src/checkpoint/torch_zip.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { assertSame, contentsOf } from '../support/contents.ts';
import { fixture } from '../support/fixtures.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-nemo-'));
after(() => rmSync(folder, { recursive: true }));
const hf = openWeights(fixture('foreign/hf'));
const expected = contentsOf(hf.entries);
const parts =
  (...prefixes: string[]) =>
  (name: string) =>
    prefixes.some((prefix) => name.startsWith(prefix));
const refuses = (path: string, pattern: RegExp) =>
  assert.throws(
    () => openWeights(path),
    (error: unknown) => isUserError(error) && pattern.test(error.message),
  );

/** A copy of the unpacked fixture, to be altered. */
function altered(name: string, alter: (folder: string) => void): string {
  const copy = join(folder, name);
  cpSync(fixture('foreign/nemo_tp2_pp2'), copy, { recursive: true });
  alter(copy);
  return copy;
}

const rewrite = (from: string, to: string) => (copy: string) => {
  const file = join(copy, 'model_config.yaml');
  const text = readFileSync(file, 'utf8');
  assert.ok(text.includes(from));
  writeFileSync(file, text.replace(from, to));
};

for (const name of ['llm_legacy.nemo', 'llm_mcore_tp2.nemo', 'llm_mcore_gz.nemo', 'nemo_tp2_pp2']) {
  test(`${name} is the LLaMA that it was made from`, () => {
    const { config, entries, tokenizerFolder } = openWeights(fixture(`foreign/${name}`));
    assertSame(contentsOf(entries), expected, parts('language_model.'));
    assert.deepEqual(config, { kind: 'llm', llm: hf.config!.llm });
    assert.deepEqual(
      readFileSync(join(tokenizerFolder!, 'tokenizer.model')),
      readFileSync(fixture('foreign/hf/tokenizer.model')),
    );
  });
}

test('a NeVA archive gives language model, projector and the name of its tower', () => {
  const whole = openWhole(fixture('foreign/neva_legacy_tp2.nemo'));
  const { config, entries } = whole.parts.llm!;
  assertSame(contentsOf(entries), expected, parts('language_model.', 'multi_modal_projector.'));
  const { vision: _, ...rest } = hf.config!;
  const feature = { selectLayer: -2, classTokenLength: 1 };
  assert.deepEqual(config, { ...rest, feature, visionTower: 'openai/clip-tiny' });
  addTower(whole, fixture('foreign/clip.nemo'));
  assert.deepEqual(whole.config?.vision, hf.config?.vision);
});

test('an archive of the projector alone, as a pretraining with a frozen language model leaves it', () => {
  const { config, entries } = openWeights(fixture('foreign/neva_projector.nemo'));
  assertSame(contentsOf(entries), expected, parts('multi_modal_projector.'));
  assert.equal(config?.llm, undefined);
  assert.deepEqual(config?.projector, hf.config?.projector);
});

for (const name of ['clip.nemo', 'clip_tp2.nemo']) {
  test(`${name} gives the vision tower; the text half is left out`, () => {
    const { config, entries } = openWeights(fixture(`foreign/${name}`));
    assertSame(contentsOf(entries), expected, parts('vision_tower.'));
    assert.deepEqual(config, { kind: 'clip', vision: hf.config!.vision });
  });
}

test('tensors read a part at a time are the same, whatever the size of a part', () => {
  const files = ['foreign/nemo_tp2_pp2', 'foreign/clip_tp2.nemo', 'foreign/llm_legacy.nemo'].map(
    (name) => openWeights(fixture(name)).entries,
  );
  for (const entries of [...files, fileEntries(fixture('torch/state.pt')), fileEntries(fixture('torch/deflated.pt'))]) {
    for (const entry of entries.values()) {
      for (const size of [8, 100, 1 << 20]) {
        const parts: Buffer[] = [];
        streamTensor(entry, (part) => parts.push(Buffer.from(part)), size);
        assert.ok(Buffer.concat(parts).equals(readTensor(entry)), `${entry.name} by ${size}`);
      }
    }
  }
});

test('weights that no rank changed are mapped where they lie in the archive', () => {
  const { entries } = openWeights(fixture('foreign/llm_legacy.nemo'));
  const mapped = [...entries.values()].filter(({ pieces }) => !pieces).map(({ name }) => name);
  for (const name of ['embed_tokens', 'layers.1.mlp.down_proj', 'layers.0.mlp.up_proj', 'norm']) {
    assert.ok(mapped.includes(`language_model.model.${name}.weight`), name);
  }
});

test('a Lightning checkpoint is found with its other ranks, and with the run’s hparams.yaml', () => {
  const run = join(folder, 'run');
  for (const rank of [
    'tp_rank_00_pp_rank_000',
    'tp_rank_01_pp_rank_000',
    'tp_rank_00_pp_rank_001',
    'tp_rank_01_pp_rank_001',
  ]) {
    mkdirSync(join(run, 'checkpoints', rank), { recursive: true });
    cpSync(fixture(`foreign/nemo_tp2_pp2/${rank}/model_weights.ckpt`), join(run, 'checkpoints', rank, 'a-last.ckpt'));
  }
  const path = join(run, 'checkpoints/tp_rank_01_pp_rank_001/a-last.ckpt');
  refuses(path, /hparams\.yaml/);
  const config = readFileSync(fixture('foreign/nemo_tp2_pp2/model_config.yaml'), 'utf8');
  writeFileSync(join(run, 'hparams.yaml'), `cfg:\n  vocab_size: 620\n${config.replace(/^/gm, '  ')}`);
  assertSame(contentsOf(openWeights(path).entries), expected, parts('language_model.'));
});

test('padding of the vocabulary is kept where nothing tells how many tokens there are', () => {
  const path = altered('unknown', rewrite('_tokenizer.model', '_other.model'));
  assert.equal(openWeights(path).config?.llm?.vocabSize, 624);
});

test('a configuration that contradicts the weights is refused with the differences', () => {
  refuses(
    altered('ffn', rewrite('ffn_hidden_size: 24', 'ffn_hidden_size: 28')),
    /mlp[\s\S]*\[24, 16\] in the file, \[28, 16\]/,
  );
  refuses(altered('groups', rewrite('num_query_groups: 2', 'num_query_groups: 4')), /query_key_value/);
  refuses(altered('layers', rewrite('num_layers: 2', 'num_layers: 4')), /layers\.1\.[\s\S]*missing on 2 of 2/);
  refuses(altered('odd', rewrite('num_layers: 2', 'num_layers: 3')), /3 blocks cannot have been split over 2/);
  refuses(altered('fewer', rewrite('hidden_size: 16', 'hidden_size: 12')), /configuration contradicts its weights/);
});

test('another block than the weights are of is refused with what is missing', () => {
  const block = (from: string, to: string) => altered(to.replace(/\W/g, '-'), rewrite(from, to));
  refuses(block('normalization: rmsnorm', 'normalization: layernorm1p'), /input_layernorm\.bias: missing on 2 of 2/);
  refuses(
    block('activation: fast-swiglu', 'activation: squared-relu'),
    /dense_h_to_4h\.weight: \[24, 16\] in the file/,
  );
  refuses(block('bias: false', 'bias: true'), /query_key_value\.bias: missing/);
  refuses(
    block('position_embedding_type: rope', 'position_embedding_type: learned_absolute'),
    /position_embeddings\.weight: missing/,
  );
});

test('what neva’s model does not have is refused by its key', () => {
  for (const [from, to, key] of [
    ['normalization: rmsnorm', 'normalization: scalenorm', 'normalization'],
    ['activation: fast-swiglu', 'activation: relu', 'activation'],
    ['rotary_percentage: 1.0', 'rotary_percentage: half', 'rotary_percentage'],
    ['bias: false', 'bias: some', 'bias'],
    ['position_embedding_type: rope', 'position_embedding_type: alibi', 'position_embedding_type'],
    ['num_layers: 2', 'num_layers: many', 'num_layers'],
  ] as const) {
    refuses(
      altered(key, rewrite(from, to)),
      new RegExp(`model_config\\.yaml: ${key}: neva's model does not have this`),
    );
  }
});

test('missing ranks and distributed checkpoints are told as such', () => {
  const rank = 'tp_rank_01_pp_rank_001';
  refuses(
    altered('rank', (copy) => rmSync(join(copy, rank), { recursive: true })),
    /every rank[\s\S]*2 × 2/,
  );
  const distributed = altered('distributed', (copy) => {
    mkdirSync(join(copy, 'model_weights'));
    writeFileSync(join(copy, 'model_weights', 'common.pt'), '');
  });
  refuses(distributed, /distributed checkpoint/);
  refuses(
    altered('empty', (copy) => {
      for (const name of readdirSync(copy))
        if (name.startsWith('tp_rank')) rmSync(join(copy, name), { recursive: true });
    }),
    /every rank[\s\S]*none/,
  );
});

test('older spellings: gate and up apart, the linear adapter, a tower of Hugging Face’s inside', () => {
  const target = join(folder, 'older');
  mkdirSync(target);
  const config = readFileSync(fixture('foreign/nemo_tp2_pp2/model_config.yaml'), 'utf8')
    .replace('pipeline_model_parallel_size: 2', 'pipeline_model_parallel_size: 1')
    .replace('fast-swiglu', 'swiglu');
  writeFileSync(join(target, 'model_config.yaml'), `${config}vocab_size: 620\n`);
  const raw = readTorchFile(openArchive(fixture('foreign/llm_legacy.nemo')).ranks[0]!.region).entries;
  const embedding = 'model.language_model.embedding.word_embeddings';
  const renamed: [string, string][] = [
    [`${embedding}.adapter_layer.mm_linear_adapter.linear.bias`, 'multi_modal_projector.linear_1.bias'],
    ...[0, 1].flatMap((layer): [string, string][] => {
      const own = `language_model.model.layers.${layer}.mlp`;
      const nemo = `model.language_model.encoder.layers.${layer}.mlp.dense_h_to_4h`;
      return [
        [`${nemo}.weight`, `${own}.gate_proj.weight`],
        [`${nemo}_2.weight`, `${own}.up_proj.weight`],
      ];
    }),
    ...[...hf.entries.keys()]
      .filter((name) => name.startsWith('vision_tower.'))
      .map((name): [string, string] => [name.replace('vision_tower.', `${embedding}.vision_encoder.`), name]),
  ];
  const entries = new Map([...raw, ...renamed.map(([nemo, own]) => [nemo, hf.entries.get(own)!] as const)]);
  const out = new OutFile(join(target, 'model_weights.ckpt'));
  const tensors = [...entries].map(([name, entry]) => ({ ...entry, name, data: () => readTensor(entry) }));
  planTorchFile(tensors).write(out);
  out.finish();
  const keep = parts('language_model.', 'vision_tower.', 'multi_modal_projector.linear_1.bias');
  assertSame(contentsOf(openWeights(target).entries), expected, keep);
});

test('a configuration beside the run that cannot be read is the user’s mistake', () => {
  const run = join(folder, 'broken', 'checkpoints');
  mkdirSync(run, { recursive: true });
  cpSync(fixture('torch/lightning.ckpt'), join(run, 'a.ckpt'));
  refuses(join(run, 'a.ckpt'), /hyper_parameters: hidden_size/);
  cpSync(fixture('foreign/nemo_tp2_pp2/tp_rank_00_pp_rank_000/model_weights.ckpt'), join(run, 'b.ckpt'));
  writeFileSync(join(run, '..', 'hparams.yaml'), 'cfg: [');
  refuses(join(run, 'b.ckpt'), /hparams\.yaml: not valid YAML/);
});
