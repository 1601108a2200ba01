import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { packFile, writePacks } from '../../src/data/pack_index.ts';
import { efficiency, PACKING_ALGORITHMS, pack } from '../../src/data/packing.ts';
import { type DataOptions, Pipeline } from '../../src/data/pipeline.ts';
import type { MicroBatch } from '../../src/data/types.ts';
import { dataOptions, record as plainRecord } from '../support/data_set.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-packing-'));
after(() => rmSync(folder, { recursive: true }));

const record = (i: number, image?: string) => plainRecord(i, (i * 7) % 23, image);

function write(name: string, records: unknown[]): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(records));
  return path;
}

const good = write(
  'good.json',
  Array.from({ length: 22 }, (_, i) => record(i)),
);

const options = (overrides: Partial<DataOptions> = {}): DataOptions =>
  dataOptions(good, { maxLength: 192, microBatchSize: 1, globalBatchSize: 8, packed: true, ...overrides });

async function batchAt(position: number, overrides: Partial<DataOptions> = {}) {
  const pipeline = await Pipeline.open(options(overrides));
  try {
    return { ...(await pipeline.batch(position)), problems: pipeline.takeProblems() };
  } finally {
    pipeline.close();
  }
}

/** Every record of a micro batch by itself: ids, labelled positions with their targets, image positions, pixels. */
function recordsOf(micro: MicroBatch) {
  const size = 3 * micro.imageSize ** 2;
  let start = 0;
  return micro.records.map((id, i) => {
    const begin = micro.packed ? start : i * micro.length;
    const end = begin + micro.lengths[i]!;
    start = end;
    const inside = (row: number) => row >= begin && row < end;
    const images = [...micro.imageRows.keys()].filter((at) => inside(micro.imageRows[at]!));
    const pictures = [...new Set(images.map((at) => Math.floor(at / 4)))];
    return {
      id,
      ids: [...micro.ids.subarray(begin, end)],
      labels: [...micro.labelRows].flatMap((row, at) => (inside(row) ? [[row - begin, micro.labelTargets[at]]] : [])),
      images: images.map((at) => micro.imageRows[at]! - begin),
      pixels: pictures.map((each) => micro.pixels.subarray(each * size, (each + 1) * size).join()),
    };
  });
}
const byId = (micros: readonly MicroBatch[]) =>
  micros.flatMap(recordsOf).sort((a, b) => Number(a.id.slice(1)) - Number(b.id.slice(1)));

test('every record is in one pack, and no pack is fuller than its room', () => {
  const lengths = fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 120 });
  fc.assert(
    fc.property(lengths, fc.integer({ min: 50, max: 90 }), fc.nat(), (each, room, seed) => {
      for (const algorithm of PACKING_ALGORITHMS) {
        const packs = pack(each, room, algorithm, seed);
        assert.deepEqual(
          packs.flat().sort((a, b) => a - b),
          [...each.keys()],
        );
        for (const members of packs) assert.ok(members.reduce((sum, member) => sum + each[member]!, 0) <= room);
        assert.deepEqual(pack(each, room, algorithm, seed), packs, 'the same again');
      }
    }),
  );
});

test('first fit is the first pack with room, as a search from the front finds it', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 1, max: 20 }), { maxLength: 80 }), (lengths) => {
      const order = [...lengths.keys()].sort((a, b) => lengths[b]! - lengths[a]! || a - b);
      const packs: number[][] = [];
      const left: number[] = [];
      for (const index of order) {
        let at = left.findIndex((room) => room >= lengths[index]!);
        if (at < 0) {
          at = packs.push([]) - 1;
          left.push(20);
        }
        packs[at]!.push(index);
        left[at]! -= lengths[index]!;
      }
      assert.deepEqual(pack(lengths, 20, 'first_fit_decreasing'), packs);
    }),
  );
});

test('a packed global batch holds the records of the padded one, and fewer positions', async () => {
  for (const position of [0, 8, 16]) {
    const padded = await batchAt(position, { packed: false, microBatchSize: 4 });
    const packed = await batchAt(position);
    assert.deepEqual(byId(packed.microBatches), byId(padded.microBatches));
    assert.equal(packed.labelTokens, padded.labelTokens);
    assert.deepEqual([packed.epoch, packed.consumedSamples], [padded.epoch, padded.consumedSamples]);
    for (const { batch, length, lengths, packed: own, room } of packed.microBatches) {
      assert.equal(batch, 1);
      assert.equal(own, lengths);
      assert.equal(
        length,
        lengths.reduce((sum, each) => sum + each, 0),
        'no padding',
      );
      assert.ok(length <= room && room === 192);
    }
    assert.ok(packed.microBatches.length < 8);
  }
});

