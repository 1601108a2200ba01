/** What a person sees of a running stage: a bar on a terminal, plain lines elsewhere. Standard error, never output. */
import { SingleBar } from 'cli-progress';

export interface ProgressStep {
  step: number;
  loss: number;
  lr: number;
  tokensPerSecond: number;
}

export interface ProgressOptions {
  stage: string;
  /** Steps already done when this process began; 0 at the beginning. */
  firstStep: number;
  totalSteps: number;
  /** Plain lines appear for the first and the last step and for every n-th between. */
  everySteps: number;
}

export interface ProgressOutput {
  stream: NodeJS.WritableStream;
  /** Draw a bar: the stream is a terminal, and trainer.enable_progress_bar is on. */
  bar: boolean;
  now?: () => number;
}

/** Steps whose mean duration predicts the time left. */
const window = 20;

export class Progress {
  private readonly output: ProgressOutput;
  private readonly now: () => number;
  private options: ProgressOptions | null = null;
  private bar: SingleBar | null = null;
  private shown = false;
  /** Times in ms at which the latest steps ended. */
  private ends: number[] = [];
  /** The first step is behind, and no longer in `ends`. */
  private warm = false;

  constructor(output: ProgressOutput) {
    this.output = output;
    this.now = output.now ?? (() => performance.now());
  }

  /** Called once the number of steps is known, before the first one. */
  start(options: ProgressOptions): void {
    this.options = options;
    this.ends = [this.now()];
    this.shown = false;
    this.warm = false;
    if (!this.output.bar) return;
    this.bar = new SingleBar({
      stream: this.output.stream,
      format: `${options.stage} {bar} {value}/{total}  {figures}`,
      barsize: 24,
      hideCursor: true,
      clearOnComplete: false,
      // The command line handles signals: the bar must not end the process before the checkpoint is saved.
      gracefulExit: false,
      linewrap: false,
    });
    this.bar.start(options.totalSteps, options.firstStep, { figures: '' });
  }

  step(step: ProgressStep): void {
    if (!this.options) return;
    this.ends.push(this.now());
    // The first step warms the machine up: it counts only until there is a second one.
    if (this.ends.length === 3 && !this.warm) {
      this.warm = true;
      this.ends.shift();
    }
    if (this.ends.length > window + 1) this.ends.shift();
    const { stage, totalSteps, everySteps } = this.options;
    const figures = [
      `loss ${format(step.loss)}`,
      `lr ${step.lr.toExponential(2)}`,
      `${Math.round(step.tokensPerSecond)} tokens/s`,
      `${duration(this.secondsLeft(step.step))} left`,
    ].join('  ');
    if (this.bar) {
      this.bar.update(step.step, { figures });
      // A training step blocks the event loop: the bar's own timer would draw late.
      this.bar.render();
    } else if (!this.shown || step.step % everySteps === 0 || step.step === totalSteps) {
      const width = String(totalSteps).length;
      this.output.stream.write(`${stage} ${String(step.step).padStart(width)}/${totalSteps}  ${figures}\n`);
    }
    this.shown = true;
  }

  /** Prints a line above the bar. */
  print(line: string): void {
    if (this.bar) this.output.stream.write('\r\x1b[K');
    this.output.stream.write(`${line}\n`);
    this.bar?.render();
  }

  stop(): void {
    this.bar?.stop();
    this.bar = null;
    this.options = null;
  }

  private secondsLeft(step: number): number {
    const first = this.ends[0]!;
    const last = this.ends.at(-1)!;
    return ((last - first) / 1000 / (this.ends.length - 1)) * (this.options!.totalSteps - step);
  }
}

const format = (value: number) => (Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(2));

/** Seconds as 12s, 3:05 or 1:02:03. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (!Number.isFinite(whole)) return '?';
  if (whole < 60) return `${whole}s`;
  const two = (value: number) => String(value).padStart(2, '0');
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${two(whole % 60)}`;
  return `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(whole % 60)}`;
}
