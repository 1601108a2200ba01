/** What a plan is made for: the numbers of a configuration that memory and time depend on. */
import type { NevaConfig } from '../config/index.ts';
import type { StepWork } from '../model/flops.ts';
import type { NevaShape } from '../model/shapes.ts';
import { layoutOf } from './layout.ts';
import type { RecordSize } from './record.ts';

export interface Setting {
  shape: NevaShape;
  trains: StepWork['trains'];
  tensor: number;
  /** Blocks of each pipeline stage. */
  layout: readonly number[];
  data: number;
  device: 'cpu' | 'gpu';
  /** Ranks on one machine: those that need no network between them. */
  perNode: number;
  sequenceParallel: boolean;
  precision: '32' | 'tf32' | 'bf16' | '16';
  /** megatron_amp_O2: 16-bit weights with float32 main weights. */
  mainWeights: boolean;
  /** optim.store_param_remainders */
  remainders: boolean;
  /** exp_manager.ema: a moving average of what trains, float32. */
  ema: boolean;
  /** distributed_fused_adam */
  sharded: boolean;
  /** Gradients are summed over the ranks while the backward pass goes on. */
  overlap: boolean;
  /** Of a gradient's element on its way to the other ranks: optim.grad_sync_dtype. */
  gradientBytes: 2 | 4;
  flash: boolean;
  recompute: { granularity: 'full' | 'selective' | null; method: 'uniform' | 'block'; layers: number };
  /** Records. */
  microBatch: number;
  globalBatch: number;
  record: RecordSize;
  /** The tower's features come from the disk. */
  cachedVision: boolean;
  /** Optimizer steps in all; null where only the data say. */
  steps: number | null;
}

/** Bytes of an activation, and of a weight that is computed with as it is. */
export const computeBytes = ({ precision }: Pick<Setting, 'precision'>): number =>
  precision === 'bf16' || precision === '16' ? 2 : 4;

export const worldOf = ({ tensor, layout, data }: Setting): number => tensor * layout.length * data;

/** Micro batches that a rank takes a step. */
export const microBatches = ({ globalBatch, microBatch, data }: Setting): number =>
  Math.ceil(globalBatch / (microBatch * data));

export function settingOf(
  { trainer, exp_manager, model: m }: NevaConfig,
  shape: NevaShape,
  record: RecordSize,
  world: number,
  device: Setting['device'],
): Setting {
  const { optim } = m;
  const sharded = optim.name === 'distributed_fused_adam';
  const [tensor, pipeline] = [m.tensor_model_parallel_size, m.pipeline_model_parallel_size];
  const trains = { vision: !m.mm_cfg.vision_encoder.freeze, projector: true, llm: !m.mm_cfg.llm.freeze };
  return {
    shape,
    trains,
    tensor,
    layout: layoutOf(m, shape, trains),
    data: world / (tensor * pipeline),
    device,
    perNode: Math.max(1, Math.ceil(world / trainer.num_nodes)),
    sequenceParallel: m.sequence_parallel,
    precision: trainer.precision as Setting['precision'],
    mainWeights: m.megatron_amp_O2 && (trainer.precision === 'bf16' || trainer.precision === '16'),
    remainders: optim.store_param_remainders,
    ema: exp_manager.ema.enable,
    sharded,
    overlap: sharded ? optim.overlap_grad_sync : m.async_grad_allreduce,
    gradientBytes: optim.grad_sync_dtype === 'bf16' ? 2 : 4,
    flash: m.use_flash_attention,
    recompute: {
      granularity: m.activations_checkpoint_granularity,
      method: m.activations_checkpoint_method ?? 'uniform',
      layers: m.activations_checkpoint_num_layers ?? 1,
    },
    ...batches(m, record),
    record,
    cachedVision: m.data.vision_cache !== null,
    steps: trainer.max_steps > 0 ? trainer.max_steps : null,
  };
}

/** Packed, a micro batch is one row of as many records as fit; of packs that were made ahead, a global batch counts packs. */
function batches(
  { micro_batch_size, global_batch_size, encoder_seq_length, data }: NevaConfig['model'],
  record: RecordSize,
) {
  if (!data.packed_sequence) return { microBatch: micro_batch_size, globalBatch: global_batch_size };
  const inRow = Math.max(1, Math.floor(encoder_seq_length / Math.max(1, record.length)));
  return { microBatch: inRow, globalBatch: data.data_prefix === null ? global_batch_size : global_batch_size * inRow };
}
