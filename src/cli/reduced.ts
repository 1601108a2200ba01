/** The bundled demo in plain JavaScript, where its full length would take half an hour or more. */
import { join, resolve, sep } from 'node:path';
import type { NevaConfig } from '../config/index.ts';
import { packageRoot } from '../root.ts';

/** Optimizer steps and records in each: a few minutes on one core. */
const STEPS = 20;
const RECORDS = 8;

export function isDemo({ model }: NevaConfig): boolean {
  const data = model.data.data_path;
  return (
    model.data.blend === null &&
    typeof data === 'string' &&
    resolve(data).startsWith(join(packageRoot, 'data', 'demo') + sep)
  );
}

/**
 * The configuration itself; or, for the demo in plain JavaScript, one with fewer and smaller steps, which is said. A length
 * or batch size on the command line stays as it was asked for.
 */
export function reduceDemo(config: NevaConfig, overrides: readonly string[], say: (line: string) => void): NevaConfig {
  const { trainer, model } = config;
  if (trainer.engine !== 'tfjs' || trainer.tfjs_backend !== 'cpu' || !isDemo(config)) return config;
  const given = (...keys: string[]) =>
    overrides.some((each) => keys.includes(each.replace(/^\+*/, '').replace(/=.*/s, '')));
  const keepsLength = given('trainer.max_steps', 'trainer.max_epochs');
  const keepsBatch = given('model.global_batch_size', 'model.micro_batch_size');
  const steps = keepsLength ? trainer.max_steps : Math.min(STEPS, trainer.max_steps);
  const records = keepsBatch ? model.global_batch_size : Math.min(RECORDS, model.global_batch_size);
  if (steps === trainer.max_steps && records === model.global_batch_size) return config;
  say(
    `Plain JavaScript would take half an hour or more for the whole demo: reduced to ${steps} steps of ${records} records ` +
      `(from ${trainer.max_steps} of ${model.global_batch_size}). It shows that everything works; it does not learn the task.`,
  );
  return {
    ...config,
    trainer: {
      ...trainer,
      max_steps: steps,
      ...(keepsLength ? {} : { val_check_interval: steps, limit_val_batches: 1 }),
    },
    model: {
      ...model,
      global_batch_size: records,
      micro_batch_size: keepsBatch ? model.micro_batch_size : records,
    },
  };
}
