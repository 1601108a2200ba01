/** When a checkpoint is due. */
import type { NevaConfig } from '../config/index.ts';

export interface SavePlan {
  /** Optimizer steps: due after every multiple of one of them. */
  everySteps: readonly number[];
  afterValidation: boolean;
  /** Milliseconds of rank 0's clock since the last one; null for none. */
  everyMs: number | null;
  /** After the last step. */
  atEnd: boolean;
}

export const NEVER: SavePlan = { everySteps: [], afterValidation: false, everyMs: null, atEnd: false };

/** @param stepsPerEpoch whole global batches in the data set */
export function savePlan({ exp_manager: manager }: NevaConfig, stepsPerEpoch: number): SavePlan {
  if (!manager.create_checkpoint_callback) return NEVER;
  const {
    every_n_train_steps: steps,
    every_n_epochs: epochs,
    train_time_interval: minutes,
  } = manager.checkpoint_callback_params;
  return {
    everySteps: [...(steps ? [steps] : []), ...(epochs ? [epochs * Math.max(1, stepsPerEpoch)] : [])],
    afterValidation: steps === null && epochs === null && minutes === null,
    everyMs: minutes === null ? null : minutes * 60_000,
    atEnd: manager.save_on_train_end,
  };
}

export const isDue = (plan: SavePlan, step: number, validated: boolean, overdue: boolean): boolean =>
  overdue || (validated && plan.afterValidation) || plan.everySteps.some((every) => step % every === 0);
