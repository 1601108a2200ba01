import { bool, choice, float, int, mapping, noEffect, refused, str } from './field.ts';

const oneKernel = noEffect('the engine chooses the fused kernel by itself; results are the same');
const fp8 = refused('no FP8; set trainer.precision=bf16');
const fp8Detail = noEffect('no FP8 here');

/** The LLM's architecture. null = taken from the checkpoint's own config; needed when training starts at random. */
export const architecture = {
  encoder_seq_length: int(4096, 'Positions of a record at most, pictures included; longer records are cut', { min: 1 }),
  max_position_embeddings: int(null, 'Positions that the model knows; null = from the checkpoint', { min: 1 }),
  num_layers: int(null, 'Transformer blocks; null = from the checkpoint', { min: 1 }),
  hidden_size: int(null, 'Width; null = from the checkpoint', { min: 1 }),
  ffn_hidden_size: int(null, "Width of the blocks' MLP; null = from the checkpoint", { min: 1 }),
  num_attention_heads: int(null, 'Attention heads; null = from the checkpoint', { min: 1 }),
  num_query_groups: int(null, 'Key/value heads; null = from the checkpoint, or as many as heads', { min: 1 }),
  kv_channels: int(null, 'Width of a head; null = hidden_size / num_attention_heads', { min: 1 }),
  vocab_size: int(null, "Tokens; null = from the checkpoint, or the tokenizer's", { min: 1 }),
  make_vocab_size_divisible_by: int(
    128,
    'Pad the embedding to a multiple of this, unless ranks share it out; the padding takes no part',
    { min: 1 },
  ),
  position_embedding_type: choice(
    ['rope', 'learned_absolute'],
    null,
    'Positions: rotary, or an embedding for each; null = from the checkpoint, or rope',
  ),
  rotary_percentage: float(null, 'Share of a head that is turned; null = from the checkpoint (LLaMA 1, NVGPT 0.5)', {
    min: 0,
    max: 1,
    exclusiveMin: true,
  }),
  rotary_base: float(null, 'Base of the rotary frequencies; null = from the checkpoint', { min: 1 }),
  seq_len_interpolation_factor: float(
    null,
    'Divides rotary positions, to stretch the context (Hugging Face: rope_scaling linear); null = as the checkpoint has it',
    { min: 1 },
  ),
  normalization: choice(
    ['rmsnorm', 'layernorm', 'layernorm1p'],
    null,
    'Norm; null = from the checkpoint (LLaMA rmsnorm, NVGPT layernorm1p)',
  ),
  layernorm_epsilon: float(null, "The norms' epsilon; null = from the checkpoint", { min: 0, exclusiveMin: true }),
  activation: choice(
    ['fast-swiglu', 'swiglu', 'fast-geglu', 'geglu', 'fast-reglu', 'reglu', 'squared-relu', 'gelu'],
    null,
    'MLP; null = from the checkpoint (LLaMA fast-swiglu, NVGPT squared-relu); fast- computes the same',
  ),
  bias: bool(null, "Biases in the LLM's linear layers; null = from the checkpoint (LLaMA and NVGPT have none)"),
  share_embeddings_and_output_weights: bool(null, 'One matrix for embedding and head; null = from the checkpoint'),
  init_method_std: float(0.014, 'Standard deviation of random weights', { min: 0 }),
  use_scaled_init_method: bool(true, 'Divide it by √(2·num_layers) in layers that write to the residual stream'),
  hidden_dropout: float(0, 'Dropout', { ...refused('no dropout in this family; leave it at 0') }),
  attention_dropout: float(0, 'Dropout', { ...refused('no dropout in this family; leave it at 0') }),
  ffn_dropout: float(0, 'Dropout', { ...refused('no dropout in this family; leave it at 0') }),
  transformer_block_type: choice(['pre_ln', 'post_ln', 'normformer'], 'pre_ln', 'Order within a block', {
    ...refused('only pre_ln'),
  }),
  attention_type: choice(['multihead', 'multiquery'], 'multihead', 'Attention', {
    ...refused('set model.num_query_groups for grouped queries'),
  }),
  headscale: bool(false, 'Scale heads', { ...refused('neither LLaMA nor NVGPT has it') }),
  normalize_attention_scores: bool(true, 'Scale scores by 1/√D', { ...refused('scores are always scaled') }),
  do_layer_norm_weight_decay: bool(false, 'Weight decay on norms too', {
    ...refused('leave it out: norms and biases never decay here'),
  }),
  use_emha: bool(false, 'Efficient multi-head attention', { ...refused('it does not exist in NeMo either') }),
  pre_process: bool(true, 'Embedding in the first stage', { ...refused('it follows from the pipeline stage') }),
  post_process: bool(true, 'Head in the last stage', { ...refused('it follows from the pipeline stage') }),
} as const;

