/** report.html: what a run did, as one page that needs nothing else. The charts are uPlot's, which is put into the page. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { writeFileAtomic } from '../files.ts';
import type { StepMetrics, ValidationMetrics } from './metrics.ts';
import { type Chart, escapeHtml, page, table } from './page.ts';
import { RECORD_FILE, readRecord } from './run_record.ts';

/** A chart has at most this many points; of more steps, evenly spread ones are drawn, and the page says so. */
const MOST_POINTS = 4000;

type Line = StepMetrics & Pick<ValidationMetrics, 'val_loss'>;

/** Writes `report.html` into a run's folder, from the files that lie there; nothing where no step was logged. */
export function writeHtmlReport(dir: string): void {
  const lines = readLines(join(dir, 'metrics.jsonl'));
  const steps = lines.filter(({ loss }) => loss !== undefined);
  if (steps.length === 0) return;
  const stride = Math.ceil(steps.length / MOST_POINTS);
  const drawn = steps.filter((_, i) => i % stride === 0 || i === steps.length - 1);
  const validations = new Map(lines.filter(({ val_loss }) => val_loss !== undefined).map((l) => [l.step, l.val_loss]));
  const charts = chartsOf(drawn, validations);
  const note = stride > 1 ? `<p>Of ${steps.length} steps, one in ${stride} is drawn.</p>` : '';
  const x = drawn.map(({ step }) => step);
  writeFileAtomic(join(dir, 'report.html'), page(dir, `${tables(dir, steps)}${note}`, x, charts));
}

function readLines(file: string): Line[] {
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .flatMap((line) => {
      try {
        return [JSON.parse(line) as Line];
      } catch {
        return []; // a torn last line, or the end
      }
    });
}

function chartsOf(steps: readonly Line[], validations: ReadonlyMap<number, number>): Chart[] {
  const row = (key: keyof StepMetrics) => steps.map((line) => line[key] ?? null);
  // A validation that falls between drawn steps stands at the next one.
  const pending = [...validations].sort(([a], [b]) => a - b);
  const validation = steps.map(({ step }) => {
    let value: number | null = null;
    while (pending.length > 0 && pending[0]![0] <= step) value = pending.shift()![1];
    return value;
  });
  const withValidation = validations.size > 0;
  return [
    {
      title: 'loss',
      series: withValidation ? ['training', 'validation'] : ['training'],
      values: withValidation ? [row('loss'), validation] : [row('loss')],
    },
    { title: 'learning rate', series: ['lr'], values: [row('lr')] },
    { title: 'norm of the gradient', series: ['before clipping'], values: [row('grad_norm')], logarithmic: true },
    { title: 'tokens/s', series: ['tokens/s'], values: [row('tokens_per_s')] },
    {
      title: 'seconds a step',
      series: ['all', 'waiting for data'],
      values: [row('step_time_s'), row('data_time_s')],
    },
  ];
}

/** What the run was and what came out, as tables. */
function tables(dir: string, steps: readonly StepMetrics[]): string {
  const last = steps.at(-1)!;
  const sum = (key: 'tokens' | 'step_time_s') => steps.reduce((total, line) => total + line[key], 0);
  const seconds = sum('step_time_s');
  const outcome: [string, string][] = [
    ['steps', String(last.step)],
    ['loss', `${steps[0]!.loss} at step ${steps[0]!.step}, ${last.loss} at step ${last.step}`],
    ['records', last.consumed_samples.toLocaleString('en-US')],
    ['positions', sum('tokens').toLocaleString('en-US')],
    ['time in steps', `${seconds.toFixed(1)} s`],
    ['tokens/s', (sum('tokens') / seconds).toFixed(0)],
    ['peak memory', `${(Math.max(...steps.map((line) => line.peak_memory_bytes)) / 2 ** 20).toFixed(0)} MiB`],
  ];
  const record = existsSync(join(dir, RECORD_FILE)) ? readRecord(dir) : null;
  const starts = record ? [...record.earlier, record] : [];
  const made = starts.map(({ started_at, command, host, resumed_step }): [string, string] => [
    resumed_step > 0 ? `${started_at}, from step ${resumed_step}` : started_at,
    `${command.join(' ')} (on ${host})`,
  ]);
  const overrides = join(dir, 'overrides.yaml');
  const asked: string[] = existsSync(overrides) ? (parse(readFileSync(overrides, 'utf8')) ?? []) : [];
  return [
    table('What came out', outcome),
    made.length > 0 ? table('Started', made) : '',
    asked.length > 0 ? `<h2>Overrides</h2><pre>${escapeHtml(asked.join('\n'))}</pre>` : '',
  ].join('\n');
}
