/** Seconds of one optimizer step: products, memory traffic, messages, the pipeline's bubble. Formulas: docs/scaling.md. */
import { type StepWork, stepFlops, stepParts } from '../model/flops.ts';
import { stageOf } from '../model/stage.ts';
import { type MicroSize, typicalMicro } from './activations.ts';
import type { Hardware } from './hardware.ts';
import { computeBytes, microBatches, type Setting } from './setting.ts';
import { countWeights, stageWeights } from './weights.ts';

/** Share of a link's or a memory's rate that long transfers reach. */
const TRANSFER = 0.8;

export interface StepTime {
  /** Matrix products. */
  compute: number;
  /** Messages within tensor-parallel groups, which nothing hides. */
  tensor: number;
  /** Messages between pipeline stages, and the time in which stages wait. */
  pipeline: number;
  /** What the backward pass does not hide of the gradients' messages, and the weights' after the update. */
  data: number;
  /** Gradients added up in float32, and the update. */
  update: number;
  total: number;
  /** FLOPs of the step that cannot be avoided, of all ranks: what mfu counts. */
  flops: number;
}

export function predictTime(setting: Setting, hardware: Hardware, micro: MicroSize = typicalMicro(setting)): StepTime {
  const { shape, trains, tensor: N, layout, data, precision } = setting;
  const stages = layout.length;
  const steps = microBatches(setting);
  const w = computeBytes(setting);
  const needed: StepWork = {
    lengths: Array.from({ length: micro.batch }, () => micro.length),
    images: micro.images,
    cached: setting.cachedVision,
    labelTokens: micro.labels,
    trains,
  };
  const all = stepFlops(shape, needed);
  const llm = stepFlops(shape, { ...needed, images: 0 });
  const forward = stepFlops(shape, { ...needed, images: 0, trains: { llm: false, projector: false, vision: false } });
  const again = forward * repeated(setting);
  // Pictures are dealt out over a tensor-parallel group, and belong to the first stage, as the head does to the last.
  const { front, block, end } = stepParts(shape, needed);
  const each = block + again / shape.llm.numLayers;
  const own = layout.map((n, i) => (n * each + (i === 0 ? front : 0) + (i === stages - 1 ? end : 0)) / N);
  const rows = micro.batch * micro.length;
  const rate = hardware.peak[precision] * hardware.share * (rows / (rows + hardware.halfRows));
  // The others wait for the stage that takes longest.
  const compute = Math.max(...own) / rate;

  const message = rows * shape.llm.hiddenSize * w;
  const rounds = 4 + 2 * repeated(setting);
  const wire = N <= setting.perNode ? hardware.link : hardware.network;
  const tensor = (rounds * Math.max(...layout) * ((2 * (N - 1)) / N) * message) / (TRANSFER * wire);

  const between = N * data < setting.perNode ? hardware.link : hardware.network;
  const handed = stages > 1 ? (2 * message) / (TRANSFER * between) : 0;
  const turn = compute + tensor + handed;
  const waiting = (stages - 1) * turn + steps * handed;

  const counts = countWeights(setting);
  const trained = Math.max(...layout.map((_, s) => stageWeights(counts, setting, stageOf(layout, s)).trained));
  const sharded = setting.sharded && data > 1;
  const ring = (data - 1) / data / dataRate(setting, hardware);
  const gradients = setting.gradientBytes * (sharded ? 1 : 2) * trained * ring;
  const backward = (compute + tensor) * (1 - forward / Math.max(llm + again, forward));
  const exposed = Math.max(0, gradients - (setting.overlap ? backward : 0)) + (sharded ? w * trained * ring : 0);

  const memory = TRANSFER * hardware.memoryBandwidth;
  const update = (steps * trained * (w + 8)) / memory + ((trained / (sharded ? data : 1)) * (28 + w)) / memory;
  return {
    compute: steps * compute,
    tensor: steps * tensor,
    pipeline: waiting,
    data: exposed,
    update,
    total: steps * (compute + tensor) + waiting + exposed + update,
    flops: all * steps * data,
  };
}

/** Share of the blocks that run twice forward. */
function repeated({ recompute: { granularity, method, layers }, shape }: Setting): number {
  if (granularity !== 'full') return 0;
  return method === 'uniform' ? 1 : Math.min(1, layers / shape.llm.numLayers);
}

/** Bytes/s of a data-parallel ring: across machines, all the cards of the group's ranks on one machine work together. */
function dataRate({ tensor, layout, data, perNode }: Setting, { link, network }: Hardware): number {
  if (tensor * layout.length * data <= perNode) return TRANSFER * link;
  return TRANSFER * network * Math.max(1, Math.floor(perNode / tensor));
}
