/** AdamW over the trainable parameters, with clipping by the global norm of the gradient. */
import type { AdamWState, Engine, Parameter } from '../engine/engine.ts';
import { ALONE, type Group } from '../parallel/group.ts';

export interface OptimizerOptions {
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
  /** Largest L2 norm of the whole gradient; 0 turns clipping off. */
  clip: number;
}

/** Moments by parameter name, in the parameters' shapes. */
export type Moments = ReadonlyMap<string, AdamWState>;

/** What THE loop and checkpoints need of an optimizer, however its state is kept. */
export interface StageOptimizer {
  /**
   * Update number `step` (from 1) with the summed gradients, which are `scale` times too large (loss_scale.ts). Returns the
   * gradient's norm before clipping; if that is not finite, nothing is updated.
   */
  step(step: number, lr: number, scale?: number): number;
  /** Runs `body` with the whole state (and float32 weights in `main` where the values are less), on rank 0 alone. */
  withWhole(body: (moments: Moments) => void): void;
  /** Takes over a state that `fill` writes into the tensors that it is given. */
  load(fill: (moments: Moments) => void): void;
}

export class Optimizer implements StageOptimizer {
  readonly parameters: readonly Parameter[];
  readonly states: AdamWState[];
  readonly #engine: Engine;
  readonly #options: OptimizerOptions;
  readonly #group: Group;

  /** `remainders`: parameters below float32 give up `main` for the 16 bits that their value leaves of it. */
  constructor(
    engine: Engine,
    parameters: readonly Parameter[],
    options: OptimizerOptions,
    group: Group = ALONE,
    remainders = false,
  ) {
    this.#engine = engine;
    this.#group = group;
    this.#options = options;
    this.parameters = parameters;
    this.states = parameters.map(({ value }) => ({
      expAvg: engine.keep(engine.zeros(value.shape)),
      expAvgSq: engine.keep(engine.zeros(value.shape)),
    }));
    for (const parameter of remainders ? parameters.filter(({ main }) => main) : []) {
      parameter.remainder = engine.keep(engine.remainder(parameter.main!));
      parameter.main!.dispose();
      parameter.main = null;
    }
  }

  get #moments(): Moments {
    return new Map(this.parameters.map(({ name }, i) => [name, this.states[i]!]));
  }

  withWhole(body: (moments: Moments) => void): void {
    if (this.#group.rank !== 0) return;
    const joined = this.parameters.filter(({ remainder }) => remainder);
    for (const parameter of joined) {
      parameter.main = this.#engine.keep(this.#engine.join(parameter.value, parameter.remainder!));
    }
    try {
      body(this.#moments);
    } finally {
      for (const parameter of joined) {
        parameter.main?.dispose();
        parameter.main = null;
      }
    }
  }

  load(fill: (moments: Moments) => void): void {
    fill(this.#moments);
  }

  /**
   * Update number `step` (from 1) with the summed gradients, which are then gone. Returns the gradient's norm before
   * clipping; if that is not finite, they are gone without an update. It is clipped as torch's clip_grad_norm_ does: by clip / (norm + 1e-6), if that is below 1.
   */
  step(step: number, lr: number, scale = 1): number {
    const { clip, ...adam } = this.#options;
    const grads = this.parameters.flatMap(({ grad }) => (grad ? [grad] : []));
    if (grads.length === 0) return 0;
    const norm = this.#engine.globalNorm(grads) / scale;
    const gradScale = (clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1) / scale;
    if (Number.isFinite(norm)) this.#engine.adamW(this.parameters, this.states, { ...adam, step, lr, gradScale });
    for (const parameter of this.parameters) {
      parameter.grad?.dispose();
      parameter.grad = null;
    }
    return norm;
  }
}
