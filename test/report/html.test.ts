/** The page of a run: its numbers are those of metrics.jsonl, and nothing in the run's texts can break out of it. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runInNewContext } from 'node:vm';
import { writeHtmlReport } from '../../src/report/html.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-html-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const line = (step: number) => ({
  step,
  epoch: 0,
  consumed_samples: step * 32,
  loss: 1 / step,
  lr: 1e-3,
  grad_norm: 2,
  tokens: 100,
  label_tokens: 10,
  step_time_s: 0.5,
  data_time_s: 0.01,
  tokens_per_s: 200,
  samples_per_s: 64,
  tflops: 0.1,
  mfu: null,
  peak_memory_bytes: 2 ** 30,
});

interface Drawn {
  title: string;
  series: { label: string }[];
  data: (number | null)[][];
}

/** Runs the page's last script with a plotter that writes down what it is given. */
function draw(html: string): Drawn[] {
  const script = html.split('<script>').at(-1)!.split('</script>')[0]!;
  const drawn: Drawn[] = [];
  class uPlot {
    constructor({ title, series }: Drawn, data: Drawn['data']) {
      drawn.push({ title, series, data });
    }
  }
  runInNewContext(script, { uPlot, innerWidth: 1000, document: { getElementById: () => null } });
  // Out of the other realm, whose arrays have other prototypes.
  return JSON.parse(JSON.stringify(drawn));
}

test('charts and tables hold the steps, and validations stand at theirs', () => {
  const lines = [line(1), line(2), { step: 2, epoch: 0, consumed_samples: 64, val_loss: 0.7 }, line(3)];
  writeFileSync(
    join(folder, 'metrics.jsonl'),
    `${lines.map((each) => JSON.stringify(each)).join('\n')}\n{"step":4,"lo`,
  );
  writeFileSync(join(folder, 'overrides.yaml'), '- name="</script><b>"\n');
  writeHtmlReport(folder);
  const html = readFileSync(join(folder, 'report.html'), 'utf8');
  assert.ok(!html.includes('</script><b>'), 'texts are escaped');
  assert.match(html, /&lt;\/script&gt;&lt;b&gt;/);
  assert.ok(!/(src|href)=/.test(html.split('<script>')[0]!), 'nothing is fetched');
  const [loss] = draw(html);
  assert.deepEqual(
    loss!.series.map(({ label }) => label),
    ['step', 'training', 'validation'],
  );
  assert.deepEqual(loss!.data, [
    [1, 2, 3],
    [1, 1 / 2, 1 / 3],
    [null, 0.7, null],
  ]);
  assert.match(html, /<th>tokens\/s<\/th><td>200<\/td>/);
});

test('a long run is thinned out, its last step kept; a run without steps has no page', () => {
  writeFileSync(
    join(folder, 'metrics.jsonl'),
    Array.from({ length: 10_000 }, (_, i) => JSON.stringify(line(i + 1))).join('\n'),
  );
  writeHtmlReport(folder);
  const html = readFileSync(join(folder, 'report.html'), 'utf8');
  const [x] = draw(html)[0]!.data as [number[]];
  assert.ok(x.length <= 4000);
  assert.equal(x.at(-1), 10_000);
  assert.match(html, /Of 10000 steps, one in 3 is drawn/);
  rmSync(join(folder, 'report.html'));
  writeFileSync(join(folder, 'metrics.jsonl'), '');
  writeHtmlReport(folder);
  assert.ok(!existsSync(join(folder, 'report.html')));
});
