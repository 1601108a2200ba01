import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { type ConvertOptions, convert } from '../../src/checkpoint/convert.ts';
import { writeConfig } from '../../src/checkpoint/hf_config.ts';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { writeCheckpoint } from '../../src/checkpoint/write_folder.ts';
import { parseSize } from '../../src/checkpoint/write_model.ts';
import { fixture } from '../support/fixtures.ts';

const model = fixture('llava/model');
const fresh = () => join(mkdtempSync(join(tmpdir(), 'neva-')), 'out');

function converted(options: Partial<ConvertOptions>): string {
  const out = fresh();
  convert({ from: model, to: 'hf', out, part: 'all', dtype: null, tp: 1, pp: 1, ...options });
  return out;
}

/** Own name → its bytes. */
function contents(path: string): Map<string, Buffer> {
  const { entries } = openWeights(path);
  return new Map(
    [...entries].map(([name, { file, offset, nbytes }]) => [
      name,
      readFileSync(file).subarray(offset, offset + nbytes),
    ]),
  );
}

test('through every layout and back, every value is the same bit for bit', () => {
  const before = contents(model);
  const hfNew = converted({ to: 'hf-new' });
  const llava = converted({ to: 'llava', from: hfNew });
  const hf = converted({ to: 'hf', from: llava });
  for (const path of [
    hfNew,
    llava,
    hf,
    converted({ to: 'hf', from: hfNew }),
    converted({ to: 'hf-new', from: llava }),
  ]) {
    const after = contents(path);
    assert.deepEqual([...after.keys()].sort(), [...before.keys()].sort());
    for (const [name, bytes] of before) assert.ok(bytes.equals(after.get(name)!), name);
  }
  const { llm, vision, projector } = openWeights(model).config!;
  assert.deepEqual(openWeights(hf).config, { kind: 'llava', llm, vision, projector });
});

test('a checkpoint of neva’s is written in every layout and its weights stay the same', () => {
  const { entries, config } = openWeights(model);
  const { llm, vision, projector } = config!;
  const tensors = [...entries].map(([name, { dtype, shape, file, offset, nbytes }]) => {
    const bytes = new Uint8Array(readFileSync(file).subarray(offset, offset + nbytes));
    return { name, dtype, shape, bytes };
  });
  const own = writeCheckpoint(dirname(fresh()), {
    step: 1,
    tensors: [['model.safetensors', tensors]],
    texts: [
      ['state.json', JSON.stringify({ format: 1, step: 1, frozen: [] })],
      ['config.json', JSON.stringify(writeConfig({ llm: llm!, vision: vision!, projector: projector! }))],
    ],
    files: [],
  });
  const before = contents(model);
  for (const to of ['hf', 'hf-new', 'llava'] as const) {
    const after = contents(converted({ from: own, to }));
    assert.equal(after.size, before.size);
    for (const [name, bytes] of before) assert.ok(bytes.equals(after.get(name)!), name);
  }
});

test('names are those of each layout', () => {
  const names = (path: string) => [...readSafetensors(join(path, 'model.safetensors')).entries.keys()];
  assert.ok(names(converted({ to: 'hf-new' })).includes('model.multi_modal_projector.linear_1.weight'));
  assert.ok(names(converted({ to: 'llava' })).includes('model.mm_projector.2.bias'));
  assert.ok(names(converted({ part: 'llm' })).every((name) => /^(model|lm_head)\./.test(name)));
  assert.ok(names(converted({ part: 'vision' })).every((name) => name.startsWith('vision_model.')));
});

test('a part is a model of its own, with its shape', () => {
  const shapes = openWeights(model).config!;
  assert.deepEqual(openWeights(converted({ part: 'llm' })).config, { kind: 'llm', llm: shapes.llm });
  assert.deepEqual(openWeights(converted({ part: 'vision' })).config, { kind: 'clip', vision: shapes.vision });
});

