/** A run's numbers in a few, read from its metrics.jsonl. */
import { existsSync, readFileSync } from 'node:fs';
import type { StepMetrics } from './metrics.ts';

export interface RunSummary {
  /** Optimizer steps that were logged. */
  steps: number;
  /** Loss of the last step; null when it was not finite. */
  finalLoss: number | null;
  /** All tokens over all step time. */
  tokensPerSecond: number;
}

/** Null when no step was logged; a torn last line is passed over. */
export function summarizeMetrics(file: string): RunSummary | null {
  if (!existsSync(file)) return null;
  let steps = 0;
  let tokens = 0;
  let seconds = 0;
  let finalLoss: number | null = null;
  for (const line of readFileSync(file, 'utf8').split('\n')) {
    let metrics: Partial<StepMetrics>;
    try {
      metrics = JSON.parse(line) as Partial<StepMetrics>;
    } catch {
      continue;
    }
    // Validation lines have val_loss and no loss.
    if (metrics.loss === undefined) continue;
    steps++;
    finalLoss = metrics.loss;
    tokens += metrics.tokens ?? 0;
    seconds += metrics.step_time_s ?? 0;
  }
  return steps === 0 ? null : { steps, finalLoss, tokensPerSecond: seconds > 0 ? tokens / seconds : 0 };
}
