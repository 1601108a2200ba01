import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { MetricsWriter, type StepMetrics } from '../../src/report/metrics.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-metrics-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const metricsOf = (step: number): StepMetrics => ({
  step,
  epoch: 0,
  consumed_samples: 8 * step,
  loss: 1 / step,
  lr: 1e-3,
  grad_norm: 2,
  loss_scale: null,
  skipped_steps: 0,
  tokens: 100,
  label_tokens: 40,
  packing_efficiency: 0.9,
  step_time_s: 0.5,
  data_time_s: 0.01,
  tokens_per_s: 200,
  samples_per_s: 16,
  tflops: 0.1,
  mfu: null,
  peak_memory_bytes: 1024,
});

const read = (path: string) =>
  readFileSync(path, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { step: number; val_loss?: number });

test('every step is one line with every field, readable while the writer is open', () => {
  const path = join(folder, 'whole.jsonl');
  const writer = new MetricsWriter(path, 0);
  writer.step(metricsOf(1));
  assert.deepEqual(read(path), [metricsOf(1)]);
  writer.step({ ...metricsOf(2), loss: Number.NaN });
  writer.validation({ step: 2, epoch: 0, consumed_samples: 16, val_loss: 0.5 });
  writer.close();
  assert.deepEqual(read(path).slice(1), [
    { ...metricsOf(2), loss: null },
    { step: 2, epoch: 0, consumed_samples: 16, val_loss: 0.5 },
  ]);
});

test('resuming cuts the lines after the resumed step, and a torn last line', () => {
  const path = join(folder, 'resumed.jsonl');
  const first = new MetricsWriter(path, 0);
  for (const step of [1, 2, 3, 4, 5]) first.step(metricsOf(step));
  first.validation({ step: 5, epoch: 0, consumed_samples: 40, val_loss: 1 });
  first.close();
  appendFileSync(path, '{"step":6,"ep');

  const second = new MetricsWriter(path, 3);
  second.step(metricsOf(4));
  second.close();
  assert.deepEqual(
    read(path).map((line) => line.step),
    [1, 2, 3, 4],
  );
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.endsWith('.partial')),
    [],
  );
});
