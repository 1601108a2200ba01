/** Memory of a rank: what stays, what a step adds, and the most that there is at once. */
import { isFirst, isLast, stageOf } from '../model/stage.ts';
import { activationBytes, type MicroSize, typicalMicro } from './activations.ts';
import { microBatches, type Setting } from './setting.ts';
import { countWeights, type StateBytes, stageWeights, stateBytes } from './weights.ts';

export interface Memory extends StateBytes {
  /** Kept for the backward pass at the end of the forward pass. */
  activations: number;
  /** The largest thing that is there for a moment: logits, a block's backward pass, the tower. */
  moment: number;
  /** At most at once; less than the sum where gradients come as activations go. */
  peak: number;
}

/** Of the pipeline stage that needs most. */
export const predictMemory = (setting: Setting, micro?: MicroSize): Memory =>
  stageMemories(setting, micro).reduce((most, each) => (each.peak > most.peak ? each : most));

/** Of each pipeline stage. */
export function stageMemories(setting: Setting, micro: MicroSize = typicalMicro(setting)): Memory[] {
  const counts = countWeights(setting);
  return setting.layout.map((_, index) => {
    const stage = stageOf(setting.layout, index);
    const last = isLast(stage);
    const weights = stageWeights(counts, setting, stage);
    const inFlight = Math.min(stage.count - index, microBatches(setting));
    const place = { blocks: weights.blocks, first: isFirst(stage), last, inFlight };
    return peakOf(setting, stateBytes(weights, setting), activationBytes(setting, micro, place), {
      head: last && setting.trains.llm ? 4 * counts.head : 0,
    });
  });
}

function peakOf(
  setting: Setting,
  states: StateBytes,
  { kept, others, lastKept, moment, lastMoment, tower }: ReturnType<typeof activationBytes>,
  { head }: { head: number },
): Memory {
  const { weights, mainWeights, moments, gradients } = states;
  const stay = weights + mainWeights + moments;
  // From the second micro batch on, all gradients are there from the beginning.
  const again = microBatches(setting) > 1;
  const peak =
    stay +
    Math.max(
      (again ? gradients : head) + kept + moment,
      gradients + others + lastKept + lastMoment,
      (again ? gradients : 0) + others + tower,
      gradients,
    );
  return { ...states, activations: kept, moment: Math.max(moment, lastMoment, tower), peak };
}
