import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { fileEntries, fileKind, wholeFile } from '../../src/checkpoint/raw.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { readTorchFile } from '../../src/checkpoint/torch_zip.ts';
import { load as loadEntry, openWeights } from '../../src/checkpoint/weights.ts';
import { fixture } from '../support/fixtures.ts';
import { torchEngine } from '../support/torch.ts';
import { SIX, statePickle, torchFile } from '../support/torch_file.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-torch-'));
after(() => rmSync(folder, { recursive: true }));
const expected = readSafetensors(fixture('torch/expected.safetensors')).entries;

for (const file of ['state.pt', 'state_protocol5.pt', 'deflated.pt']) {
  test(`every tensor of ${file} has torch's type, shape and bytes`, () => {
    const entries = fileEntries(fixture(`torch/${file}`));
    assert.deepEqual([...entries.keys()].sort(), [...expected.keys()].sort());
    for (const [name, entry] of entries) {
      const wanted = expected.get(name)!;
      assert.deepEqual([entry.dtype, entry.shape], [wanted.dtype, wanted.shape], name);
      assert.deepEqual(Buffer.from(readTensor(entry)), Buffer.from(readTensor(wanted)), name);
    }
  });
}

test('contiguous tensors are runs of the file, to be mapped; others are put together', () => {
  const entries = fileEntries(fixture('torch/state.pt'));
  const { file, offset, nbytes, pieces } = entries.get('rows')!;
  assert.equal(pieces, undefined);
  const bytes = readFileSync(file).subarray(offset, offset + nbytes);
  assert.deepEqual(bytes, Buffer.from(readTensor(expected.get('rows')!)));
  assert.equal(entries.get('transposed')!.pieces?.length, 1);
  assert.equal(fileEntries(fixture('torch/deflated.pt')).get('rows')!.pieces?.length, 1);
});

test('tensors over one storage share its bytes', () => {
  const entries = fileEntries(fixture('torch/state.pt'));
  const storages = ['rows', 'columns', 'every_other'].map((name) => {
    const entry = entries.get(name)!;
    return entry.pieces ? entry.pieces[0]!.view.region.offset : entry.offset - 2 * 8 * 4;
  });
  assert.equal(new Set(storages).size, 1);
});

test("a Lightning checkpoint gives its state dict and configuration, without Transformer Engine's extra states", () => {
  const { entries, config } = readTorchFile(wholeFile(fixture('torch/lightning.ckpt')));
  assert.deepEqual([...entries.keys()], ['model.decoder.final_layernorm.weight']);
  assert.deepEqual(config, { mcore_gpt: true, num_layers: 2, mm_cfg: { llm: { freeze: true } } });
});

test('a file is known by its content, and one of old torch is told as such', () => {
  assert.equal(fileKind(fixture('torch/state.pt')), 'torch');
  assert.equal(fileKind(fixture('torch/expected.safetensors')), 'safetensors');
  assert.throws(() => fileEntries(fixture('torch/legacy.pt')), /before version 1.6/);
});

test('weights are loaded from a torch file, mapped or put together, with the same values', () => {
  const engine = torchEngine();
  const load = (strides: string | undefined) => {
    const file = join(folder, `${strides ? 'strided' : 'plain'}.bin`);
    writeFileSync(file, torchFile(statePickle(strides ? { strides } : {}, 'model.mm_projector.weight')));
    const loaded = openWeights(file).source(engine, 'projector').load('multi_modal_projector.linear_1.weight');
    return [loaded.dtype, loaded.shape, ...engine.read(loaded)];
  };
  assert.equal(SIX.length, 24);
  assert.deepEqual(load(undefined), ['float32', [2, 3], 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(load('K\x01K\x02\x86'), ['float32', [2, 3], 1, 3, 5, 2, 4, 6]);
});

for (const type of ['float32', 'float16', 'bfloat16', 'int64', 'bool'] as const) {
  test(`${type} that is put together reaches the engine unchanged`, () => {
    const engine = torchEngine();
    const entry = fileEntries(fixture('torch/deflated.pt')).get(type)!;
    const wanted = expected.get(type)!;
    assert.ok(entry.pieces);
    const loaded = loadEntry(engine, entry);
    assert.deepEqual(Buffer.from(engine.bytes(loaded)), Buffer.from(readTensor(wanted)));
  });
}

test('a tensor of nothing needs no member of its own', () => {
  const file = join(folder, 'empty.bin');
  const none = { count: 'K\x00', shape: 'K\x00K\x03\x86', strides: 'K\x03K\x01\x86' };
  writeFileSync(file, torchFile(statePickle(none), []));
  const entry = fileEntries(file).get('w')!;
  assert.deepEqual([entry.shape, readTensor(entry).length], [[0, 3], 0]);
});
