import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fingerprintOf } from '../../src/checkpoint/fingerprint.ts';
import { type Layout, writeName } from '../../src/checkpoint/names.ts';
import { readSafetensors, type TensorToWrite, writeSafetensors } from '../../src/checkpoint/safetensors.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { fixture } from '../support/fixtures.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const folder = mkdtempSync(join(tmpdir(), 'neva-weights-'));
after(() => rmSync(folder, { recursive: true }));

const whole = openWeights(fixture('llava/model'));
let files = 0;
const freshFile = () => join(folder, `${files++}.safetensors`);

/** The tiny LLaVA's tensors under other names. */
function renamed(rename: (own: string) => string): TensorToWrite[] {
  return [...whole.entries].map(([own, { file, dtype, shape, offset, nbytes }]) => ({
    name: rename(own),
    dtype,
    shape,
    data: () => readFileSync(file).subarray(offset, offset + nbytes),
  }));
}

const tensor = (name: string): TensorToWrite => ({ name, dtype: 'uint8', shape: [1], data: () => new Uint8Array(1) });
const refuses = (path: string, expected: RegExp) =>
  assert.throws(
    () => openWeights(path),
    (e: unknown) => isUserError(e) && expected.test(e.message),
  );

for (const layout of ['hf', 'hf-new', 'llava'] satisfies Layout[]) {
  test(`the ${layout} layout holds the same names and values, hence the same fingerprint`, () => {
    const file = freshFile();
    writeSafetensors(
      file,
      renamed((own) => writeName(own, layout)),
    );
    const opened = openWeights(file);
    assert.deepEqual([...opened.entries.keys()].sort(), [...whole.entries.keys()].sort());
    assert.equal(fingerprintOf(opened.entries), fingerprintOf(whole.entries));
    const name = 'multi_modal_projector.linear_2.weight';
    const load = (weights: typeof whole) => engine.read(weights.source(engine, 'projector').load(name));
    assert.deepEqual(load(opened), load(whole));
  });
}

test('the fingerprint changes with one value, a name or a shape', () => {
  const one = (name: string, shape: number[], byte: number) => {
    const file = freshFile();
    writeSafetensors(file, [{ name, dtype: 'uint8', shape, data: () => Uint8Array.of(1, 2, 3, byte) }]);
    return fingerprintOf(openWeights(file).entries);
  };
  const [norm, other] = ['model.norm.weight', 'lm_head.weight'];
  const prints = [one(norm, [4], 4), one(norm, [4], 5), one(norm, [2, 2], 4), one(other, [4], 4)];
  assert.equal(new Set(prints).size, 4);
  assert.equal(one(norm, [4], 4), prints[0]);
});

test('weights in 16 bits are loaded as float32 with their exact values', () => {
  const bytes = new Uint8Array(Uint16Array.of(0x3f80, 0xc040, 0x3e20).buffer); // 1, −3, 0.15625 in bfloat16
  const file = freshFile();
  writeSafetensors(file, [{ name: 'model.norm.weight', dtype: 'bfloat16', shape: [3], data: () => bytes }]);
  const loaded = openWeights(file).source(engine, 'llm').load('language_model.model.norm.weight');
  assert.deepEqual([loaded.dtype, ...engine.read(loaded)], ['float32', 1, -3, 0.15625]);
});

test('what is no model of neva’s is refused by name', () => {
  refuses(join(folder, 'nothing'), /no such file or folder/);
  refuses(folder, /no weights in this folder/);
  const file = freshFile();
  writeSafetensors(file, [tensor('transformer.h.0.attn.weight')]);
  refuses(file, /no model that neva knows[\s\S]*transformer\.h\.0\.attn\.weight \[1\]/);
  writeSafetensors(file, [tensor('model.norm.weight'), tensor('language_model.model.norm.weight')]);
  refuses(file, /are the same weight/);
  writeFileSync(join(folder, 'x.bin'), 'x');
  refuses(join(folder, 'x.bin'), /x\.bin[\s\S]*\*\.safetensors/);
});

// The addon keeps one mapping a path for as long as a tensor over it lives, and does not notice that the file was replaced.
test('a file replaced while tensors of the old one live is read anew', () => {
  const file = freshFile();
  const write = (byte: number) =>
    writeSafetensors(file, [{ name: 'x', dtype: 'uint8', shape: [1], data: () => Uint8Array.of(byte) }]);
  write(1);
  const { offset } = readSafetensors(file).entries.get('x')!;
  const old = engine.fromFile(file, offset, [1], 'uint8');
  write(2);
  assert.deepEqual([...engine.read(old), ...engine.read(engine.fromFile(file, offset, [1], 'uint8'))], [1, 2]);
});
