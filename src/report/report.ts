/** What a training run reports through, handed to it by the command line. */
import type { Logger } from './log.ts';
import type { MetricsWriter } from './metrics.ts';
import type { Progress } from './progress.ts';

export interface Report {
  log: Logger;
  progress: Progress;
  metrics: Pick<MetricsWriter, 'step' | 'validation'>;
  /** Aborted by SIGTERM or Ctrl-C: finish the step, save, return `stopped: true`. */
  stop: AbortSignal;
}
