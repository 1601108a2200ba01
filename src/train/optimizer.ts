/** AdamW over the trainable parameters, with clipping by the global norm of the gradient. */
import type { AdamWState, Engine, Parameter } from '../engine/engine.ts';

export interface OptimizerOptions {
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
  /** Largest L2 norm of the whole gradient; 0 turns clipping off. */
  clip: number;
}

export class Optimizer {
  readonly parameters: readonly Parameter[];
  readonly states: AdamWState[];
  readonly #engine: Engine;
  readonly #options: OptimizerOptions;

  constructor(engine: Engine, parameters: readonly Parameter[], options: OptimizerOptions) {
    this.#engine = engine;
    this.#options = options;
    this.parameters = parameters;
    this.states = parameters.map(({ value }) => ({
      expAvg: engine.keep(engine.zeros(value.shape)),
      expAvgSq: engine.keep(engine.zeros(value.shape)),
    }));
  }

  /**
   * Update number `step` (from 1) with the summed gradients, which are then gone. Returns the gradient's norm before
   * clipping; it is clipped as torch's clip_grad_norm_ does: by clip / (norm + 1e-6), if that is below 1.
   */
  step(step: number, lr: number): number {
    const { clip, ...adam } = this.#options;
    const grads = this.parameters.flatMap(({ grad }) => (grad ? [grad] : []));
    if (grads.length === 0) return 0;
    const norm = this.#engine.globalNorm(grads);
    const gradScale = clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1;
    this.#engine.adamW(this.parameters, this.states, { ...adam, step, lr, gradScale });
    for (const parameter of this.parameters) {
      parameter.grad?.dispose();
      parameter.grad = null;
    }
    return norm;
  }
}
