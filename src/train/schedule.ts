/** Learning-rate schedules with NeMo's formulas. */

export interface Schedule {
  name: string;
  /** Peak learning rate. */
  lr: number;
  minLr: number;
  warmupSteps: number;
  constantSteps: number;
  maxSteps: number;
}

/**
 * Learning rate of the update with 0-based number `step` (NeMo's CosineAnnealing, WarmupAnnealing).
 * Warm-up: lr·(step+1)/(warmup+1). With constantSteps > 0 NeMo uses Megatron's law: lr·step/warmup, a cosine over what is
 * neither warm-up nor constant, then minLr.
 */
export function learningRate(schedule: Schedule, step: number): number {
  const { name, lr, minLr, warmupSteps, constantSteps, maxSteps } = schedule;
  const megatron = constantSteps > 0;
  if (warmupSteps > 0 && step <= warmupSteps) {
    return megatron ? (lr * step) / warmupSteps : (lr * (step + 1)) / (warmupSteps + 1);
  }
  if (name === 'constant') return lr;
  if (step >= maxSteps) return minLr;
  const span = maxSteps - warmupSteps - constantSteps;
  const share = Math.min(1, (step - warmupSteps) / Math.max(1, span));
  const fall = name === 'CosineAnnealing' ? 0.5 * (1 + Math.cos(Math.PI * share)) : 1 - share;
  return minLr + (lr - minLr) * fall;
}
