import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { duplicateKey } from '../../src/checkpoint/json.ts';
import { readSafetensors, type TensorToWrite, writeSafetensors } from '../../src/checkpoint/safetensors.ts';
import { readShardIndex } from '../../src/checkpoint/shard_index.ts';
import { isUserError } from '../../src/errors.ts';
import { packageRoot } from '../../src/root.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-safetensors-'));
after(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'x.safetensors');

/** A file with this header (text, bytes or object) and this many data bytes. */
function write(header: unknown, dataBytes: number, claimed?: bigint): string {
  const text = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(claimed ?? BigInt(text.length));
  writeFileSync(file, Buffer.concat([prefix, text, Buffer.alloc(dataBytes)]));
  return file;
}

const f32 = (shape: number[], begin: number, end: number) => ({ dtype: 'F32', shape, data_offsets: [begin, end] });

test('what the Python library wrote is read: names, shapes, values, metadata', () => {
  const path = join(packageRoot, 'test/fixtures/engine/ops.safetensors');
  const { entries, metadata } = readSafetensors(path);
  assert.deepEqual(metadata, { format: 'pt' });
  const indices = entries.get('gatherRows.repeated.input1')!;
  assert.equal(indices.dtype, 'int64');
  const bytes = readFileSync(path).subarray(indices.offset, indices.offset + indices.nbytes);
  assert.deepEqual(
    [0, 8, 16, 24].map((at) => bytes.readBigInt64LE(at)),
    [4n, 0n, 4n, 2n],
  );
  assert.equal(entries.get('linear.plain.bfloat16.input0')!.dtype, 'bfloat16');
});

test('writing and reading again gives every tensor back, aligned, with size and checksum of the whole file', () => {
  const random = (n: number, seed: number) => Uint8Array.from({ length: n }, (_, i) => (i * 31 + seed) & 255);
  const tensors: TensorToWrite[] = [
    { name: 'bytes', dtype: 'uint8', shape: [3], data: () => random(3, 1) },
    { name: 'halves', dtype: 'bfloat16', shape: [2, 5], data: () => random(20, 2) },
    { name: 'nothing', dtype: 'float32', shape: [0, 4], data: () => random(0, 3) },
    { name: 'scalar', dtype: 'float32', shape: [], data: () => random(4, 4) },
    { name: 'doubles', dtype: 'float64', shape: [3], data: () => random(24, 5) },
  ];
  const written = writeSafetensors(file, tensors, { format: 'pt', of: 'tests' });
  const whole = readFileSync(file);
  assert.equal(written.bytes, whole.length);
  assert.equal(Number.parseInt(written.crc32, 16), crc32(whole));
  const { entries, metadata } = readSafetensors(file);
  assert.deepEqual(metadata, { format: 'pt', of: 'tests' });
  for (const { name, dtype, shape, data } of tensors) {
    const entry = entries.get(name)!;
    assert.deepEqual([entry.dtype, entry.shape], [dtype, shape]);
    assert.equal(entry.offset % { uint8: 1, bfloat16: 2, float32: 4, float64: 8 }[dtype as 'uint8'], 0, name);
    assert.deepEqual(Uint8Array.from(whole.subarray(entry.offset, entry.offset + entry.nbytes)), data());
  }
  assert.deepEqual(readdirSync(folder), ['x.safetensors']);
});

test('a write that fails leaves the old file and nothing else', () => {
  writeSafetensors(file, [{ name: 'a', dtype: 'uint8', shape: [1], data: () => Uint8Array.of(7) }]);
  const before = readFileSync(file);
  const fail = () => {
    throw new Error('no values');
  };
  assert.throws(() => writeSafetensors(file, [{ name: 'a', dtype: 'uint8', shape: [1], data: fail }]), /no values/);
  const wrong = { name: 'a', dtype: 'float32' as const, shape: [2], data: () => new Uint8Array(4) };
  assert.throws(() => writeSafetensors(file, [wrong]), /float32 \[2\] but was given 4 bytes/);
  const twice = { name: 'a', dtype: 'uint8' as const, shape: [1], data: () => new Uint8Array(1) };
  assert.throws(() => writeSafetensors(file, [twice, twice]), /given twice/);
  assert.deepEqual(readFileSync(file), before);
  assert.deepEqual(readdirSync(folder), ['x.safetensors']);
});

