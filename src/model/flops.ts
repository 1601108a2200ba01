/**
 * Floating-point operations of one training step that cannot be avoided: 2 per weight and position for every matrix
 * product, attention over the positions that a causal mask leaves, recomputation not counted.
 */
import { isGated } from './mlp.ts';
import { blockOf, type NevaShape, type VisionShape } from './shapes.ts';
import type { StageCosts } from './stage.ts';
import { blocksUsed } from './vision.ts';

export interface StepWork {
  /** Real lengths of the records, image positions included. */
  lengths: ArrayLike<number>;
  images: number;
  /** Features came from the disk: the tower did not run. */
  cached?: boolean;
  /** Labelled positions: where last block's MLP, head and loss are needed. */
  labelTokens: number;
  trains: { llm: boolean; projector: boolean; vision: boolean };
}

export function stepFlops(shape: NevaShape, work: StepWork): number {
  const { front, block, end } = stepParts(shape, work);
  return front + shape.llm.numLayers * block + end;
}

/** The same by where they are done. `forward`: share of a block's that is its forward pass. */
export function stepParts(
  shape: NevaShape,
  { lengths, images, cached = false, labelTokens, trains }: StepWork,
): StageCosts & { forward: number } {
  const tokens = sum(lengths, (length) => length);
  const projector = images * patches(shape.vision) * projectorForward(shape);
  const vision = cached ? 0 : images * visionForward(shape.vision);
  // Backward: once for the gradient of the input, once more for the weights where they train.
  const passes = trains.llm ? 3 : trains.projector || trains.vision ? 2 : 1;
  const { hiddenSize: C, ffnHiddenSize: F, numAttentionHeads: H, numQueryGroups: G, headDim: D } = shape.llm;
  const inputs = 2 * C * D * (H + 2 * G);
  const outputs = 2 * (H * D * C + (isGated(blockOf(shape.llm).activation) ? 3 : 2) * C * F);
  const attention = sum(lengths, (T) => 2 * 2 * H * D * ((T * (T + 1)) / 2));
  return {
    front: projector * (trains.projector ? (trains.vision ? 3 : 2) : 1) + vision * (trains.vision ? 3 : 1),
    block: passes * ((inputs + outputs) * tokens + attention),
    // The last block's outputs are made at labelled positions alone.
    end: passes * (2 * C * shape.llm.vocabSize * labelTokens - outputs * (tokens - labelTokens)),
    forward: 1 / passes,
  };
}

const sum = (values: ArrayLike<number>, term: (value: number) => number) =>
  Array.from(values).reduce((total, value) => total + term(value), 0);

const patches = ({ imageSize, patchSize }: VisionShape) => Math.floor(imageSize / patchSize) ** 2;

function projectorForward({ projector: { type, inputSize, outputSize } }: NevaShape): number {
  const depth = type === 'identity' ? 0 : type === 'linear' ? 1 : Number(/\d+/.exec(type)?.[0] ?? 1);
  return depth === 0 ? 0 : 2 * inputSize * outputSize + (depth - 1) * 2 * outputSize ** 2;
}

/** One picture through the blocks that are used. */
function visionForward(s: VisionShape): number {
  const { hiddenSize: C, ffnHiddenSize: F } = s;
  const T = patches(s) + 1;
  const block = 2 * T * (4 * C * C + 2 * C * F) + 2 * 2 * T * T * C;
  return 2 * patches(s) * 3 * s.patchSize ** 2 * C + blocksUsed(s) * block;
}
