/** The addon's own promises: schema-driven arguments, errors that say what was wrong, deterministic freeing. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as aten from '../../../src/engine/torch/aten.generated.ts';
import { native } from '../../../src/engine/torch/native.ts';
import { scope, type TorchTensor } from '../../../src/engine/torch/tensor.ts';
import { packageRoot } from '../../../src/root.ts';
import { torchEngine } from '../../support/torch.ts';

const engine = torchEngine();
const addon = native();
const matrix = (rows: number, columns: number, from = 1) =>
  engine.tensor(
    Float32Array.from({ length: rows * columns }, (_, i) => i + from),
    [rows, columns],
  ) as TorchTensor;

test('an operator that does not fit names itself, its arguments and their shapes', () => {
  assert.throws(
    () => aten.linear(matrix(2, 3), matrix(4, 5)),
    /neva::linear\(x float32\[2, 3\], weight float32\[4, 5\]\): /,
  );
});

test('arguments that the schema does not know are refused by name', () => {
  const add = addon.findOperator('aten::add.Tensor');
  const a = matrix(1, 1);
  assert.throws(() => addon.call(add, a.handle), /aten::add\.Tensor: other: missing/);
  assert.throws(() => addon.call(add, a.handle, null), /other: null is not allowed/);
  assert.throws(() => addon.call(add, a.handle, 'x'), /tensor handle: expected a number/);
  assert.throws(() => addon.call(add, a.handle, a.handle, 1, 2), /takes 3 arguments, got 4/);
  assert.throws(() => addon.findOperator('aten::no_such_thing'), /no operator "aten::no_such_thing"/);
});

test('defaults, optionals, lists, dtypes and numbers follow the schema', () => {
  const a = matrix(2, 2);
  assert.deepEqual([...engine.read(aten.addTensor(a, a))], [2, 4, 6, 8]);
  assert.deepEqual([...engine.read(aten.addTensor(a, a, 10))], [11, 22, 33, 44]);
  assert.deepEqual(aten.cat([a, a], 1).shape, [2, 4]);
  assert.equal(aten.sum(a, 'float64').dtype, 'float64');
  const whole = engine.tensor(Int32Array.from([1, 2]), [2]) as TorchTensor;
  assert.equal(aten.mulScalar(whole, 2).dtype, 'int32', 'a whole number keeps an integer tensor whole');
  assert.equal(aten.mulScalar(whole, 0.5).dtype, 'float32');
  const long = engine.tensor(BigInt64Array.from([9007199254740993n]), [1]) as TorchTensor;
  const doubled = new BigInt64Array(addon.readBytes(aten.mulScalar(long, 3n).handle));
  assert.equal(doubled[0], 27021597764222979n, 'integers of 64 bits keep every digit');
});

test('a tensor is freed at once, and using it afterwards throws', () => {
  const live = addon.liveTensors();
  const a = matrix(2, 2);
  const handle = a.handle;
  a.dispose();
  a.dispose();
  assert.equal(addon.liveTensors(), live);
  assert.ok(a.disposed);
  assert.throws(() => a.shape, /after it was freed/);
  const b = matrix(2, 2); // takes the same slot
  assert.throws(() => addon.shape(handle), /after it was freed/);
  assert.deepEqual(b.shape, [2, 2]);
  for (const wrong of [-1, 1.5, Number.NaN, 2 ** 53, 2 ** 60, Number.POSITIVE_INFINITY]) {
    assert.throws(() => addon.shape(wrong), /after it was freed/);
  }
});

test('a scope frees what it does not return, also when it throws', () => {
  const live = addon.liveTensors();
  const kept = scope(() => {
    matrix(2, 2);
    return { pair: [matrix(1, 2), null], name: 'x' };
  });
  assert.equal(addon.liveTensors(), live + 1);
  (kept.pair[0] as TorchTensor).dispose();
  assert.throws(
    () =>
      scope(() => {
        matrix(3, 3);
        throw new Error('in the middle');
      }),
    /in the middle/,
  );
  assert.equal(addon.liveTensors(), live);
});

test('an inner scope hands what it returns to the outer one', () => {
  const live = addon.liveTensors();
  scope(() => {
    const inner = scope(() => matrix(2, 2));
    assert.equal(inner.disposed, false);
  });
  assert.equal(addon.liveTensors(), live);
});

test('a mapped file is not copied, its bounds are checked, and writing to the tensor leaves it alone', () => {
  const path = join(mkdtempSync(join(tmpdir(), 'neva-')), 'values.bin');
  writeFileSync(path, new Float32Array([1, 2, 3, 4]));
  const before = engine.memory().bytes;
  const mapped = engine.fromFile(path, 4, [3], 'float32') as TorchTensor;
  assert.equal(engine.memory().bytes, before, 'nothing allocated');
  assert.deepEqual([...engine.read(mapped)], [2, 3, 4]);
  aten.mulScalar_(mapped, 10);
  assert.deepEqual([...engine.read(mapped)], [20, 30, 40]);
  assert.deepEqual([...new Float32Array(readFileSync(path).buffer.slice(0, 16))].length, 4);
  assert.deepEqual([...new Float32Array(new Uint8Array(readFileSync(path)).buffer)], [1, 2, 3, 4]);
  assert.throws(() => engine.fromFile(path, 8, [3], 'float32'), /12 bytes at offset 8 do not lie within the file's 16/);
  assert.throws(() => engine.fromFile(`${path}.none`, 0, [1], 'float32'), /No such file/);
  assert.deepEqual([...engine.read(engine.fromFile(path, 1, [2], 'uint8'))], [0, 128]);
});

test('bytes must fill the shape', () => {
  assert.throws(() => engine.tensor(new Float32Array(3), [2, 2]), /12 bytes do not fill the shape, which needs 16/);
  assert.throws(() => engine.tensor(new Float32Array(1), [2 ** 40, 2 ** 40]), /too large/);
});

test('random state: saved and restored, the same draws follow', () => {
  engine.seed(5);
  engine.normal([7], 0, 1);
  const state = engine.rngState();
  const first = engine.read(engine.normal([9], 0, 1));
  engine.setRngState(state);
  assert.deepEqual(engine.read(engine.normal([9], 0, 1)), first);
});

test('memory figures follow tensors, and the peak is kept', () => {
  const before = engine.memory().bytes;
  engine.resetPeakMemory();
  const big = engine.zeros([1024, 1024]);
  assert.equal(engine.memory().bytes, before + 4 * 1024 * 1024);
  big.dispose();
  assert.equal(engine.memory().bytes, before);
  assert.equal(engine.memory().peakBytes, before + 4 * 1024 * 1024);
});

test('freed neighbours are joined, and what one size left is used for another', () => {
  const held = () => native().memory().bytes + native().memory().cachedBytes;
  const MiB = 2 ** 18; // values
  const small = Array.from({ length: 32 }, () => engine.zeros([MiB]));
  for (const tensor of small) tensor.dispose();
  const before = held();
  for (let turn = 0; turn < 50; turn++) {
    const some = [1, 2, 3, 4].map((times) => engine.zeros([times * MiB + turn * 1024]));
    for (const each of turn % 2 ? some : some.reverse()) each.dispose();
  }
  engine.zeros([31 * MiB]).dispose();
  assert.equal(held(), before, 'nothing more was taken from the system');
});

test('the typed operators are what LibTorch says', async () => {
  const script = join(packageRoot, 'scripts/generate_aten.js');
  const { generate } = await import(script);
  const committed = readFileSync(join(packageRoot, 'src/engine/torch/aten.generated.ts'), 'utf8');
  assert.equal(generate(addon), committed, 'run: node scripts/generate_aten.js');
  assert.ok(execFileSync(process.execPath, ['--check', script]));
});