const damaged: [string, unknown, number, RegExp, bigint?][] = [
  ['too short', '', 0, /too short/],
  ['header longer than the file', { a: f32([1], 0, 4) }, 4, /length is given as 5000 bytes/, 5000n],
  ['header of 2^63 bytes', { a: f32([1], 0, 4) }, 4, /length is given/, 2n ** 63n],
  ['not JSON', '{"a": [1,}', 4, /not JSON/],
  ['a list', '[1, 2, 3]', 4, /no JSON object/],
  ['not UTF-8', Buffer.from('{"a\x80": 1}', 'latin1'), 4, /not UTF-8/],
  ['no shape', { a: { dtype: 'F32', data_offsets: [0, 4] } }, 4, /no proper dtype and shape/],
  ['null tensor', { a: null }, 0, /no proper dtype and shape/],
  ['negative size', { a: f32([-1], 0, 4) }, 4, /no proper dtype and shape/],
  ['fractional size', { a: f32([0.5], 0, 2) }, 2, /no proper dtype and shape/],
  ['shape beyond 2^53', { a: f32([2 ** 40, 2 ** 40], 0, 4) }, 4, /but has 4 bytes/],
  ['offsets swapped', { a: f32([1], 4, 0) }, 4, /lies at bytes 4 to 0/],
  ['offsets of three', { a: { dtype: 'F32', shape: [1], data_offsets: [0, 4, 8] } }, 8, /no proper data_offsets/],
  ['cut short', { a: f32([2], 0, 8) }, 7, /lies at bytes 0 to 8 of 7/],
  ['size against shape', { a: f32([3], 0, 8) }, 8, /\[3\] but has 8 bytes/],
  ['overlap', { a: f32([2], 0, 8), b: f32([2], 4, 12) }, 12, /tensor b overlaps a/],
  ['the same bytes twice', { a: f32([1], 0, 4), b: f32([1], 0, 4) }, 4, /overlaps/],
  ['hole', { a: f32([1], 0, 4), b: f32([1], 8, 12) }, 12, /4 bytes before tensor b belong to none/],
  ['bytes at the end', { a: f32([1], 0, 4) }, 9, /last 5 bytes belong to no tensor/],
  [
    'duplicate',
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    4,
    /has "a" twice/,
  ],
  [
    'duplicate by escape',
    '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"\\u0061":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
    4,
    /has "a" twice/,
  ],
  ['metadata of numbers', { __metadata__: { a: 1 } }, 0, /strings to strings/],
  ['quantised', { a: { dtype: 'F8_E4M3', shape: [4], data_offsets: [0, 4] } }, 4, /cannot read[\s\S]*F8_E4M3/],
];

for (const [what, header, bytes, expected, claimed] of damaged) {
  test(`refused, naming the file: ${what}`, () => {
    write(header, bytes, claimed);
    assert.throws(
      () => readSafetensors(file),
      (error: unknown) => isUserError(error) && error.message.startsWith(file) && expected.test(error.message),
    );
  });
}

test('any file cut or altered in any byte of its header is read the same, or refused as a user error', () => {
  write({ weight: f32([2, 2], 0, 16), bias: f32([2], 16, 24) }, 24);
  const whole = readFileSync(file);
  fc.assert(
    fc.property(fc.nat(whole.length - 25), fc.nat(255), fc.nat(whole.length), fc.boolean(), (at, byte, length, cut) => {
      const bytes = Buffer.from(whole);
      bytes[at] = byte;
      writeFileSync(file, bytes);
      if (cut) truncateSync(file, length);
      try {
        for (const entry of readSafetensors(file).entries.values()) {
          assert.ok(entry.offset >= 8 && entry.offset + entry.nbytes <= whole.length);
        }
      } catch (error) {
        assert.ok(isUserError(error), String(error));
      }
    }),
    { numRuns: 500 },
  );
});

test('a sharded model is read through its index; missing shards, absent tensors and paths are refused', () => {
  const one = (name: string) => [{ name, dtype: 'uint8' as const, shape: [1], data: () => new Uint8Array(1) }];
  writeSafetensors(join(folder, 'model-1.safetensors'), one('a'));
  writeSafetensors(join(folder, 'model-2.safetensors'), one('b'));
  const index = join(folder, 'model.safetensors.index.json');
  const give = (weight_map: unknown) => writeFileSync(index, JSON.stringify({ weight_map }));
  give({ a: 'model-1.safetensors', b: 'model-2.safetensors' });
  const entries = readShardIndex(index);
  assert.deepEqual([...entries.keys()], ['a', 'b']);
  assert.ok(entries.get('b')!.file.endsWith('model-2.safetensors'));
  give({ a: 'model-3.safetensors' });
  assert.throws(() => readShardIndex(index), /model-3.safetensors: a shard named in the index is missing/);
  give({ c: 'model-1.safetensors' });
  assert.throws(() => readShardIndex(index), /tensor c is not here/);
  for (const path of ['../model-1.safetensors', '/etc/passwd', '..']) {
    give({ a: path });
    assert.throws(() => readShardIndex(index), /outside the model's folder/);
  }
  give(['a']);
  assert.throws(() => readShardIndex(index), /weight_map must map/);
});

test('duplicate keys are found at any depth, and only real ones', () => {
  assert.equal(duplicateKey('{"a":1,"b":{"a":2},"c":["a","a",{"a":1},{"a":2}]}'), null);
  assert.equal(duplicateKey('{"a":{"b":1 , "b" : 2}}'), 'b');
  assert.equal(duplicateKey('{"a":"\\"b\\":","b":1}'), null);
  assert.equal(duplicateKey('{"x\\\\":1,"x\\\\":2}'), 'x\\');
  fc.assert(fc.property(fc.json(), (text) => duplicateKey(text) === null));
});
