/** The optimizer that a configuration asks for, and how gradients come together for it. */
import type { NevaConfig } from '../config/index.ts';
import type { Engine, Parameter } from '../engine/engine.ts';
import { type GradientReduction, gradientReduction } from '../parallel/data.ts';
import type { Group } from '../parallel/group.ts';
import { Optimizer, type StageOptimizer } from './optimizer.ts';
import { ShardedOptimizer } from './sharded_optimizer.ts';

const MB = 1e6;

/** `parameters` in the order of the model, with their final values: a sharded optimizer takes over the float32 weights. */
export function openOptimizer(
  engine: Engine,
  group: Group,
  parameters: readonly Parameter[],
  { model: m, trainer }: NevaConfig,
): { optimizer: StageOptimizer; reduction: GradientReduction } {
  const { optim } = m;
  const options = {
    betas: [optim.betas[0]!, optim.betas[1]!] as const,
    eps: optim.eps,
    weightDecay: optim.weight_decay,
    clip: trainer.gradient_clip_val ?? 0,
  };
  // On one rank there is nothing to share out: the two are the same.
  if (optim.name === 'distributed_fused_adam' && group.size > 1) {
    const buckets = { bytes: optim.bucket_cap_mb * MB, overlap: optim.overlap_grad_sync };
    const optimizer = new ShardedOptimizer(engine, group, parameters, options, buckets);
    return { optimizer, reduction: optimizer };
  }
  const buckets = { bytes: m.grad_allreduce_chunk_size_mb * MB, overlap: m.async_grad_allreduce };
  return {
    optimizer: new Optimizer(engine, parameters, options, group, optim.store_param_remainders),
    reduction: gradientReduction(engine, group, parameters, buckets),
  };
}
