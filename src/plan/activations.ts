/**
 * What the walk (src/train/walk.ts) holds of a micro batch: what autograd keeps for the backward pass, and what is there
 * for a moment. Formulas and their derivation: docs/scaling.md. Shape letters: src/engine/engine.ts; sizes in bytes.
 */
import { isGated } from '../model/mlp.ts';
import { projectorDepth } from '../model/projector.ts';
import { blockOf, featuresPerImage, logitRows, type VisionShape } from '../model/shapes.ts';
import { blocksUsed } from '../model/vision.ts';
import { computeBytes, type Setting } from './setting.ts';

/** One micro batch. */
export interface MicroSize {
  batch: number;
  /** T, padding included. */
  length: number;
  images: number;
  /** M */
  labels: number;
}

export function typicalMicro({ microBatch, record }: Setting): MicroSize {
  return {
    batch: microBatch,
    length: record.length,
    images: microBatch * record.images,
    labels: microBatch * record.labels,
  };
}

/** Kept and momentary bytes of one transformer block. */
interface BlockBytes {
  /** Its input alone, which recomputation keeps. */
  input: number;
  /** All that autograd keeps, the input included. */
  kept: number;
  /** Beyond what is kept, while it runs forward or backward. */
  moment: number;
}

/** `rows`: positions at which output projection and MLP are computed, all but in the last block. */
function llmBlock(setting: Setting, { batch, length }: MicroSize, rows: number): BlockBytes {
  const { shape, tensor: N, trains, precision, mainWeights, flash, recompute } = setting;
  const { hiddenSize: C, ffnHiddenSize: F, numAttentionHeads: H, headDim: D, numQueryGroups: G } = shape.llm;
  const w = computeBytes(setting);
  const positions = batch * length;
  const own = setting.sequenceParallel ? 1 / N : 1;
  const { activation } = blockOf(shape.llm);
  // Statistics of a norm: one float32 number a position, or two.
  const stats = blockOf(shape.llm).normalization === 'rmsnorm' ? 4 : 8;
  const learned = trains.llm ? 1 : 0;
  const heads = (H * D) / N;
  // LibTorch's attention takes grouped keys and values repeated for the query heads, neva's own on CPUs as they are.
  const grouped = setting.flash && setting.device === 'cpu' && D % 2 === 0;
  const groups = grouped ? (G * D) / N : heads;
  const attention = positions * (w * 2 * (heads + groups) + (4 * H) / N);
  const oneScore = batch * (H / N) * length * length * w;
  const scores = flash || recompute.granularity === 'selective' ? 0 : oneScore;
  // Kept of the MLP's inside, in widths F; GELU's and ReLU's gate is kept before and after.
  const inside = isGated(activation) ? (activation === 'swiglu' ? 2 : 3) : 1;
  const kept =
    positions * (C * w * own + stats * own + learned * C * w) +
    attention +
    scores +
    rows * (C * w * own + stats * own + learned * C * w + ((inside + learned) * F * w) / N);
  // Without O2, 16-bit copies of float32 weights hang on the tape.
  const casts =
    precision !== '32' && precision !== 'tf32' && !mainWeights && trains.llm ? w * blockWeights(setting) : 0;
  // Forward, all that a block makes is there until it ends: heads before they are turned or repeated, what is added to the
  // residuals, and what only weights that train would keep. Backward, the gradients within the MLP are the widest.
  const heads0 = ((grouped || G === H ? H + G : H + 3 * G) * D) / N;
  const unkept = inside === 1 && activation === 'squared-relu' ? F / N : 0;
  const forward =
    positions * w * (heads0 + C + (1 - learned) * C) + rows * w * (C + unkept + (1 - learned) * (C + F / N));
  const backward = Math.max(
    (rows * w * 2 * F) / N + (learned * w * C * F) / N,
    // Scores and their gradients, when the MLP's part is gone.
    flash
      ? 0
      : (recompute.granularity === 'selective' ? 3 : 2) * oneScore - rows * w * (((inside + learned) * F) / N + C),
  );
  return { input: positions * C * w * own, kept: kept + casts, moment: Math.max(forward, backward) };
}

/** Matrices of one block on one rank, in elements. */
function blockWeights({ shape: { llm }, tensor }: Setting): number {
  const { hiddenSize: C, ffnHiddenSize: F, numAttentionHeads: H, numQueryGroups: G, headDim: D } = llm;
  return (C * D * (2 * H + 2 * G) + (isGated(blockOf(llm).activation) ? 3 : 2) * C * F) / tensor;
}

export interface ActivationBytes {
  /** Kept for the backward pass, at its largest: when the forward pass has ended. */
  kept: number;
  /** Of the other micro batches that are held when one begins and ends, and of messages that are coming. */
  others: number;
  /** Kept by the last block that is walked backward. */
  lastKept: number;
  /** On top of `kept`, at most. */
  moment: number;
  /** On top of `lastKept`. */
  lastMoment: number;
  /** While pictures go through a frozen tower, before anything of their micro batch is kept. */
  tower: number;
}

