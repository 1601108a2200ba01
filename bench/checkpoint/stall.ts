/** How long training waits for its checkpoints: finetune on the demo, saving every 20 steps, against the same without saving. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../src/root.ts';
import { median } from '../peer.ts';

const STEPS = 120;
const EVERY = 20;

export function measureStall(folder: string) {
  const saving = finetune(folder, 'saving', [`exp_manager.checkpoint_callback_params.every_n_train_steps=${EVERY}`]);
  const plain = finetune(folder, 'plain', ['exp_manager.create_checkpoint_callback=false']);
  const again = finetune(folder, 'again', [`exp_manager.checkpoint_callback_params.every_n_train_steps=${EVERY}`]);
  const seconds = saving.steps.map((step) => step.step_time_s);
  // While a checkpoint is being written, the writer takes processor time from training.
  const after = saving.steps.filter(({ step }) => step > EVERY && step % EVERY === 1).map((step) => step.step_time_s);
  const stalls = [...saving.stalls, ...again.stalls];
  const perStep = sum(stalls) / (saving.steps.length + again.steps.length);
  return {
    every_n_train_steps: EVERY,
    steps: STEPS,
    median_step_s: median(seconds),
    median_step_without_saving_s: median(plain.steps.map((step) => step.step_time_s)),
    median_step_after_a_save_s: median(after),
    stall_s_each: median(stalls),
    written_in_s: median([...saving.writes, ...again.writes]),
    stall_share_of_step_time: perStep / median(seconds),
    stall_and_slower_step_share:
      (median(stalls) + Math.max(0, median(after) - median(seconds))) / (EVERY * median(seconds)),
  };
}

function finetune(folder: string, name: string, more: string[]) {
  const words = [
    'finetune',
    `trainer.max_steps=${STEPS}`,
    `exp_manager.explicit_log_dir=${join(folder, name)}`,
    'model.mm_cfg.pretrain_mm_mlp_adapter=null',
    ...more,
  ];
  const { status, stderr } = spawnSync(process.execPath, [join(packageRoot, 'bin/neva.js'), ...words], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(stderr);
  const lines = (file: string) =>
    readFileSync(join(folder, name, file), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
  const log = lines('neva.log') as { stall_s?: number; write_s?: number }[];
  return {
    steps: lines('metrics.jsonl') as { step: number; step_time_s: number }[],
    stalls: log.flatMap(({ stall_s }) => (stall_s === undefined ? [] : [stall_s])),
    writes: log.flatMap(({ write_s }) => (write_s === undefined ? [] : [write_s])),
  };
}

const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
