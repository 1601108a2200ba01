/**
 * Dynamic loss scaling for float16 (Micikevicius et al. 2018; NeMo's GradScaler with hysteresis): the loss is multiplied by a
 * power of two before the backward pass so that small gradients do not vanish, and a step whose gradients overflow is skipped.
 */

export interface LossScaleOptions {
  /** NeMo's native_amp_init_scale. */
  initScale: number;
  /** Good steps in a row until the scale doubles (native_amp_growth_interval). */
  growthInterval: number;
  /** Overflows in a row until the scale halves; each further one halves it again. */
  hysteresis: number;
}

/** What a checkpoint keeps. */
export interface LossScaleState {
  scale: number;
  /** Good steps since the last overflow or growth. */
  good: number;
  /** Overflows left until the scale halves. */
  tolerance: number;
  /** Steps skipped so far. */
  skipped: number;
}

export class LossScaler {
  readonly #options: LossScaleOptions;
  #state: LossScaleState;

  constructor(options: LossScaleOptions, state: LossScaleState | null = null) {
    this.#options = options;
    this.#state = state ?? { scale: options.initScale, good: 0, tolerance: options.hysteresis, skipped: 0 };
  }

  get scale(): number {
    return this.#state.scale;
  }

  get skipped(): number {
    return this.#state.skipped;
  }

  get state(): LossScaleState {
    return { ...this.#state };
  }

  /** After a step: whether its gradients were all finite, and so were used. */
  update(finite: boolean): void {
    const { growthInterval, hysteresis } = this.#options;
    const { scale, good, tolerance, skipped } = this.#state;
    if (!finite) {
      const left = tolerance - 1;
      this.#state = { scale: left <= 0 ? scale / 2 : scale, good: 0, tolerance: left, skipped: skipped + 1 };
      return;
    }
    const grows = good + 1 === growthInterval;
    this.#state = { scale: grows ? scale * 2 : scale, good: grows ? 0 : good + 1, tolerance: hysteresis, skipped };
  }
}
