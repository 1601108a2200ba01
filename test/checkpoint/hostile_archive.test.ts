/** Archives made to harm: each is refused as the user's mistake, runs nothing and writes nothing. */
import assert from 'node:assert/strict';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { Header } from 'tar';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { fixture } from '../support/fixtures.ts';
import { global, pickleOf, statePickle, text, torchFile } from '../support/torch_file.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-hostile-archive-'));
// Archives are unpacked where TMPDIR says: nothing may be left there either.
const unpacking = mkdtempSync(join(tmpdir(), 'neva-unpacking-'));
process.env.TMPDIR = unpacking;
after(() => {
  rmSync(folder, { recursive: true });
  rmSync(unpacking, { recursive: true });
});

interface Entry {
  name: string;
  data?: Uint8Array;
  type?: 'File' | 'SymbolicLink' | 'Link' | 'FIFO' | 'CharacterDevice' | 'Directory' | 'ExtendedHeader';
  linkpath?: string;
  size?: number;
}

function tarOf(...entries: Entry[]): Buffer {
  const chunks = entries.flatMap(({ name, data = new Uint8Array(0), type = 'File', linkpath, size }) => {
    const block = Buffer.alloc(512);
    const link = linkpath ? { linkpath } : {};
    new Header({ path: name, type, size: size ?? data.length, mode: 0o644, mtime: new Date(0), ...link }).encode(block);
    return [block, Buffer.from(data), Buffer.alloc((512 - (data.length % 512)) % 512)];
  });
  return Buffer.concat([...chunks, Buffer.alloc(1024)]);
}

const configText = readFileSync(fixture('foreign/nemo_tp2_pp2/model_config.yaml'), 'utf8').replace(
  'pipeline_model_parallel_size: 2',
  'pipeline_model_parallel_size: 1',
);
const config = (content = configText): Entry => ({ name: './model_config.yaml', data: Buffer.from(content) });
const changed = (from: string, to: string): Entry => {
  assert.ok(configText.includes(from));
  return config(configText.replace(from, to));
};
const touch = `touch ${join(folder, 'ran')}`;
const evil = torchFile(pickleOf(global('os', 'system'), `(${text(touch)}t`, 'R.'));
const ADAPTER = 'model.embedding.word_embeddings.adapter_layer.mm_projector_adapter.mm_projector.weight';
const weights = (data: Uint8Array = torchFile(statePickle({}, ADAPTER)), name = './model_weights.ckpt'): Entry => ({
  name,
  data,
});
const outside: Entry = { name: '../../escaped', data: Buffer.from('x') };
const target = join(folder, 'escaped');
const bytes = (value: string) => Buffer.from(value);

const damaged = tarOf(config(), weights());
damaged[20] = damaged[20]! ^ 1;
const bomb = gzipSync(tarOf(config(), { name: './zeros', data: Buffer.alloc(80 << 20) }));
const aliases = `a: &a [x]\n${'bcdefghijk'.replace(/./g, (c, i) => `${c}: &${c} [${`*${i ? 'abcdefghij'[i] : 'a'},`.repeat(9)}x]\n`)}`;

