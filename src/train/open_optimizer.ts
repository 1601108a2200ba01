/** The optimizer that a configuration asks for, and how gradients come together for it. */
import type { NevaConfig } from '../config/index.ts';
import type { Engine, Parameter } from '../engine/engine.ts';
import { type BucketOptions, type GradientReduction, gradientReduction, together } from '../parallel/data.ts';
import type { Group } from '../parallel/group.ts';
import type { Ranks } from '../parallel/ranks.ts';
import { emaOptions } from './ema.ts';
import { Optimizer, OptimizerOfParts, type OptimizerOptions, type StageOptimizer } from './optimizer.ts';
import { ShardedOptimizer } from './sharded_optimizer.ts';

const MB = 1e6;

interface Choice extends OptimizerOptions {
  /** Moments and main weights are shared out over the ranks that make the same updates. */
  sharded: boolean;
  /** See Optimizer. */
  remainders?: boolean;
  buckets: BucketOptions;
}

/** `parameters` in the order of the model, with their final values: a sharded optimizer takes over the float32 weights. */
export function openOptimizer(
  engine: Engine,
  ranks: Ranks,
  parameters: readonly Parameter[],
  config: NevaConfig,
): { optimizer: StageOptimizer; reduction: GradientReduction } {
  const { model: m, trainer } = config;
  const { optim } = m;
  const sharded = optim.name === 'distributed_fused_adam';
  return optimizerOver(engine, ranks, parameters, {
    betas: [optim.betas[0]!, optim.betas[1]!],
    eps: optim.eps,
    weightDecay: optim.weight_decay,
    clip: trainer.gradient_clip_val ?? 0,
    ema: emaOptions(config),
    sharded,
    remainders: optim.store_param_remainders,
    buckets: {
      dtype: optim.grad_sync_dtype === 'bf16' ? 'bfloat16' : 'float32',
      ...(sharded
        ? { bytes: optim.bucket_cap_mb * MB, overlap: optim.overlap_grad_sync }
        : { bytes: m.grad_allreduce_chunk_size_mb * MB, overlap: m.async_grad_allreduce }),
    },
  });
}

/** Who has the same weights and summands of the same gradient: the ranks of a parameter's updates. */
export const updatersOf = ({ data, stage, ends }: Ranks, { summand, twin }: Parameter): Group =>
  twin && ends ? ends : summand ? stage : data;

/**
 * Gradients of which the ranks of a tensor-parallel group have summands are summed over them as well, those of an embedding that is
 * head too over first and last stage; all others over the data-parallel ranks alone.
 */
export function optimizerOver(
  engine: Engine,
  ranks: Ranks,
  parameters: readonly Parameter[],
  { sharded, buckets, remainders = false, ...options }: Choice,
): { optimizer: StageOptimizer; reduction: GradientReduction } {
  const open = (group: Group, own: readonly Parameter[]) => {
    // A weight that a tensor-parallel group has whole must count once; in larger groups, the first rank counts alone.
    const counts = ({ shard }: Parameter) => group !== ranks.data || shard != null || ranks.leadsTensor;
    // On one rank there is nothing to share out: the two are the same.
    if (sharded && group.size > 1) {
      const optimizer = new ShardedOptimizer(engine, group, own, options, buckets, counts, remainders);
      return { optimizer, reduction: optimizer as GradientReduction };
    }
    return {
      optimizer: new Optimizer(engine, own, options, group, remainders, counts),
      reduction: gradientReduction(engine, group, own, buckets),
    };
  };
  if (ranks.mesh.tensor === 1 && ranks.mesh.pipeline === 1) return open(ranks.world, parameters);
  // In the same order on every stage: ranks wait for one another group by group.
  const groups = new Set([ranks.data, ranks.stage, ...(ranks.ends ? [ranks.ends] : [])]);
  const parts = [...groups].flatMap((group) => {
    const own = parameters.filter((parameter) => updatersOf(ranks, parameter) === group);
    return own.length > 0 ? [open(group, own)] : [];
  });
  return {
    optimizer: new OptimizerOfParts(
      parts.map(({ optimizer }) => optimizer),
      options.clip,
      ranks.world,
    ),
    reduction: together(parts.map(({ reduction }) => reduction)),
  };
}