/** How the LLM is computed: kernels, recomputation, number formats. */
export const execution = {
  mcore_gpt: bool(false, "Megatron-core's model instead of NeMo's own", {
    ...noEffect('one implementation stands for both; grouped queries need no switch'),
  }),
  transformer_engine: bool(false, 'Transformer Engine', {
    ...noEffect('LibTorch kernels are used; results are the same'),
  }),
  use_flash_attention: bool(true, 'Attention that never writes out the score matrix'),
  apply_query_key_layer_scaling: bool(true, 'Rescale scores by the layer number', {
    ...noEffect('it cancels out; scores are computed in float32 where that matters'),
  }),
  activations_checkpoint_granularity: choice(
    ['selective', 'full'],
    null,
    'Recompute in the backward pass: core attention alone, or whole blocks',
  ),
  activations_checkpoint_method: choice(
    ['uniform', 'block'],
    null,
    'Of full: chunks of activations_checkpoint_num_layers blocks, or that many single blocks',
  ),
  activations_checkpoint_num_layers: int(null, 'Blocks per chunk (uniform) or recomputed blocks (block)', { min: 1 }),
  num_micro_batches_with_partial_activation_checkpoints: int(
    null,
    'Micro batches in flight that are recomputed only in part',
    { min: 0, ...refused('set activations_checkpoint_method=block and activations_checkpoint_num_layers') },
  ),
  activations_checkpoint_layers_per_pipeline: int(null, 'Blocks fewer to recompute, per later pipeline stage', {
    min: 0,
    ...refused('set activations_checkpoint_num_layers'),
  }),
  megatron_amp_O2: bool(true, 'Hold the weights in 16 bits with float32 master copies; false keeps them in float32'),
  native_amp_init_scale: float(2 ** 32, "float16's first loss scale", { min: 1 }),
  native_amp_growth_interval: int(1000, 'Good steps before the loss scale doubles', { min: 1 }),
  hysteresis: int(2, 'Overflows before the loss scale halves', { min: 1 }),
  fp32_residual_connection: bool(false, 'Residual stream in float32', { ...refused('set trainer.precision=32') }),
  fp16_lm_cross_entropy: bool(false, 'Loss in float16', { ...refused('the loss is always computed in float32') }),
  masked_softmax_fusion: bool(true, 'Fused softmax', { ...oneKernel }),
  bias_dropout_add_fusion: bool(false, 'Fused bias, dropout, addition', { ...oneKernel }),
  bias_activation_fusion: bool(false, 'Fused bias and activation', { ...oneKernel }),
  bias_gelu_fusion: bool(false, 'Fused bias and GELU', { ...oneKernel }),
  apply_rope_fusion: bool(false, 'Fused rotary embedding', { ...oneKernel }),
  gradient_accumulation_fusion: bool(false, 'Add weight gradients in the matmul', { ...oneKernel }),
  persist_layer_norm: bool(true, 'Persistent norm kernel', { ...oneKernel }),
  openai_gelu: bool(false, 'With activation gelu: GELU by tanh, as GPT-2 has it'),
  onnx_safe: bool(false, 'Exportable operators', { ...noEffect('nothing is exported to ONNX') }),
  megatron_legacy: bool(false, 'Old Megatron checkpoints', { ...refused('convert the checkpoint with NeMo first') }),
  use_cpu_initialization: bool(false, 'Make random weights on the CPU', {
    ...noEffect('random weights are always drawn alike, whatever the device'),
  }),
  get_attention_mask_from_fusion: bool(true, 'Causal mask inside the kernel', { ...oneKernel }),
  no_seqlen_plus_one_input_tokens: bool(false, 'Cut at encoder_seq_length before the labels are shifted', {
    ...noEffect('labels are looked up, not shifted'),
  }),
  sequence_parallel: bool(false, 'Share norms and residual stream out over the tensor-parallel ranks'),
  async_grad_allreduce: bool(true, 'Reduce gradients while the backward pass goes on', {
    nemo: 'model.async_grad_allreduce',
  }),
  grad_allreduce_chunk_size_mb: int(125, 'Size of a gradient bucket, in MB', { min: 1 }),
  grad_div_ar_fusion: bool(true, 'Divide inside the reduction', { ...oneKernel }),
  gradient_as_bucket_view: bool(true, 'Gradients live in the buckets', { ...noEffect('they always do') }),
  overlap_p2p_comm: bool(false, 'Send between stages while computing', {
    ...noEffect('it only matters to interleaved stages'),
  }),
  batch_p2p_comm: bool(true, 'Send and receive together', { ...noEffect('it only matters to interleaved stages') }),
  fp8: bool(false, 'FP8', { ...fp8 }),
  fp8_e4m3: bool(false, 'FP8 format', { ...fp8Detail }),
  fp8_hybrid: bool(false, 'FP8 format', { ...fp8Detail }),
  fp8_margin: int(0, 'FP8 scaling', { ...fp8Detail }),
  fp8_interval: int(1, 'FP8 scaling', { ...fp8Detail }),
  fp8_amax_history_len: int(1, 'FP8 scaling', { ...fp8Detail }),
  fp8_amax_compute_algo: str('most_recent', 'FP8 scaling', { ...fp8Detail }),
  reduce_amax: bool(true, 'FP8 scaling', { ...fp8Detail }),
  use_loss_mask: bool(true, 'Mask the loss', { ...noEffect('it always is') }),
  precision: str(null, 'Copy of trainer.precision', { ...noEffect('trainer.precision decides') }),
  apex_transformer_log_level: int(30, "Apex's log level", { ...noEffect('Apex is not used') }),
  nsys_profile: mapping('Nsight Systems', { ...noEffect('start `nsys profile neva …` yourself') }),
  tp_comm_overlap: bool(false, 'Overlap tensor-parallel communication', { ...refused('not available') }),
  ub_tp_comm_overlap: bool(false, 'Overlap tensor-parallel communication', { ...refused('not available') }),
} as const;
