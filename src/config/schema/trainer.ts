import { bool, choice, float, int, list, mapping, noEffect, refused, section, str } from './field.ts';

/** PyTorch Lightning's Trainer keys as NeMo uses them, and the choice of engine. */
export const trainer = section('Machine, precision and length of the run', {
  engine: choice(
    ['auto', 'torch', 'tfjs'],
    'auto',
    'Library that computes: LibTorch, or TensorFlow.js where LibTorch is absent',
  ),
  tfjs_backend: choice(
    ['auto', 'node-gpu', 'node', 'cpu'],
    'auto',
    'What TensorFlow.js computes with: tfjs-node-gpu or tfjs-node where installed, or plain JavaScript (cpu)',
  ),
  accelerator: choice(['auto', 'gpu', 'cpu'], 'auto', 'Device to compute on; auto takes a GPU where there is one', {
    synonyms: { cuda: 'gpu' },
  }),
  devices: int(1, 'Processes on this machine, one per GPU (or a share of the CPU); -1 takes every GPU', {
    min: -1,
    synonyms: { auto: -1 },
  }),
  num_nodes: int(1, 'Machines that take part', { min: 1 }),
  collective_timeout: float(600, 'Seconds that a rank waits for the others, to join or within one collective', {
    min: 0,
    exclusiveMin: true,
  }),
  failure_timeout: float(60, 'Seconds after the first failed rank until those that still hang are killed', { min: 0 }),
  max_restarts: int(0, 'Times that all processes start again from the last checkpoint after a failure', { min: 0 }),
  num_threads: int(null, 'CPU threads per process; null takes all cores, shared out over the processes', { min: 1 }),
  precision: choice(
    ['32', 'tf32', 'bf16', '16'],
    'bf16',
    'Number format of the computation; tf32 is float32 with faster products on a GPU',
    {
      synonyms: {
        fp32: '32',
        '32-true': '32',
        float32: '32',
        'bf16-mixed': 'bf16',
        'bf16-true': 'bf16',
        bfloat16: 'bf16',
        '16-mixed': '16',
        '16-true': '16',
        fp16: '16',
        float16: '16',
      },
    },
  ),
  max_steps: int(-1, 'Optimizer steps (global batches) to train; -1 leaves the end to max_epochs', { min: -1 }),
  max_epochs: int(-1, 'Passes over the data; -1 leaves the end to max_steps', { min: -1, nullable: true }),
  max_time: str(null, 'Wall-clock limit as DD:HH:MM:SS: checkpoint and stop when it is reached'),
  log_every_n_steps: int(10, 'Steps between lines on the terminal; metrics.jsonl gets every step', { min: 1 }),
  val_check_interval: float(
    100,
    'Steps between validations (a whole number), or the fraction of an epoch between them (below 1)',
    {
      min: 0,
      exclusiveMin: true,
      nullable: true,
    },
  ),
  check_val_every_n_epoch: int(null, 'Epochs between validations, with val_check_interval=null', { min: 1 }),
  limit_val_batches: float(50, 'Global batches per validation, or a fraction of the set (below 1); 0 turns it off', {
    min: 0,
    nullable: true,
  }),
  limit_train_batches: float(null, 'Global batches per epoch, or a fraction of the set (below 1)', {
    min: 0,
    ...refused('set trainer.max_steps, or leave records out of the data file'),
  }),
  limit_test_batches: float(500, 'Batches of the test loop', {
    nullable: true,
    ...noEffect('there is no test loop; use `neva evaluate`'),
  }),
  gradient_clip_val: float(1.0, 'Largest L2 norm of the whole gradient; 0 or null turns clipping off', {
    min: 0,
    nullable: true,
  }),
  accumulate_grad_batches: int(
    1,
    'Stays 1: accumulation follows from model.global_batch_size',
    refused('set model.global_batch_size; it is divided into micro batches'),
  ),
  deterministic: bool(false, 'Only kernels that give the same bits every time', {
    ...noEffect('on a CPU the same seed gives the same bits anyway; on a GPU nothing is promised (docs/numerics.md)'),
  }),
  enable_progress_bar: bool(true, 'Progress bar on a terminal'),
  num_sanity_val_steps: int(0, 'Validation batches before the first step', {
    ...noEffect('no sanity pass: the data are checked before training instead'),
  }),
  logger: bool(false, "Lightning's own logger", {
    ...noEffect('metrics.jsonl and TensorBoard events are always written'),
  }),
  enable_checkpointing: bool(false, "Lightning's own checkpoint callback", {
    ...noEffect('exp_manager.create_checkpoint_callback decides'),
  }),
  use_distributed_sampler: bool(false, "Lightning's sampler", {
    ...noEffect('the Megatron order of samples is used, see model.data.dataloader_type'),
    nemo: 'trainer.use_distributed_sampler (before 2.0: replace_sampler_ddp)',
  }),
  replace_sampler_ddp: bool(false, 'Older name of use_distributed_sampler', {
    ...noEffect('the Megatron order of samples is used'),
  }),
  benchmark: bool(false, 'cuDNN autotuning', { ...noEffect('no convolution here is worth tuning') }),
  enable_model_summary: bool(false, "Lightning's model summary", {
    ...noEffect('parameter counts are printed at the start of every run'),
  }),
  strategy: str(null, "Lightning's strategy", {
    ...refused(
      'set model.tensor_model_parallel_size, model.pipeline_model_parallel_size, or model.optim.name=distributed_fused_adam',
    ),
  }),
  sync_batchnorm: bool(false, 'Batch norm over ranks', { ...noEffect('no layer here is a batch norm') }),
  fast_dev_run: bool(false, 'A single batch as a trial', refused('set trainer.max_steps=1')),
  overfit_batches: float(0, 'Train on the same few batches', refused('use a data file of those records')),
  callbacks: list(mapping('one callback'), null, 'Lightning callbacks', refused('none can be loaded here')),
  plugins: list(mapping('one plugin'), null, 'Lightning plugins', refused('none can be loaded here')),
});