const FILES: Record<string, [Buffer, RegExp]> = {
  'a path out of the archive': [tarOf(config(), outside, weights()), /lies outside/],
  'a path out of it, half way': [tarOf(config(), { name: './a/../../escaped' }, weights()), /lies outside/],
  'an absolute path': [tarOf(config(), { name: target, data: bytes('x') }, weights()), /lies outside/],
  'a Windows path': [tarOf(config(), { name: 'C:\\escaped' }, weights()), /lies outside/],
  'a backslash': [tarOf(config(), { name: '..\\escaped' }, weights()), /lies outside/],
  'a symbolic link': [
    tarOf(config(), { name: './model_weights.ckpt', type: 'SymbolicLink', linkpath: '/etc/passwd' }),
    /no file \(SymbolicLink\)/,
  ],
  'a hard link': [tarOf(config(), { name: './x', type: 'Link', linkpath: '/etc/passwd' }), /no file \(Link\)/],
  'a pipe': [tarOf(config(), { name: './model_weights.ckpt', type: 'FIFO' }), /no file \(FIFO\)/],
  'a device': [tarOf(config(), { name: './model_weights.ckpt', type: 'CharacterDevice' }), /no file/],
  'a name twice': [tarOf(config(), weights(), weights()), /twice/],
  'a configuration twice': [tarOf(config(), config('mcore_gpt: true'), weights()), /twice/],
  'an entry longer than the file': [tarOf(config(), { ...weights(), size: 1 << 30 }), /not a usable tar/],
  'a damaged header': [damaged, /not a usable tar|no archive of NeMo/],
  'an extended header of 8 MB': [
    tarOf({ name: 'x', type: 'ExtendedHeader', data: Buffer.alloc(8 << 20) }, config()),
    /oversized extended header/,
  ],
  'a name in an extended header': [
    tarOf({ name: 'x', type: 'ExtendedHeader', data: bytes('24 path=../../escaped/x\n') }, config(), weights()),
    /lies outside/,
  ],
  'cut short': [tarOf(config(), weights()).subarray(0, -1200), /not a usable tar/],
  'no configuration': [tarOf(weights()), /no archive of NeMo/],
  'nothing inside': [tarOf({ name: './', type: 'Directory' }), /no archive of NeMo/],
  'no weights': [tarOf(config()), /every rank/],
  'a rank twice over': [
    tarOf(config(), weights(undefined, './mp_rank_00/model_weights.ckpt'), weights()),
    /every rank/,
  ],
  'rank 999 alone': [tarOf(config(), weights(undefined, './mp_rank_999/model_weights.ckpt')), /every rank/],
  'weights that call os.system': [tarOf(config(), weights(evil)), /os\.system/],
  'weights that are no zip': [tarOf(config(), weights(bytes('x'.repeat(600)))), /zip archive/],
  'weights of nothing': [tarOf(config(), weights(new Uint8Array(0))), /zip archive/],
  'weights without a tensor': [tarOf(config(), weights(torchFile(pickleOf('}.')))), /no weights in it/],
  'a tensor of no model': [tarOf(config(), weights(torchFile(statePickle({}, 'x.y')))), /x\.y: \[2, 3\], not a weight/],
  'a configuration that is no YAML': [tarOf(config('a: [b'), weights()), /not valid YAML/],
  'a configuration that is no mapping': [tarOf(config('- 1'), weights()), /model_config\.yaml/],
  'a configuration of 2 MB': [tarOf(config(`a: ${'x'.repeat(2 << 20)}`), weights()), /at most/],
  'YAML that unfolds': [tarOf(config(aliases), weights()), /not valid YAML|neva's model does not have this/],
  'a class in YAML': [
    tarOf(config('hidden_size: !!python/object/apply:os.system ["true"]\nnum_attention_heads: 1'), weights()),
    /hidden_size/,
  ],
  'a billion blocks': [tarOf(changed('num_layers: 2', 'num_layers: 1000000000'), weights()), /at most 10000/],
  'a width of 2⁵⁰': [
    tarOf(
      changed('hidden_size: 16', `hidden_size: ${2 ** 50}`),
      weights(torchFile(statePickle({}, 'model.embedding.word_embeddings.weight'))),
    ),
    /contradicts its weights/,
  ],
  'a width of zero': [tarOf(changed('hidden_size: 16', 'hidden_size: 0'), weights()), /hidden_size/],
  'an infinite epsilon': [tarOf(changed('1.0e-05', '.inf'), weights()), /layernorm_epsilon/],
  'compressed: a path out of it': [gzipSync(tarOf(config(), outside, weights())), /lies outside/],
  'compressed: an absolute path': [gzipSync(tarOf(config(), { name: target }, weights())), /lies outside/],
  'compressed: a link': [
    gzipSync(
      tarOf(config(), { name: './x', type: 'SymbolicLink', linkpath: folder }, { name: './x/y', data: bytes('x') }),
    ),
    /no file \(SymbolicLink\)/,
  ],
  'compressed: a bomb': [bomb, /more than 16 times/],
  'compressed: cut short': [gzipSync(tarOf(config(), weights())).subarray(0, 200), /cannot be unpacked|no archive/],
  'compressed: no tar': [gzipSync(bytes('hello'.repeat(500))), /cannot be unpacked|no archive/],
  'compressed: os.system': [gzipSync(tarOf(config(), weights(evil))), /os\.system/],
};

for (const [name, [content, expected]] of Object.entries(FILES)) {
  test(`refused: ${name}`, () => {
    const file = join(folder, 'file.nemo');
    writeFileSync(file, content);
    const read = () => {
      for (const entry of openWeights(file).entries.values()) readTensor(entry);
    };
    assert.throws(read, (error: unknown) => isUserError(error) && expected.test(error.message));
    assert.deepEqual(readdirSync(folder), ['file.nemo']);
    assert.equal(existsSync(join(unpacking, '..', 'escaped')), false);
  });
}

test('the archive that the others differ from is read, compressed or not', () => {
  const file = join(folder, 'file.nemo');
  for (const archive of [tarOf(config(), weights()), gzipSync(tarOf(config(), weights()))]) {
    writeFileSync(file, archive);
    assert.deepEqual([...openWeights(file).entries.keys()], ['multi_modal_projector.linear_1.weight']);
  }
});

test('shards of an index stay beside it; a link in a folder of the user’s own is followed', () => {
  const copy = join(folder, 'original');
  cpSync(fixture('foreign/original'), copy, { recursive: true });
  const index = join(copy, 'pytorch_model.bin.index.json');
  const good = readFileSync(index, 'utf8');
  writeFileSync(index, good.replaceAll('pytorch_model-00001-of-00002.bin', '../../../etc/passwd'));
  assert.throws(() => openWeights(copy), /outside the model's folder/);
  writeFileSync(index, good);
  rmSync(join(copy, 'pytorch_model-00001-of-00002.bin'));
  symlinkSync(
    fixture('foreign/original/pytorch_model-00001-of-00002.bin'),
    join(copy, 'pytorch_model-00001-of-00002.bin'),
  );
  assert.ok(openWeights(copy).has('llm'));
});
