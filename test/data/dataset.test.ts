import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import fc from 'fast-check';
import { openDataset } from '../../src/data/dataset.ts';
import { generator, permutation } from '../../src/data/permutation.ts';
import { openRecords } from '../../src/data/records.ts';
import { groupedOrder, Sampler } from '../../src/data/sampler.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-dataset-'));
after(() => rmSync(folder, { recursive: true }));

function file(text: string | Buffer, name = 'data.json'): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}
async function readAll(text: string | Buffer): Promise<unknown[]> {
  const records = await openRecords(file(text));
  try {
    return Array.from({ length: records.size }, (_, i) => records.read(i));
  } finally {
    records.close();
  }
}

test('any JSON array and any JSONL is read record by record', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.jsonValue(), { maxLength: 12 }), fc.constantFrom(0, 1, 4), async (values, indent) => {
      assert.deepEqual(await readAll(JSON.stringify(values, null, indent)), JSON.parse(JSON.stringify(values)));
      const objects = values.map((value) => ({ value }));
      const lines = objects.map((value) => JSON.stringify(value)).join(indent ? '\r\n' : '\n');
      assert.deepEqual(await readAll(lines), JSON.parse(JSON.stringify(objects)));
    }),
    { numRuns: 300 },
  );
});

test('records that cross the boundary of a read are whole', async () => {
  const values = Array.from({ length: 60 }, (_, i) => ({ i, text: `"\\[{,é${'x'.repeat(60_000)}` }));
  assert.deepEqual(await readAll(JSON.stringify(values)), values);
});

test('a byte-order mark and blank lines are passed over', async () => {
  assert.deepEqual(await readAll('\uFEFF[1, 2]'), [1, 2]);
  assert.deepEqual(await readAll('{"a":1}\n\n  \n{"a":2}'), [{ a: 1 }, { a: 2 }]);
});

test('malformed files are user errors that say where', async () => {
  const cases: [string, RegExp][] = [
    ['[{"a":1}, ', /ends inside the array/],
    ['[{"a":1} {"b":2}]', /record 0.*not valid JSON/s],
    ['[1,,2]', /empty element/],
    ['[1,2,]', /empty element/],
    ['[1] x', /after the end/],
    ['{"a":', /record 0.*not valid JSON/s],
    ['not json', /record 0.*not valid JSON/s],
  ];
  for (const [text, message] of cases) await assert.rejects(readAll(text), { userError: true, message }, text);
  await assert.rejects(openRecords(folder), { userError: true, message: /is a folder/ });
  await assert.rejects(openDataset(file('[]')), { userError: true, message: /holds no records/ });
  await assert.rejects(openDataset(file('')), { userError: true, message: /holds no records/ });
});

const turns = [
  { from: 'human', value: '<image>\nWhat?' },
  { from: 'gpt', value: 'That.' },
];
const get = async (record: unknown) => {
  const dataset = await openDataset(file(JSON.stringify([record])));
  try {
    return dataset.get(0);
  } finally {
    dataset.close();
  }
};

test('gzipped files are read like plain ones, whatever their name; damaged ones are named', async () => {
  const packed = gzipSync('[{"a": 1}, {"a": 2}]');
  assert.deepEqual(await readAll(packed), [{ a: 1 }, { a: 2 }]);
  assert.deepEqual(await readAll(gzipSync('{"a": 1}\n{"a": 2}\n')), [{ a: 1 }, { a: 2 }]);
  await assert.rejects(readAll(packed.subarray(0, packed.length - 6)), { userError: true, message: /cannot unpack/ });
  await assert.rejects(readAll(gzipSync(Buffer.alloc(1 << 28, 32))), {
    userError: true,
    message: /more than 256 times/,
  });
});

test('SteerLM records carry their pictures inside the text, and a label for each answer', async () => {
  const conversations = [
    { from: 'User', value: 'Look: <img src="/data/a/dog.png"> and <img src="cat.jpg"/>', label: null },
    { from: 'Assistant', value: 'Pets.', label: 'quality:4' },
  ];
  const record = await get({ system: 'Chat.\n', conversations });
  assert.deepEqual(record.images, ['dog.png', 'cat.jpg']);
  assert.deepEqual(record.turns, [
    { from: 'human', text: 'Look: <image> and <image>' },
    { from: 'gpt', text: 'Pets.', label: 'quality:4' },
  ]);
});

test('good records', async () => {
  assert.deepEqual((await get({ id: 7, image: 'a.png', conversations: turns })).images, ['a.png']);
  assert.equal((await get({ id: 7, image: 'a.png', conversations: turns })).id, '7');
  assert.equal((await get({ image: ['a.png'], conversations: turns })).id, '0');
  const leading = [{ from: 'gpt', value: 'Hi.' }, ...turns];
  assert.equal((await get({ id: 'a', image: 'a.png', conversations: leading })).turns.length, 2);
  assert.equal((await get({ id: 'a', image: 'a.png', conversations: turns, system: 'Be brief.' })).system, 'Be brief.');
});

