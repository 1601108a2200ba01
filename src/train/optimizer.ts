/** AdamW over the trainable parameters, with clipping by the global norm of the gradient. */
import type { WeightState } from '../checkpoint/folder.ts';
import type { Engine, Parameter, Tensor } from '../engine/engine.ts';
import { ALONE, type Group } from '../parallel/group.ts';
import { beginAverage, type EmaOptions, followWeight } from './ema.ts';

export interface OptimizerOptions {
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
  /** Largest L2 norm of the whole gradient; 0 turns clipping off. */
  clip: number;
  /** A moving average of the weights is kept. */
  ema?: EmaOptions | null;
}

/** Moments (and moving averages) by parameter name, in the parameters' shapes. */
export type Moments = ReadonlyMap<string, WeightState>;

/** What THE loop and checkpoints need of an optimizer, however its state is kept. */
export interface StageOptimizer {
  /**
   * Update number `step` (from 1) with the summed gradients, which are `scale` times too large (loss_scale.ts). Returns the
   * gradient's norm before clipping; if that is not finite, nothing is updated.
   */
  step(step: number, lr: number, scale?: number): number;
  /**
   * Runs `body` with the state (and float32 weights in `main` where the values are less): of all the parameters that
   * this rank has, on the first of the ranks that have them; of none on the others.
   */
  withWhole(body: (moments: Moments) => void): void;
  /** Takes over a state that `fill` writes into the tensors that it is given. */
  load(fill: (moments: Moments) => void): void;
  /** Runs `body` with the moving averages in the place of the weights, on all ranks. After a failure in it, the averages stay there. */
  withAverages<T>(body: () => Promise<T>): Promise<T>;
}

/** An optimizer of some of a model's parameters, whose gradients are clipped by a norm that others contribute to. */
export interface OptimizerPart extends Omit<StageOptimizer, 'step'> {
  /** This rank's summand of the squared norm: over all ranks and parts, each gradient is counted once. */
  squares(): number;
  /** Update number `step` (from 1) with the gradients times `gradScale`, which are then gone; without an update if null. */
  update(step: number, lr: number, gradScale: number | null): void;
}

/**
 * What gradients that are `scale` times too large are multiplied by: torch's clip_grad_norm_ has clip / (norm + 1e-6), if
 * that is below 1. Null where the norm is not finite.
 */
export function clipScale(clip: number, norm: number, scale: number): number | null {
  if (!Number.isFinite(norm)) return null;
  return (clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1) / scale;
}

/** Several parts, of parameters that are shared out in different ways. */
export class OptimizerOfParts implements StageOptimizer {
  readonly #parts: readonly OptimizerPart[];
  readonly #clip: number;
  readonly #world: Group;

  constructor(parts: readonly OptimizerPart[], clip: number, world: Group) {
    this.#parts = parts;
    this.#clip = clip;
    this.#world = world;
  }

  step(step: number, lr: number, scale = 1): number {
    const own = this.#parts.reduce((sum, part) => sum + part.squares(), 0);
    const norm = Math.sqrt(this.#world.sum([own], "the gradient's norm")[0]!) / scale;
    for (const part of this.#parts) part.update(step, lr, clipScale(this.#clip, norm, scale));
    return norm;
  }

  withWhole(body: (moments: Moments) => void): void {
    const within = (rest: readonly OptimizerPart[], known: [string, WeightState][]): void => {
      const [part, ...others] = rest;
      if (part) part.withWhole((moments) => within(others, [...known, ...moments]));
      else body(new Map(known));
    };
    within(this.#parts, []);
  }

  load(fill: (moments: Moments) => void): void {
    for (const part of this.#parts) part.load(fill);
  }

  withAverages<T>(body: () => Promise<T>): Promise<T> {
    return this.#parts.reduceRight<() => Promise<T>>((inner, part) => () => part.withAverages(inner), body)();
  }
}

const ALL = () => true;

export class Optimizer implements StageOptimizer, OptimizerPart {
  readonly parameters: readonly Parameter[];
  readonly states: WeightState[];
  readonly #engine: Engine;
  readonly #options: OptimizerOptions;
  readonly #group: Group;
  readonly #counts: (parameter: Parameter) => boolean;

  /**
   * `remainders`: parameters below float32 give up `main` for the 16 bits that their value leaves of it.
   * @param group the ranks that make the same updates
   * @param counts which gradients `squares` holds on the first of them
   */
  constructor(
    engine: Engine,
    parameters: readonly Parameter[],
    options: OptimizerOptions,
    group: Group = ALONE,
    remainders = false,
    counts: (parameter: Parameter) => boolean = ALL,
  ) {
    this.#counts = counts;
    this.#engine = engine;
    this.#group = group;
    this.#options = options;
    this.parameters = parameters;
    this.states = parameters.map(({ value, main }) => ({
      expAvg: engine.keep(engine.zeros(value.shape)),
      expAvgSq: engine.keep(engine.zeros(value.shape)),
      ...(options.ema ? { average: beginAverage(engine, main ?? value) } : {}),
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
    const leads = this.#group.rank === 0;
    const joined = this.parameters.filter(({ remainder }) => leads && remainder);
    for (const parameter of joined) {
      parameter.main = this.#engine.keep(this.#engine.join(parameter.value, parameter.remainder!));
    }
    try {
      body(leads ? this.#moments : new Map());
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

  /** The gradients are clipped by the norm of all of them, which is returned. */
  step(step: number, lr: number, scale = 1): number {
    const grads = gradsOf(this.parameters);
    const norm = grads.length === 0 ? 0 : this.#engine.globalNorm(grads) / scale;
    this.update(step, lr, clipScale(this.#options.clip, norm, scale));
    return norm;
  }

  squares(): number {
    const grads = this.#group.rank === 0 ? gradsOf(this.parameters.filter(this.#counts)) : [];
    return grads.length === 0 ? 0 : this.#engine.globalNorm(grads) ** 2;
  }

  update(step: number, lr: number, gradScale: number | null): void {
    const { clip: _, ema, ...adam } = this.#options;
    if (gradScale !== null) {
      this.#engine.adamW(this.parameters, this.states, { ...adam, step, lr, gradScale });
      if (ema) this.#follow(ema, step);
    }
    for (const parameter of this.parameters) {
      parameter.grad?.dispose();
      parameter.grad = null;
    }
  }

  #follow(ema: EmaOptions, step: number): void {
    const engine = this.#engine;
    for (const [i, { main, value, remainder }] of this.parameters.entries()) {
      engine.scope(() => {
        const weight: Tensor = main ?? (remainder ? engine.join(value, remainder) : value);
        followWeight(engine, this.states[i]!.average!, weight, ema, step);
      });
    }
  }

  async withAverages<T>(body: () => Promise<T>): Promise<T> {
    const engine = this.#engine;
    const own = this.parameters.map(({ value }) => value);
    const averages = this.states.map(({ average }, i) =>
      engine.keep(engine.scope(() => engine.cast(engine.scale(average!, 1), own[i]!.dtype))),
    );
    this.parameters.forEach((parameter, i) => {
      parameter.value = averages[i]!;
    });
    const result = await body();
    this.parameters.forEach((parameter, i) => {
      parameter.value = own[i]!;
      averages[i]!.dispose();
    });
    return result;
  }
}

const gradsOf = (parameters: readonly Parameter[]) => parameters.flatMap(({ grad }) => (grad ? [grad] : []));
