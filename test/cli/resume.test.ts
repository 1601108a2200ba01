/** A run that was interrupted, twice, is the uninterrupted one bit for bit: losses, weights and moments. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-resume-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** The first records of a stage's demo data: few, so that steps lie within epochs and across their ends. */
function records(stage: string, count: number, from = 0): string {
  const all = JSON.parse(readFileSync(join(packageRoot, `data/demo/${stage}.json`), 'utf8'));
  const file = join(folder, `${stage}-${from}-${count}.json`);
  writeFileSync(file, JSON.stringify(all.slice(from, from + count)));
  return file;
}

/** Four micro batches a step, of which an epoch is no multiple. */
const accumulated = ['model.micro_batch_size=2', 'model.global_batch_size=8'];
const packed = ['model.data.packed_sequence=true', 'model.micro_batch_size=1', 'model.global_batch_size=4'];
const blend = (stage: string) =>
  `model.data.blend=[{data_path:${records(stage, 13)},weight:2},{data_path:${records('pretrain', 7, 40)},weight:1}]`;
const few = (stage: string) => `model.data.data_path=${records(stage, 21)}`;

for (const [name, stage, words] of [
  ['pretrain, accumulated', 'pretrain', [...accumulated, few('pretrain')]],
  ['finetune, accumulated', 'finetune', [...accumulated, few('finetune')]],
  ['finetune, packed', 'finetune', [...packed, few('finetune')]],
  ['finetune, a blend', 'finetune', [...accumulated, blend('finetune')]],
  ['pretrain, a blend, packed', 'pretrain', [...packed, blend('pretrain')]],
] as const) {
  test(`${name}: interrupted after 2 and after 5 of 8 steps`, () => {
    const run = (out: string, steps: number) => {
      const { status, stderr } = neva(
        [
          stage,
          `trainer.max_steps=${steps}`,
          `exp_manager.explicit_log_dir=${join(folder, out)}`,
          'exp_manager.resume_if_exists=true',
          'exp_manager.resume_past_end=true',
          'model.optim.sched.max_steps=8',
          'model.mm_cfg.pretrain_mm_mlp_adapter=null',
          'trainer.precision=32',
          ...tiny,
          ...words,
        ],
        { env: { OMP_NUM_THREADS: '1' } },
      );
      assert.equal(status, 0, stderr);
    };
    const label = name.replaceAll(/\W+/g, '-');
    run(`${label}-whole`, 8);
    for (const steps of [2, 5, 8]) run(`${label}-parts`, steps);
    const read = (out: string, file: string) => readFileSync(join(folder, `${label}-${out}`, file));
    const figures = (out: string) =>
      read(out, 'metrics.jsonl')
        .toString()
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line))
        .map(({ step, epoch, consumed_samples, loss, grad_norm, tokens, label_tokens }) => {
          return { step, epoch, consumed_samples, loss, grad_norm, tokens, label_tokens };
        });
    assert.deepEqual(figures('parts'), figures('whole'));
    const epochs = figures('whole').map(({ epoch }) => epoch);
    assert.ok(epochs.at(-1)! > epochs[0]!, 'it goes through more than one epoch');
    for (const file of ['model.safetensors', 'optimizer.safetensors']) {
      const path = `checkpoints/step=0000008/${file}`;
      assert.ok(read('parts', path).equals(read('whole', path)), file);
    }
  });
}
