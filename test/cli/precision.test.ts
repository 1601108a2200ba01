/** trainer.precision from the command line. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { StepMetrics } from '../../src/report/metrics.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-precision-'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('tf32 is refused on a CPU, whether it was asked for or found', () => {
  for (const accelerator of ['cpu', 'auto']) {
    const run = neva(['pretrain', ...tiny, 'trainer.precision=tf32', `trainer.accelerator=${accelerator}`], {
      cwd: folder,
      env: { CUDA_VISIBLE_DEVICES: '' },
    });
    assert.equal(run.status, 2, run.stderr);
    assert.match(
      run.stderr,
      /trainer\.precision.*\n?.*TF32 is a number format of NVIDIA GPUs[\s\S]*trainer\.precision=32/,
    );
  }
});

test('16-mixed: the loss scale is in the metrics, and goes on where a checkpoint left it', () => {
  const keys = ['trainer.precision=16-mixed', 'model.native_amp_init_scale=16777216', 'model.hysteresis=1'];
  const lines = (name: string, ...more: string[]): StepMetrics[] => {
    const run = neva(['pretrain', ...tiny, ...keys, `exp_manager.explicit_log_dir=${name}`, ...more], { cwd: folder });
    assert.equal(run.status, 0, run.stderr);
    return readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
      .filter(({ loss }) => loss !== undefined);
  };
  const schedule = 'model.optim.sched.max_steps=8';
  const whole = lines('whole', 'trainer.max_steps=8', schedule);
  lines('parts', 'trainer.max_steps=4', schedule);
  const resume = ['exp_manager.resume_if_exists=true', 'exp_manager.resume_past_end=true'];
  const parts = lines('parts', 'trainer.max_steps=8', schedule, ...resume);
  const figures = (from: StepMetrics[]) =>
    from.map(({ step, loss, lr, loss_scale, skipped_steps }) => ({ step, loss, lr, loss_scale, skipped_steps }));
  assert.deepEqual(figures(parts), figures(whole));
  assert.ok(whole.at(-1)!.skipped_steps > 0, 'the first scale is too large');
  assert.ok(whole.at(-1)!.loss_scale! < 16777216);
});
