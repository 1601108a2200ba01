/** Data of which some cannot be used: checked, skipped, told, counted by kind; held-out records give val_loss. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runInNewContext } from 'node:vm';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-data-run-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const demo = join(packageRoot, 'data', 'demo');
const records = JSON.parse(readFileSync(join(demo, 'pretrain.json'), 'utf8')).slice(0, 40) as { image: string }[];
const spoiled = records.map((record, i) =>
  i % 10 === 3 ? { ...record, image: 'none.png' } : i % 20 === 7 ? { ...record, conversations: 'none' } : record,
);
const dataPath = join(folder, 'data.json');
writeFileSync(dataPath, JSON.stringify(spoiled));

const run = (...more: string[]) =>
  neva([
    'pretrain',
    ...tiny,
    `model.data.data_path=${dataPath}`,
    `model.data.image_folder=${join(demo, 'images')}`,
    `exp_manager.exp_dir=${folder}`,
    'trainer.max_steps=5',
    ...more,
  ]);

test('bad records are skipped and counted, and the held-out ones are validated on', () => {
  const { status, stderr } = run(
    'model.data.on_error=skip',
    'model.data.max_bad_fraction=0.5',
    'model.data.validation_fraction=0.2',
    'model.data.validation_drop_last=false',
    'trainer.val_check_interval=2',
  );
  assert.equal(status, 0, stderr);
  const metrics = readFileSync(join(folder, 'neva_pretrain', 'version_0', 'metrics.jsonl'), 'utf8');
  const lines = metrics
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as { step: number; val_loss?: number });
  const validations = lines.filter((line) => line.val_loss !== undefined);
  assert.deepEqual(
    validations.map(({ step }) => step),
    [2, 4],
  );
  for (const { val_loss } of validations) assert.ok(val_loss! > 0 && Number.isFinite(val_loss));
  assert.match(stderr, /32 records in batches of 8/);
  assert.match(stderr, /warning: image_missing: .*data\.json, record \d+ .*none\.png/);
  assert.match(stderr, /warning: \d+ times a record could not be used: .*image_missing \d/);
});

test('a run refuses data of which too much is bad before it trains', () => {
  for (const more of [['model.data.on_error=skip'], []]) {
    const { status, stderr } = run(...more);
    assert.equal(status, 2, stderr);
    assert.match(stderr, more.length > 0 ? /too many records[\s\S]*max_bad_fraction = 0\.01 of 32/ : /none/);
    assert.doesNotMatch(stderr, /pretrain 1\/5/);
  }
});

test('data check writes its report as a page whose charts hold the lengths', () => {
  const file = join(folder, 'check.html');
  const { status, stdout } = neva([
    'data',
    'check',
    ...tiny,
    `model.data.data_path=${dataPath}`,
    `model.data.image_folder=${join(demo, 'images')}`,
    '--html',
    file,
    '--json',
    '--no-cache',
  ]);
  assert.equal(status, 2);
  const report = JSON.parse(stdout);
  assert.deepEqual([report.good, report.problems.image_missing.count, report.problems.record.count], [34, 4, 2]);
  const html = readFileSync(file, 'utf8');
  assert.match(html, /image_missing: 4/);
  assert.match(html, /would refuse/);
  assert.doesNotMatch(html, /src=|href=/, 'the page needs nothing else');
  // The page's own script, run with a chart library that keeps what it is given.
  const drawn: { title: string; data: number[][] }[] = [];
  const uPlot = Object.assign(
    class {
      constructor({ title }: { title: string }, data: number[][]) {
        drawn.push({ title, data });
      }
    },
    { paths: { bars: () => () => null } },
  );
  const script = html.split('<script>').at(-1)!.split('</script>')[0]!;
  runInNewContext(script, { uPlot, innerWidth: 1000, document: { getElementById: () => null } });
  assert.equal(drawn.length, 2);
  const { upTo, counts } = report.positions.histogram;
  assert.equal(JSON.stringify(drawn[0]!.data), JSON.stringify([upTo, counts]));
  assert.equal(
    counts.reduce((sum: number, count: number) => sum + count, 0),
    34,
  );
});
