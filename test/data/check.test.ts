import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type CheckOptions, checkData } from '../../src/data/check.ts';
import { presentCheck, presentRecord } from '../../src/data/present.ts';
import { IMAGE_POSITION, showRecord } from '../../src/data/show.ts';
import { packageRoot } from '../../src/root.ts';

const fixtures = join(packageRoot, 'test', 'fixtures', 'data');
const folder = mkdtempSync(join(tmpdir(), 'neva-check-'));
after(() => rmSync(folder, { recursive: true }));

copyFileSync(join(fixtures, 'images', 'rgb.png'), join(folder, 'a.png'));
copyFileSync(join(fixtures, 'images', 'photo.jpg'), join(folder, 'b.jpg'));
writeFileSync(join(folder, 'broken.jpg'), 'not a picture');

const turns = (question: string, answer = 'A dog.') => [
  { from: 'human', value: question },
  { from: 'gpt', value: answer },
];
const good = [
  { id: 'one', image: 'a.png', conversations: turns('<image>\nWhat?') },
  { id: 'two', image: 'b.jpg', conversations: turns('Which?\n<image>', 'A long answer. '.repeat(40)) },
  { id: 'three', conversations: turns('No picture?') },
  { id: 'four', image: 'a.png', conversations: turns('<image>\nAgain?') },
];
const bad = [
  { id: 'five', image: 'broken.jpg', conversations: turns('<image>\nWhat?') },
  { id: 'six', image: 'none.jpg', conversations: turns('<image>\nWhat?') },
  { id: 'seven', conversations: turns('<image>\nWhat?') },
  { id: 'eight', image: '../x.png', conversations: turns('<image>\nWhat?') },
  { id: 'nine', conversations: turns('word '.repeat(300)) },
];

function options(records: unknown[], overrides: Partial<CheckOptions> = {}): CheckOptions {
  const dataPath = join(folder, 'data.json');
  writeFileSync(dataPath, JSON.stringify(records));
  return {
    dataPath,
    imageFolder: folder,
    tokenizerFolder: join(fixtures, 'tokenizer-new'),
    template: 'v1',
    maxLength: 200,
    imageSize: 28,
    featuresPerImage: 4,
    aspect: 'square',
    useImStartEnd: false,
    onError: 'error',
    maxBadFraction: 0.1,
    ...overrides,
  };
}

test('good data are counted and measured', async () => {
  const seen: number[] = [];
  const report = await checkData(options(good, { onProgress: (done) => seen.push(done) }));
  assert.deepEqual(seen, [1, 2, 3, 4]);
  assert.deepEqual([report.good, report.bad, report.truncated, report.textOnly, report.refused], [4, 0, 1, 1, false]);
  assert.deepEqual(report.images, { used: 3, decoded: 2, remembered: 0 });
  assert.equal(report.positions?.max, 200);
  assert.equal(
    report.positions?.histogram.counts.reduce((a, b) => a + b),
    4,
  );
  assert.equal(report.positions?.histogram.upTo.at(-1), 200);
});

test('bad records are grouped by kind, and the run would refuse as on_error says', async () => {
  const report = await checkData(options([...good, ...bad]));
  const counts = Object.fromEntries(Object.entries(report.problems).map(([kind, { count }]) => [kind, count]));
  assert.deepEqual(counts, { image_unreadable: 1, image_missing: 1, image_count: 1, image_outside: 1, no_labels: 1 });
  assert.equal(report.refused, true);
  assert.match(report.problems.image_missing?.examples[0]?.message ?? '', /record 5 \(id six\).*none\.jpg/);
  assert.equal(report.problems.image_missing?.examples[0]?.index, 5);
  assert.equal((await checkData(options([...good, ...bad], { onError: 'skip' }))).refused, true);
  assert.equal((await checkData(options([...good, ...bad], { onError: 'skip', maxBadFraction: 0.6 }))).refused, false);
  assert.equal((await checkData(options(bad, { onError: 'skip', maxBadFraction: 1 }))).refused, true);
});

test('verdicts are remembered until a file changes; a damaged cache is no verdict', async () => {
  const cacheFile = join(folder, 'verdicts.json');
  const given = options([...good, ...bad], { cacheFile });
  const first = await checkData(given);
  const second = await checkData(given);
  // Three pictures exist: a missing one is looked for each time.
  assert.deepEqual(second.images, { used: 3, decoded: 1, remembered: 3 });
  assert.deepEqual(second.problems, first.problems);
  const { mtime } = statSync(join(folder, 'a.png'));
  utimesSync(join(folder, 'a.png'), mtime, new Date(mtime.getTime() + 5000));
  assert.deepEqual((await checkData(given)).images, { used: 3, decoded: 2, remembered: 2 });
  assert.equal((await checkData({ ...given, maxImageBytes: 10 })).problems.image_too_large?.count, 4);
  writeFileSync(cacheFile, readFileSync(cacheFile, 'utf8').slice(0, 50));
  assert.equal((await checkData(given)).images.remembered, 0);
});

test('a limit takes records spread over the file', async () => {
  const report = await checkData(options([...good, ...bad], { limit: 3 }));
  assert.equal(report.checked, 3);
  assert.deepEqual(Object.keys(report.problems), ['image_count']);
});

test('show gives what the model sees', async () => {
  const { record, pieces, pixels } = await showRecord(options(good), 1);
  assert.equal(record.id, 'two');
  assert.equal(record.template, 'v1');
  assert.equal(record.tokens.length, 200);
  assert.equal(record.labels.length, 200);
  assert.ok(record.cut > 0);
  assert.equal(record.tokens.filter((token) => token === IMAGE_POSITION).length, 4);
  assert.ok(
    record.text.startsWith('<s>A chat between') && record.text.includes('USER: <image>\nWhich? ASSISTANT: A long'),
  );
  assert.ok(record.text.endsWith('A long answer. </s>'));
  assert.deepEqual(record.images, [{ path: join(folder, 'b.jpg'), width: 120, height: 90 }]);
  assert.equal(pixels[0]?.length, 3 * 28 * 28);
  assert.equal(
    pieces
      .filter((piece) => piece.loss)
      .map((piece) => piece.text)
      .join(''),
    ` ${'A long answer. '.repeat(40)}</s>`,
  );
  record.labels.forEach((label, at) => {
    if (label !== -100) assert.equal(label, record.tokens[at]);
  });
  await assert.rejects(showRecord(options(good), 4), { userError: true, message: /0 to 3/ });
});

test('reports and records are written out for a terminal', async () => {
  const text = presentCheck(await checkData(options([...good, ...bad])));
  for (const part of ['9 records', 'bad        5', 'image_missing: 1', 'record 5 (id six)', 'would refuse', '█']) {
    assert.ok(text.includes(part), `${part} in\n${text}`);
  }
  const { record, pieces } = await showRecord(options(good), 0);
  assert.ok(presentRecord(record, pieces, false).endsWith('USER: <image>\nWhat? ASSISTANT:⟦ A dog.</s>⟧'));
  assert.ok(presentRecord(record, pieces, true).endsWith('ASSISTANT:\u001b[32m A dog.</s>\u001b[39m'));
});
