/** metrics.jsonl: one line per optimizer step, which other programs read while the run goes on. */
import { closeSync, existsSync, openSync, readFileSync, writeSync } from 'node:fs';
import { writeFileAtomic } from '../files.ts';
import type { TensorboardWriter } from './tensorboard.ts';

/** Sums over all ranks of one optimizer step. */
export interface StepMetrics {
  /** 1-based. */
  step: number;
  epoch: number;
  consumed_samples: number;
  loss: number;
  lr: number;
  /** null where the gradient overflowed and the step was skipped. */
  grad_norm: number | null;
  /** What the loss was multiplied by (float16); null in other precisions. */
  loss_scale: number | null;
  /** Steps skipped so far because their gradients overflowed. */
  skipped_steps: number;
  /** All positions processed, image positions included. */
  tokens: number;
  label_tokens: number;
  /** Share of the positions of padded rows, or of the room of packs, that records take. */
  packing_efficiency: number;
  step_time_s: number;
  /** The part of step_time_s that was spent waiting for data. */
  data_time_s: number;
  tokens_per_s: number;
  samples_per_s: number;
  tflops: number;
  /** Share of the hardware's peak; null where the peak is unknown. */
  mfu: number | null;
  peak_memory_bytes: number;
}

export interface ValidationMetrics {
  step: number;
  epoch: number;
  consumed_samples: number;
  val_loss: number;
}

/** The keys of a step's line, in the order in which they are written. */
const stepKeys = [
  'step',
  'epoch',
  'consumed_samples',
  'loss',
  'lr',
  'grad_norm',
  'loss_scale',
  'skipped_steps',
  'tokens',
  'label_tokens',
  'packing_efficiency',
  'step_time_s',
  'data_time_s',
  'tokens_per_s',
  'samples_per_s',
  'tflops',
  'mfu',
  'peak_memory_bytes',
] as const satisfies readonly (keyof StepMetrics)[];

/** Appends lines; opened on an existing file it first cuts what lies after the step that the run resumes from. */
export class MetricsWriter {
  private readonly handle: number;
  private readonly tensorboard: TensorboardWriter | null;

  /**
   * `resumedStep`: lines of later steps are removed, so that no step ever stands there twice. 0 at the beginning.
   * `tensorboard` gets every number too, as `train/loss` and so on.
   */
  constructor(path: string, resumedStep: number, tensorboard: TensorboardWriter | null = null) {
    cutAfter(path, resumedStep);
    this.handle = openSync(path, 'a');
    this.tensorboard = tensorboard;
  }

  step(metrics: StepMetrics): void {
    this.append(Object.fromEntries(stepKeys.map((key) => [key, metrics[key]])));
    const { step, ...values } = metrics;
    this.tensorboard?.scalars(step, Object.fromEntries(Object.entries(values).map(([key, v]) => [`train/${key}`, v])));
  }

  validation(metrics: ValidationMetrics): void {
    this.append(metrics);
    this.tensorboard?.scalars(metrics.step, { 'validation/loss': metrics.val_loss });
  }

  close(): void {
    closeSync(this.handle);
    this.tensorboard?.close();
  }

  /** One write call a line: a reader never sees half of one. JSON has no NaN; a loss that is not finite becomes null. */
  private append(line: object): void {
    writeSync(this.handle, `${JSON.stringify(line)}\n`);
  }
}

function cutAfter(path: string, step: number): void {
  if (!existsSync(path)) return;
  const text = readFileSync(path, 'utf8');
  const kept = text.split('\n').filter((line) => {
    try {
      return (JSON.parse(line) as { step: number }).step <= step;
    } catch {
      // The torn last line of a run that was killed in the middle of a write, or the end of the file.
      return false;
    }
  });
  const content = kept.map((line) => `${line}\n`).join('');
  if (content !== text) writeFileAtomic(path, content);
}
