import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type DataOptions, type MetProblem, openLoader } from '../../src/data/loader.ts';
import { Pipeline } from '../../src/data/pipeline.ts';
import type { GlobalBatch } from '../../src/data/types.ts';
import { packageRoot } from '../../src/root.ts';
import { dataOptions, record as plainRecord } from '../support/data_set.ts';

const fixtures = join(packageRoot, 'test', 'fixtures', 'data');
const folder = mkdtempSync(join(tmpdir(), 'neva-loader-'));
after(() => rmSync(folder, { recursive: true }));

const record = (i: number) => plainRecord(i, i % 3);

function write(name: string, records: unknown[]): string {
  const path = join(folder, name);
  writeFileSync(path, JSON.stringify(records));
  return path;
}

// Once: a loader may be reading it when the next test begins.
const goodRecords = write(
  'good.json',
  Array.from({ length: 11 }, (_, i) => record(i)),
);

const options = (overrides: Partial<DataOptions> = {}): DataOptions => dataOptions(goodRecords, overrides);

async function take(given: DataOptions, consumedSamples: number, count: number) {
  const loader = await openLoader(given, { consumedSamples });
  const batches: GlobalBatch[] = [];
  const problems: MetProblem[] = [];
  loader.onProblem = (problem) => problems.push(problem);
  try {
    for await (const batch of loader) {
      batches.push(batch);
      if (batches.length === count) break;
    }
  } finally {
    await loader.close();
  }
  return { batches, problems, size: loader.size, cut: loader.cutRecords };
}
const names = (batches: GlobalBatch[]) =>
  batches.map(({ microBatches }) => microBatches.flatMap(({ records }) => records));

test('records that are cut are counted, in padded rows and in packs', async () => {
  const long = {
    id: 'long',
    conversations: [
      { from: 'human', value: 'Tell.' },
      { from: 'gpt', value: 'so it goes '.repeat(300) },
    ],
  };
  const dataPath = write('long.json', [record(0), long, record(3), record(6)]);
  for (const more of [{}, { packed: true, microBatchSize: 1 }]) {
    const { cut, problems } = await take(options({ dataPath, ...more }), 0, 2);
    // Once an epoch.
    assert.equal(cut, 2);
    assert.deepEqual(problems, []);
  }
  assert.equal((await take(options(), 0, 2)).cut, 0);
});

test('batches cross the thread whole, and an epoch leaves out its incomplete last batch', async () => {
  const { batches, size } = await take(options(), 0, 5);
  assert.equal(size, 11);
  assert.deepEqual(
    batches.map(({ epoch }) => epoch),
    [0, 0, 1, 1, 2],
  );
  assert.deepEqual(
    batches.map(({ consumedSamples }) => consumedSamples),
    [4, 8, 12, 16, 20],
  );
  assert.equal(new Set(names(batches.slice(0, 2)).flat()).size, 8);
  assert.notDeepEqual(names(batches.slice(0, 2)), names(batches.slice(2, 4)));
  for (const { microBatches, labelTokens } of batches) {
    assert.equal(microBatches.length, 2);
    assert.equal(
      labelTokens,
      microBatches.reduce((sum, { labelRows }) => sum + labelRows.length, 0),
    );
    for (const micro of microBatches) {
      assert.equal(micro.ids.length, micro.batch * micro.length);
      assert.equal(micro.length, Math.max(...micro.lengths));
      assert.equal(micro.pixels.length, micro.imageCount * 3 * 28 * 28);
      assert.equal(micro.imageRows.length, micro.imageCount * 4);
      for (const row of micro.imageRows) assert.equal(micro.ids[row], 0);
      assert.deepEqual(
        Int32Array.from(micro.labelRows, (row) => micro.ids[row + 1] as number),
        micro.labelTargets,
      );
    }
  }
});

test('starting from a position gives the rest of the same order', async () => {
  const whole = await take(options(), 0, 5);
  const rest = await take(options(), 8, 3);
  assert.deepEqual(rest.batches, whole.batches.slice(2));
});

test('ranks share out the same global batch', async () => {
  const alone = await take(options(), 0, 3);
  const ranks = await Promise.all(
    [0, 1].map((dataParallelRank) => take(options({ dataParallelRank, dataParallelSize: 2 }), 0, 3)),
  );
  alone.batches.forEach(({ microBatches }, step) => {
    assert.deepEqual(
      ranks.map(({ batches }) => batches[step]?.microBatches[0]),
      microBatches,
    );
  });
});

test('single goes through the file in order and round', async () => {
  const { batches } = await take(options({ dataloaderType: 'single' }), 0, 3);
  assert.deepEqual(
    names(batches).flat(),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0].map((i) => `r${i}`),
  );
});