/** How recomputation divides blocks: those run again together, those that keep all, inputs kept of the rest. */
function divided({ recompute }: Setting, blocks: number): { run: number; keeping: number; inputs: number } {
  const { granularity, method, layers } = recompute;
  const run = granularity === 'full' ? Math.min(layers, blocks) : 0;
  if (run === 0) return { run, keeping: blocks, inputs: 0 };
  return method === 'uniform'
    ? { run, keeping: 0, inputs: Math.ceil(blocks / run) }
    : { run, keeping: blocks - run, inputs: run };
}

/**
 * @param blocks of this pipeline stage
 * @param inFlight micro batches whose activations it holds at once (1F1B: the stages from here on)
 */
export function activationBytes(
  setting: Setting,
  micro: MicroSize,
  { blocks, first, last, inFlight }: { blocks: number; first: boolean; last: boolean; inFlight: number },
): ActivationBytes {
  const { method } = setting.recompute;
  const whole = llmBlock(setting, micro, micro.batch * micro.length);
  const final = last ? llmBlock(setting, micro, micro.labels) : whole;
  const front = first ? pictureBytes(setting, micro) : { kept: 0, tower: 0 };
  const { run, keeping, inputs } = divided(setting, blocks);
  const tapes = keeping > 0 ? (keeping - 1) * whole.kept + final.kept : 0;
  const kept = inputs * whole.input + tapes;
  // A run of blocks is made again as a whole, one more input being kept already.
  const again = run === 0 ? 0 : (method === 'uniform' ? run : 1) * whole.kept - whole.input;
  const lower = whole.moment + again - (run > 0 ? tapes : final.kept);
  const upper = keeping > 0 || run === 0 ? final.moment : 0;
  // What a stage hands on is held until its gradient has come.
  const each = kept + front.kept + (last ? 0 : whole.input);
  // What is being received for the next turns, from either side.
  const coming = (first ? 0 : whole.input) + (last ? 0 : whole.input);
  return {
    kept: inFlight * each + coming,
    others: (inFlight - 1) * each + coming,
    lastKept: (run > 0 ? whole.input : whole.kept) + front.kept,
    moment: Math.max(last ? headMoment(setting, micro) : 0, upper, lower),
    lastMoment: whole.moment + again,
    tower: front.tower,
  };
}

/** Logits of one chunk, in compute precision and float32, their logarithms, and the gradients of both. */
function headMoment(setting: Setting, { labels }: MicroSize): number {
  const { shape, tensor, trains } = setting;
  const { vocabSize: V, hiddenSize: C } = shape.llm;
  const w = computeBytes(setting);
  const rows = Math.min(labels, logitRows(V));
  const share = V / tensor;
  const logits = rows * share * (w < 4 ? 2 * w + 12 : 12);
  // Each chunk's gradient of the head, before it is added to the sum.
  const gradient = trains.llm ? share * C * (labels > rows ? (w < 4 ? w + 4 : 4) : w < 4 ? w : 0) : 0;
  return logits + gradient + 4 * labels * C * w;
}

/** Projector and vision tower; pictures are dealt out over a tensor-parallel group. */
function pictureBytes(setting: Setting, { images, batch, length }: MicroSize): { kept: number; tower: number } {
  const { shape, tensor, trains, cachedVision } = setting;
  const w = computeBytes(setting);
  const own = images === 0 ? 0 : Math.max(1, Math.ceil(images / tensor));
  const { type, inputSize, outputSize } = shape.projector;
  const features = own * featuresPerImage(shape.vision);
  const depth = projectorDepth(type);
  const projector = features * w * (inputSize + outputSize * Math.max(0, 2 * depth - 1));
  const embedded = batch * length * shape.llm.hiddenSize * w;
  if (cachedVision) return { kept: projector, tower: 0 };
  const tower = towerBytes(shape.vision, own, w);
  return trains.vision
    ? { kept: projector + towerKept(setting, tower), tower: 0 }
    : { kept: projector, tower: Math.max(tower.moment, embedded) };
}

interface TowerBytes {
  /** A block's activations, and its input alone. */
  block: number;
  input: number;
  blocks: number;
  pixels: number;
  /** One block's, where nothing is recorded. */
  moment: number;
}

function towerBytes(v: VisionShape, pictures: number, w: number): TowerBytes {
  const { hiddenSize: C, ffnHiddenSize: F, imageSize, patchSize } = v;
  const positions = pictures * (Math.floor(imageSize / patchSize) ** 2 + 1);
  const pixels = pictures * 3 * imageSize * imageSize * w;
  const block = positions * w * (8 * C + 3 * F);
  return {
    ...{ block, input: positions * w * C, blocks: blocksUsed(v), pixels },
    moment: positions * w * (9 * C + 4 * F) + pixels,
  };
}

/** What a tower that trains keeps for its backward pass, blocks that run again included as for the LLM. */
function towerKept(setting: Setting, { block, input, blocks, pixels }: TowerBytes): number {
  const { keeping, inputs } = divided(setting, blocks);
  return keeping * block + inputs * input + pixels;
}