test('ranks share the packs out evenly, and micro batches of several packs hold the same records', async () => {
  const whole = await batchAt(8);
  const shares = await Promise.all([0, 1].map((rank) => batchAt(8, { dataParallelRank: rank, dataParallelSize: 2 })));
  assert.deepEqual(byId(shares.flatMap(({ microBatches }) => microBatches)), byId(whole.microBatches));
  const [a, b] = shares.map(({ microBatches }) => microBatches.length) as [number, number];
  assert.ok(Math.abs(a - b) <= 1);
  const wide = await batchAt(8, { microBatchSize: 2 });
  assert.equal(wide.microBatches.length, Math.ceil(whole.microBatches.length / 2));
  assert.deepEqual(byId(wide.microBatches), byId(whole.microBatches));
  assert.equal(wide.microBatches[0]!.room, 384);
});

test('packs made beforehand: every record once an epoch, the global batch counted in packs', async () => {
  const prefix = join(folder, 'ahead');
  const { header, path } = await writePacks(options(), prefix, { algorithm: 'first_fit_shuffle', seed: 3 });
  assert.equal(path, packFile(prefix));
  const lines = readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => JSON.parse(line));
  assert.equal(lines.length, header.packs);
  const total = lines.reduce((sum, { length }) => sum + length, 0);
  assert.ok(Math.abs(header.packing_efficiency - total / (192 * header.packs)) < 1e-12);
  const given = { packPrefix: prefix, globalBatchSize: 1 };
  const epoch = await Promise.all(lines.map((_, i) => batchAt(i, given)));
  assert.deepEqual(
    epoch.flatMap(({ microBatches }) => microBatches.flatMap(({ records }) => records)).sort(),
    Array.from({ length: 22 }, (_, i) => `r${i}`).sort(),
  );
  assert.ok(epoch.every(({ microBatches }) => microBatches.length === 1));
  assert.equal((await batchAt(lines.length, given)).epoch, 1);
});

test('packs made for other data or settings are refused, with what differs', async () => {
  const prefix = join(folder, 'other');
  await writePacks(options(), prefix, { algorithm: 'shuffle_and_pack', seed: 3 });
  const given = { packPrefix: prefix, globalBatchSize: 1 };
  await assert.rejects(batchAt(0, { ...given, maxLength: 160 }), /encoder_seq_length=160[\s\S]*encoder_seq_length=192/);
  await assert.rejects(batchAt(0, { ...given, template: 'plain' }), { userError: true, message: /conv_template/ });
  await assert.rejects(batchAt(0, { ...given, packPrefix: join(folder, 'nowhere') }), /neva data pack/);
  // As many records, but longer ones.
  const dataPath = write(
    'longer.json',
    Array.from({ length: 22 }, (_, i) => record(i + 100)),
  );
  await assert.rejects(batchAt(0, { ...given, dataPath }), { userError: true, message: /data_bytes/ });
  const other = readFileSync(dataPath);
  const [header, ...lines] = readFileSync(packFile(prefix), 'utf8').split('\n');
  writeFileSync(
    packFile(prefix),
    [JSON.stringify({ ...JSON.parse(header!), data_bytes: other.length }), ...lines].join('\n'),
  );
  await assert.rejects(batchAt(0, { ...given, dataPath }), { userError: true, message: /not those that were packed/ });
  writeFileSync(packFile(prefix), [header, ...lines].join('\n'));
  writeFileSync(packFile(prefix), readFileSync(packFile(prefix), 'utf8').split('\n').slice(0, -3).join('\n'));
  await assert.rejects(batchAt(0, given), { userError: true, message: /not whole/ });
});

test('bad records are left out or replaced, and reported by one rank', async () => {
  const dataPath = write(
    'bad.json',
    Array.from({ length: 8 }, (_, i) =>
      i === 2 ? { id: 'r2', conversations: [] } : record(i, i === 5 ? 'broken.png' : undefined),
    ),
  );
  writeFileSync(join(folder, 'broken.png'), 'no picture');
  const given = { dataPath, dataloaderType: 'single' as const };
  await assert.rejects(batchAt(0, given), { userError: true });
  const skipped = await batchAt(0, { ...given, onError: 'skip' });
  const names = ({ microBatches }: { microBatches: MicroBatch[] }) =>
    microBatches.flatMap(({ records }) => records).sort();
  assert.deepEqual(names(skipped), ['r0', 'r1', 'r3', 'r4', 'r6', 'r7']);
  assert.equal(skipped.problems.length, 2);
  const replaced = await batchAt(0, { ...given, onError: 'replace' });
  assert.deepEqual(names(replaced), ['r0', 'r1', 'r3', 'r3', 'r4', 'r6', 'r6', 'r7']);
  const shares = await Promise.all(
    [0, 1].map((rank) => batchAt(0, { ...given, onError: 'skip', dataParallelRank: rank, dataParallelSize: 2 })),
  );
  assert.equal(
    shares.reduce((sum, { problems }) => sum + problems.length, 0),
    2,
  );
});

test('efficiency is the share of the room that records take', () => {
  assert.equal(efficiency([3, 5, 2], 2, 8), 10 / 16);
});