test('--dtype rounds to nearest', () => {
  const half = openWeights(converted({ dtype: 'bfloat16' }));
  const exact = openWeights(converted({})).entries;
  for (const [name, entry] of half.entries) {
    assert.equal(entry.dtype, 'bfloat16');
    const bits = new Uint32Array(readTensor(exact.get(name)!).slice().buffer);
    // To the nearest, ties to even: half of what is cut off, and one less where the last bit kept is even.
    const rounded = Uint16Array.from(bits, (value) => (value + 0x7fff + ((value >>> 16) & 1)) >>> 16);
    assert.deepEqual(new Uint16Array(readTensor(entry).slice().buffer), rounded, name);
  }
});

test('what stands at --out is left alone, and a failure leaves nothing', () => {
  const out = converted({ part: 'projector' });
  assert.throws(
    () => convert({ from: model, to: 'hf', out, part: 'all', dtype: null, tp: 1, pp: 1 }),
    /there is something already/,
  );
  const other = fresh();
  const from = fixture('llava/llm');
  assert.throws(
    () => convert({ from, to: 'hf', out: other, part: 'vision', dtype: null, tp: 1, pp: 1 }),
    /it has no vision/,
  );
  assert.equal(existsSync(other), false);
  assert.deepEqual(readdirSync(dirname(other)), []);
});

test('--max-shard-size cuts as Hugging Face does: in order, an index beside, and a tensor too large for one alone', () => {
  const out = converted({ maxShardBytes: 20_000 });
  const files = readdirSync(out).filter((name) => name.endsWith('.safetensors'));
  assert.ok(files.length > 2);
  assert.ok(!existsSync(join(out, 'model.safetensors')));
  const index = JSON.parse(readFileSync(join(out, 'model.safetensors.index.json'), 'utf8'));
  let total = 0;
  files.sort().forEach((file, i) => {
    const count = String(files.length).padStart(5, '0');
    assert.equal(file, `model-${String(i + 1).padStart(5, '0')}-of-${count}.safetensors`);
    const entries = [...readSafetensors(join(out, file)).entries.values()];
    const bytes = entries.reduce((sum, { nbytes }) => sum + nbytes, 0);
    assert.ok(bytes <= 20_000 || entries.length === 1, file);
    for (const { name } of entries) assert.equal(index.weight_map[name], file);
    total += bytes;
  });
  assert.equal(index.metadata.total_size, total);
  const before = contents(model);
  const after = contents(out);
  assert.deepEqual([...after.keys()].sort(), [...before.keys()].sort());
  for (const [name, bytes] of before) assert.ok(bytes.equals(after.get(name)!), name);
  // What is read from shards is written in one file again.
  assert.deepEqual(readdirSync(converted({ from: out, part: 'projector' })), ['model.safetensors']);
});

test('sizes are those of huggingface_hub', () => {
  assert.deepEqual(['5GB', '500MB', '2GiB', '1.5 kb', '0KB', '5', 'GB', '5XB'].map(parseSize), [
    5e9,
    5e8,
    2 * 2 ** 30,
    1500,
    null,
    null,
    null,
    null,
  ]);
});

test('image_token_index is the source’s, the tokenizer’s, or the first id after the vocabulary', () => {
  const token = (path: string) => JSON.parse(readFileSync(join(path, 'config.json'), 'utf8')).image_token_index;
  assert.equal(token(converted({})), 95);
  const llava = converted({ to: 'llava' });
  assert.equal(token(llava), undefined, 'LLaVA’s own code has another way');
  const out = fresh();
  const { notes } = convert({ from: llava, to: 'hf', out, part: 'all', dtype: null, tp: 1, pp: 1 });
  assert.equal(token(out), 96);
  assert.match(notes.join(), /no <image>[\s\S]*image_token_index=96/);
  writeFileSync(join(llava, 'tokenizer.json'), JSON.stringify({ added_tokens: [{ id: 41, content: '<image>' }] }));
  assert.equal(token(converted({ from: llava })), 41);
});