test('a bad record is named with its key, what was expected and what was found', async () => {
  const cases: [unknown, string, RegExp][] = [
    ['text', 'record', /record 0: not a record/],
    [[1], 'record', /not a record/],
    [{ id: 'x' }, 'record', /\(id x\): conversations: missing/],
    [{ id: 'x', conversations: 'hello' }, 'record', /conversations: not a list[\s\S]*found: +hello/],
    [{ conversations: [] }, 'record', /no question with an answer/],
    [{ conversations: [turns[0]] }, 'record', /no question with an answer/],
    [{ conversations: [turns[0], turns[0]] }, 'record', /do not alternate at turn 1/],
    [{ conversations: [{ from: 'cat', value: '' }, turns[1]] }, 'record', /conversations\[0\]\.from: unknown speaker/],
    [{ conversations: [{ from: 'human', value: 3 }, turns[1]] }, 'record', /conversations\[0\]\.value: not a text/],
    [{ conversations: [null, turns[1]] }, 'record', /conversations\[0\]: not a turn/],
    [{ conversations: turns }, 'image_count', /expected: 1 image,/],
    [{ image: ['a', 'b'], conversations: turns }, 'image_count', /found: +2/],
    [{ image: 3, conversations: turns }, 'record', /image: not a path/],
    [{ image: '', conversations: turns }, 'record', /image: not a path/],
    [{ image: 'a', system: 3, conversations: turns }, 'record', /system: not a text/],
  ];
  for (const [record, kind, message] of cases) {
    await assert.rejects(get(record), { kind, userError: true, message }, JSON.stringify(record));
  }
});

test('a permutation is one, depends on the seed alone, and is close to uniform', () => {
  fc.assert(
    fc.property(fc.nat(300), fc.nat(), (size, seed) => {
      const order = permutation(size, seed);
      assert.deepEqual(
        [...order].sort((a, b) => a - b),
        Array.from({ length: size }, (_, i) => i),
      );
      assert.deepEqual(order, permutation(size, seed));
    }),
  );
  const counts = new Array(24).fill(0);
  for (let seed = 0; seed < 24_000; seed++) {
    const [a, b, c] = permutation(4, seed) as unknown as [number, number, number];
    counts[
      a * 6 + (b - (b > a ? 1 : 0)) * 2 + (c > [0, 1, 2, 3].find((d) => d !== a && d !== b && d !== c)! ? 1 : 0)
    ]++;
  }
  // χ² with 23 degrees of freedom: 60 is beyond p = 0.0001.
  assert.ok(counts.reduce((sum, count) => sum + (count - 1000) ** 2 / 1000, 0) < 60, String(counts));
});

test('the sampler is a pure function of its position', () => {
  for (const kind of ['cyclic', 'single'] as const) {
    const options = { kind, sizes: [23], globalBatchSize: 5, seed: 3 };
    const forward = new Sampler(options);
    const batches = Array.from({ length: 14 }, (_, i) => forward.batch(i * 5));
    for (let i = 13; i >= 0; i--) assert.deepEqual(new Sampler(options).batch(i * 5), batches[i]);
  }
});

test('grouping: every record at most once, one modality and similar lengths in a batch', () => {
  const size = 1003;
  const random = generator(5);
  const lengths = Int32Array.from({ length: size }, (_, i) => Math.ceil(random() * 900 + 1) * (i % 3 === 0 ? -1 : 1));
  const spread = (poolBatches: number) => {
    const order = groupedOrder(permutation(size, 1), { globalBatchSize: 8, lengths, poolBatches }, 1);
    assert.equal(order.length, 1000);
    assert.equal(new Set(order).size, 1000);
    let mixed = 0;
    let sum = 0;
    for (let at = 0; at < order.length; at += 8) {
      const batch = [...order.subarray(at, at + 8)].map((index) => lengths[index]!);
      if (batch.some((length) => length < 0) && batch.some((length) => length > 0)) mixed++;
      else sum += Math.max(...batch.map(Math.abs)) - Math.min(...batch.map(Math.abs));
    }
    assert.ok(mixed <= 1);
    return sum / 125;
  };
  assert.ok(spread(16) * 5 < spread(1));
  assert.notDeepEqual(
    groupedOrder(permutation(size, 1), { globalBatchSize: 8, lengths }, 1),
    groupedOrder(permutation(size, 2), { globalBatchSize: 8, lengths }, 2),
  );
});
