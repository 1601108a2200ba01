/**
 * Exponential moving average of the weights that train (NeMo's EMA callback): after every `everySteps` updates,
 * average = decay · average + (1 − decay) · weight, in float32 and of the main weights where there are any.
 */
import type { Average } from '../checkpoint/folder.ts';
import type { Engine, Parameter } from '../engine/engine.ts';
import type { Moments, StageOptimizer } from './optimizer.ts';

export interface EmaOptions {
  decay: number;
  everySteps: number;
}

/** An optimizer after whose updates the average follows. */
export class EmaOptimizer implements StageOptimizer {
  readonly averages: readonly Average[];
  readonly #engine: Engine;
  readonly #inner: StageOptimizer;
  readonly #parameters: readonly Parameter[];
  readonly #options: EmaOptions;

  /** The averages begin as the weights; `averages` can be overwritten with those of a checkpoint. */
  constructor(engine: Engine, inner: StageOptimizer, parameters: readonly Parameter[], options: EmaOptions) {
    this.#engine = engine;
    this.#inner = inner;
    this.#parameters = parameters;
    this.#options = options;
    this.averages = parameters.map(({ name, main, value, rows }) => {
      const weight = main ?? value;
      return {
        name,
        ...(rows === undefined ? {} : { rows }),
        value: engine.keep(engine.scope(() => engine.scale(engine.cast(weight, 'float32'), 1))),
      };
    });
  }

  step(step: number, lr: number, scale?: number): number {
    const norm = this.#inner.step(step, lr, scale);
    const { decay, everySteps } = this.#options;
    if (step % everySteps !== 0 || !Number.isFinite(norm)) return norm;
    const engine = this.#engine;
    for (const [i, { main, value }] of this.#parameters.entries()) {
      const average = this.averages[i]!.value;
      engine.scope(() =>
        engine.assign(average, engine.add(engine.scale(average, decay), engine.scale(main ?? value, 1 - decay))),
      );
    }
    return norm;
  }

  /** Runs `body` with the averages in the place of the weights. */
  async during<T>(body: () => Promise<T>): Promise<T> {
    const engine = this.#engine;
    const own = this.#parameters.map(({ value }) => value);
    const swapped = this.#parameters.map(({ value }, i) =>
      engine.keep(engine.scope(() => engine.cast(engine.scale(this.averages[i]!.value, 1), value.dtype))),
    );
    this.#parameters.forEach((parameter, i) => {
      parameter.value = swapped[i]!;
    });
    try {
      return await body();
    } finally {
      this.#parameters.forEach((parameter, i) => {
        parameter.value = own[i]!;
        swapped[i]!.dispose();
      });
    }
  }

  withWhole(body: (moments: Moments) => void): void {
    this.#inner.withWhole(body);
  }

  load(fill: (moments: Moments) => void): void {
    this.#inner.load(fill);
  }
}