test('grouping by modality keeps pictures and text apart', async () => {
  const dataPath = write(
    'many.json',
    Array.from({ length: 40 }, (_, i) => record(i)),
  );
  const given = options({ dataPath, dataloaderType: 'group_by_modality_length' });
  const { batches } = await take(given, 0, 10);
  const shown = batches.map(({ microBatches }) => microBatches.reduce((sum, micro) => sum + micro.imageCount, 0));
  // 30 records with a picture, 10 without: 7 + 2 batches of one kind, one mixed.
  assert.deepEqual(shown.filter((count) => count === 4).length, 7);
  assert.deepEqual(shown.filter((count) => count === 0).length, 2);
  assert.deepEqual((await take(given, 24, 4)).batches, batches.slice(6));
});

test('a blend is the same global order for any number of ranks, and goes on from a position', async () => {
  const blend = [
    {
      dataPath: write(
        'a.json',
        Array.from({ length: 13 }, (_, i) => record(i)),
      ),
      weight: 1,
    },
    {
      dataPath: write(
        'b.json',
        Array.from({ length: 5 }, (_, i) => ({ ...record(i), id: `b${i}` })),
      ),
      weight: 1,
    },
  ].map((set) => ({ ...set, imageFolder: join(fixtures, 'images') }));
  const alone = await take(options({ blend }), 0, 7);
  assert.equal(alone.size, 18);
  const drawn = names(alone.batches.slice(0, 4)).flat();
  assert.equal(drawn.filter((id) => id.startsWith('b')).length, 8);
  const ranks = await Promise.all(
    [0, 1].map((dataParallelRank) => take(options({ blend, dataParallelRank, dataParallelSize: 2 }), 0, 7)),
  );
  alone.batches.forEach(({ microBatches }, step) => {
    assert.deepEqual(
      ranks.map(({ batches }) => batches[step]?.microBatches[0]),
      microBatches,
    );
  });
  assert.deepEqual((await take(options({ blend }), 20, 2)).batches, alone.batches.slice(5));
});

test('held-out records are never trained on, and are validated on once each', async () => {
  const dataPath = write(
    'many.json',
    Array.from({ length: 40 }, (_, i) => record(i)),
  );
  const given = { dataPath, validationFraction: 0.15 };
  const held = await take(options({ ...given, part: 'validation', dataloaderType: 'once' }), 0, 2);
  assert.equal(held.size, 6);
  const heldOut = names(held.batches).flat();
  assert.equal(new Set(heldOut).size, 6);
  assert.deepEqual(
    held.batches.map(({ consumedSamples }) => consumedSamples),
    [4, 6],
  );
  for (const seed of [7, 8]) {
    const trained = await take(options({ ...given, part: 'train', seed }), 0, 16);
    assert.equal(trained.size, 34);
    const seen = new Set(names(trained.batches).flat());
    // Two of every epoch sit out with its incomplete last batch.
    assert.ok(seen.size >= 32);
    for (const id of heldOut) assert.ok(!seen.has(id), id);
  }
});

test('a replacement is not taken from the held-out records', async () => {
  const records = Array.from({ length: 40 }, (_, i) => (i % 2 ? record(i) : { ...record(i), image: 'none.png' }));
  const given = { dataPath: write('half.json', records), validationFraction: 0.2, onError: 'replace' } as const;
  const held = await take(options({ ...given, part: 'validation', dataloaderType: 'once', onError: 'skip' }), 0, 2);
  const trained = await take(options({ ...given, part: 'train', dataloaderType: 'single' }), 0, 8);
  const seen = new Set(names(trained.batches).flat());
  for (const id of names(held.batches).flat()) assert.ok(!seen.has(id), id);
});

test('records are tried before training starts', async () => {
  const records = Array.from({ length: 40 }, (_, i) => (i < 20 ? record(i) : { ...record(0), image: 'none.png' }));
  const given = options({ dataPath: write('late.json', records), dataloaderType: 'single', checkAtStart: 8 });
  await assert.rejects(openLoader(given, { consumedSamples: 0 }), { userError: true, message: /none\.png/ });
  await assert.rejects(openLoader({ ...given, onError: 'skip', maxBadFraction: 0.2 }, { consumedSamples: 0 }), {
    userError: true,
    message: /0\.2 of 8 records[\s\S]*image_missing 4/,
  });
  assert.equal((await take({ ...given, onError: 'skip', maxBadFraction: 0.5 }, 0, 1)).batches.length, 1);
});

const spoiled = Array.from({ length: 8 }, (_, i) => (i === 2 ? { ...record(2), image: 'none.png' } : record(i)));

test('a bad record ends the run with a user error that names file, record and picture', async () => {
  const given = options({ dataPath: write('bad.json', spoiled), dataloaderType: 'single' });
  await assert.rejects(take(given, 0, 2), (error: Error & { userError?: boolean; kind?: string }) => {
    assert.ok(error.userError);
    assert.equal(error.kind, 'image_missing');
    for (const part of ['bad.json', 'record 2', 'r2', 'none.png'])
      assert.ok(error.message.includes(part), error.message);
    return true;
  });
});

