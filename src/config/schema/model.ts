import { data, tokenizer } from './data.ts';
import { choice, int, list, noEffect, path, refused, section, str } from './field.ts';
import { architecture, execution } from './llm.ts';
import { mmCfg } from './multimodal.ts';
import { optim } from './optim.ts';

export const model = section('The model, its parallel layout, batches', {
  restore_from_path: path(
    null,
    'A whole NeVA or LLaVA to start from: checkpoint or run folder, Hugging Face folder, or .nemo',
  ),
  resume_from_checkpoint: path(null, 'Checkpoint folder to go on from, optimizer included'),
  micro_batch_size: int(4, 'Records per forward pass and data-parallel rank', { min: 1 }),
  global_batch_size: int(32, 'Records per optimizer step, over all ranks', { min: 1 }),
  rampup_batch_size: list(int(1, 'samples', { min: 0 }), null, 'Start size, increment, samples: a growing batch', {
    length: 3,
    ...refused('set model.global_batch_size'),
  }),
  tensor_model_parallel_size: int(1, 'Ranks that share each layer', { min: 1 }),
  pipeline_model_parallel_size: int(1, 'Pipeline stages', { min: 1 }),
  pipeline_model_parallel_layout: list(
    int(1, 'blocks', { min: 1 }),
    null,
    'Blocks of the language model on each stage, as [9, 12, 11]; null balances the stages, with vision tower and head, by their work',
  ),
  virtual_pipeline_model_parallel_size: int(null, 'Interleaved stages per rank', {
    min: 1,
    ...refused('set model.pipeline_model_parallel_size; stages are not interleaved'),
  }),
  context_parallel_size: int(1, 'Ranks that share a sequence', {
    min: 1,
    ...refused('set model.sequence_parallel=true or activation checkpointing'),
  }),
  expert_model_parallel_size: int(1, 'Ranks that share experts', { min: 1, ...refused('no mixture of experts here') }),
  loss_reduction: choice(
    ['tokens', 'micro_batches'],
    'tokens',
    'Mean over all labelled tokens of the global batch, or NeMo’s mean of per-micro-batch means',
  ),
  seed: int(1234, 'Seed of random weights and of the order of samples', { min: 0 }),
  mm_cfg: mmCfg,
  ...architecture,
  ...execution,
  tokenizer,
  data,
  optim,
  peft: section('Adapters', {
    peft_scheme: str(null, 'Kind of adapter', { ...refused('no adapters here: train the whole LLM, or freeze it') }),
    restore_from_path: path(null, 'Adapters to load', { ...refused('merge the adapters into the model first') }),
  }),
  target: str(null, 'Python class of the model', { ...noEffect('there is one model') }),
  nemo_version: str(null, 'NeMo that wrote the file', { ...noEffect('informative') }),
});
