import { bool, choice, float, int, list, noEffect, section } from './field.ts';

/** model.optim */
export const optim = section('Optimizer and learning-rate schedule', {
  name: choice(
    ['fused_adam', 'distributed_fused_adam', 'adamw', 'adam', 'sgd'],
    'fused_adam',
    'AdamW in one kernel; the same with its state sharded over data-parallel ranks; adamw is another name of the first; adam decays through the gradient; sgd',
  ),
  lr: float(2e-3, 'Peak learning rate', { min: 0 }),
  weight_decay: float(0.0, 'Decay per step, decoupled; norms and biases are left out', { min: 0 }),
  betas: list(float(0.9, 'beta', { min: 0, max: 1 }), [0.9, 0.95], "Adam's averaging factors", { length: 2 }),
  eps: float(1e-8, "Adam's epsilon", { min: 0, exclusiveMin: true }),
  momentum: float(0.0, "SGD's momentum", { min: 0, max: 1 }),
  sched: section('Schedule', {
    name: choice(
      ['CosineAnnealing', 'WarmupAnnealing', 'constant'],
      'CosineAnnealing',
      'Shape after the warm-up: half a cosine, a straight line down to min_lr, or flat',
    ),
    warmup_steps: int(140, 'Steps of linear rise', { min: 0 }),
    warmup_ratio: float(null, 'The same as a share of trainer.max_steps; wins over warmup_steps', { min: 0, max: 1 }),
    constant_steps: int(0, 'Flat steps at min_lr at the end', { min: 0 }),
    min_lr: float(2e-5, 'Learning rate at the end', { min: 0 }),
    max_steps: int(null, 'Length of the schedule; null takes trainer.max_steps', { min: 1 }),
  }),
  bucket_cap_mb: int(100, 'Size of a gradient bucket, in MB', { min: 1 }),
  overlap_grad_sync: bool(true, 'Reduce gradients while the backward pass goes on'),
  overlap_param_sync: bool(false, 'Gather parameters while the forward pass goes on', {
    ...noEffect('parameters are gathered after the step'),
  }),
  contiguous_grad_buffer: bool(true, 'Gradients in one buffer', { ...noEffect('buckets are contiguous') }),
  contiguous_param_buffer: bool(false, 'Parameters in one buffer', { ...noEffect('buckets are contiguous') }),
  store_param_remainders: bool(
    false,
    'With megatron_amp_O2 and bf16: keep of each float32 main weight the 16 bits that its bfloat16 weight leaves; same values, 2 bytes fewer',
  ),
  grad_sync_dtype: choice(
    ['fp32', 'bf16'],
    'fp32',
    'Number format in which gradients are summed over ranks; bf16 halves the messages, within a rank they stay float32',
    {
      synonyms: { '32': 'fp32', float32: 'fp32', bfloat16: 'bf16', 'bf16-mixed': 'bf16' },
    },
  ),
});