test('skip leaves a bad record out, replace takes the next; both are reported', async () => {
  const dataPath = write('bad.json', spoiled);
  const skipped = await take(options({ dataPath, dataloaderType: 'single', onError: 'skip' }), 0, 2);
  assert.deepEqual(names(skipped.batches)[0], ['r0', 'r1', 'r3']);
  assert.deepEqual(
    skipped.problems.map(({ kind }) => kind),
    ['image_missing'],
  );
  const replaced = await take(options({ dataPath, dataloaderType: 'single', onError: 'replace' }), 0, 2);
  assert.deepEqual(names(replaced.batches)[0], ['r0', 'r1', 'r3', 'r3']);
  assert.deepEqual(
    replaced.problems.map(({ kind }) => kind),
    ['image_missing'],
  );
});

test('too large a share of bad records ends the run even where they are skipped', async () => {
  const dataPath = write('bad.json', spoiled);
  const given = { dataPath, dataloaderType: 'single', onError: 'skip' } as const;
  assert.equal((await take(options({ ...given, maxBadFraction: 0.125 }), 0, 6)).problems.length, 3);
  await assert.rejects(take(options({ ...given, maxBadFraction: 0.1 }), 0, 6), {
    userError: true,
    message: /0\.1 of 8 records[\s\S]*image_missing 1/,
  });
});

test('wrong options are refused when the loader opens', async () => {
  const wrong: [Partial<DataOptions>, RegExp][] = [
    [{ dataPath: join(folder, 'none.json') }, /none\.json: cannot read/],
    [{ tokenizerFolder: folder }, /no tokenizer/],
    [{ template: 'v9' }, /unknown conversation template/],
    [{ globalBatchSize: 3 }, /not a multiple/],
    [{ aspect: 'keep' }, /square or pad/],
    [{ useImStartEnd: true }, /no tokens to put around an image/],
    [{ imageFolder: join(folder, 'none') }, /image_folder: no such folder/],
    [{ globalBatchSize: 12 }, /fewer records/],
  ];
  for (const [overrides, message] of wrong) {
    await assert.rejects(openLoader(options(overrides), { consumedSamples: 0 }), { userError: true, message });
  }
});

test('a closed or forgotten loader does not keep the process alive', () => {
  for (const end of ['await loader.close();', '']) {
    const script = `
      import { openLoader } from ${JSON.stringify(new URL('../../src/data/loader.js', import.meta.url).href)};
      const loader = await openLoader(${JSON.stringify(options())}, { consumedSamples: 0 });
      for await (const batch of loader) { console.log(batch.consumedSamples); break; }
      ${end}`;
    const out = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
      timeout: 20_000,
      encoding: 'utf8',
    });
    assert.equal(out.trim(), '4');
  }
});

test('start and end tokens stand around the picture when asked for', async () => {
  const pipeline = await Pipeline.open(options({ useImStartEnd: true, imStartId: 600, imEndId: 601 }));
  const { example } = await pipeline.source.sample(0);
  const start = example.imageStarts[0] as number;
  assert.deepEqual([...example.ids.slice(start - 1, start + 5)], [600, 0, 0, 0, 0, 601]);
  pipeline.close();
  const named = await Pipeline.open(options({ useImStartEnd: true, additionalTokens: ['<im_start>', '<im_end>'] }));
  const { ids, imageStarts } = (await named.source.sample(0)).example;
  assert.equal(ids[imageStarts[0]! - 1], named.source.tokenizer.tokenId('<im_start>'));
  assert.equal(ids[imageStarts[0]! + 4], named.source.tokenizer.tokenId('<im_end>'));
  named.close();
});

test('a record cut before its answer, or through its picture, is a problem of its own kind', async () => {
  const pipeline = (maxLength: number) => Pipeline.open(options({ maxLength }));
  await assert.rejects((await pipeline(20)).source.sample(0), { kind: 'image_cut', userError: true });
  const whole = (await (await pipeline(256)).source.sample(0)).example;
  const answer = whole.labels.findIndex((label) => label !== -100);
  await assert.rejects((await pipeline(answer)).source.sample(0), { kind: 'no_labels' });
  const cut = (await (await pipeline(answer + 2)).source.sample(0)).example;
  assert.deepEqual([...cut.ids], [...whole.ids.slice(0, answer + 2)]);
});

test('no path leads out of the image folder', async () => {
  for (const image of ['../images.json', '/etc/passwd', 'a/../../x.png', 'http://host/a.png', '.', '..']) {
    const dataPath = write(
      'outside.json',
      Array.from({ length: 4 }, () => ({ ...record(0), image })),
    );
    await assert.rejects(
      (await Pipeline.open(options({ dataPath }))).source.sample(0),
      { kind: 'image_outside', userError: true },
      image,
    );
  }
});
