/**
 * Exponential moving average of the weights that train (NeMo's EMA callback): after every `everySteps` updates,
 * average = decay · average + (1 − decay) · weight, in float32 and of the main weights where there are any. An optimizer keeps it beside the
 * moments and in the same layout, so that it is shared out, saved and gone on with as they are.
 */
import type { NevaConfig } from '../config/index.ts';
import type { Engine, Tensor } from '../engine/engine.ts';

export interface EmaOptions {
  decay: number;
  everySteps: number;
}

/** Null where exp_manager.ema asks for none. */
export const emaOptions = ({ exp_manager: { ema } }: NevaConfig): EmaOptions | null =>
  ema.enable ? { decay: ema.decay, everySteps: ema.every_n_steps } : null;

/** An average begins as its weight: a copy in float32. */
export const beginAverage = (engine: Engine, weight: Tensor): Tensor =>
  engine.keep(engine.scope(() => engine.scale(engine.cast(weight, 'float32'), 1)));

/** After update number `step`. */
export function followWeight(
  engine: Engine,
  average: Tensor,
  weight: Tensor,
  { decay, everySteps }: EmaOptions,
  step: number,
): void {
  if (step % everySteps !== 0) return;
  engine.scope(() => engine.assign(average, engine.add(engine.scale(average, decay), engine.scale(weight, 1 - decay))));
}
