/** Runs whose checkpoints cannot be written any more (disk_full.test.ts, permissions.test.ts): their command line, and what they learned. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { tiny } from '../cli/tiny.ts';

/** Saves every other step, and keeps all. @param mode exp_manager.on_save_error */
export const savingArgs = (steps: number, mode: string, ...more: string[]): string[] => [
  'finetune',
  `trainer.max_steps=${steps}`,
  'exp_manager.exp_dir=run',
  'exp_manager.version=version_0',
  'exp_manager.resume_if_exists=true',
  `exp_manager.on_save_error=${mode}`,
  'exp_manager.checkpoint_callback_params.every_n_train_steps=2',
  'exp_manager.checkpoint_callback_params.save_top_k=-1',
  ...more,
  'trainer.precision=32',
  'model.mm_cfg.pretrain_mm_mlp_adapter=null',
  ...tiny,
];

export const runOf = (folder: string): string => join(folder, 'run/neva_finetune/version_0');

/** [step, loss] of each line. */
export const lossesOf = (folder: string): [number, number][] =>
  readFileSync(join(runOf(folder), 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
    .map(({ step, loss }) => [step, loss]);
