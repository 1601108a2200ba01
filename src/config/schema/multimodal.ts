import { bool, choice, float, int, path, section, str } from './field.ts';

/** model.mm_cfg: which parts the model is joined from. */
export const mmCfg = section('The parts: language model, vision tower, projector', {
  llm: section('Language model', {
    from_pretrained: path(null, 'Its weights: Hugging Face folder, safetensors, or .nemo; null starts at random'),
    freeze: bool(true, 'Keep its weights as they are (the pretrain stage does)'),
    model_type: choice(['llama_2', 'nvgpt', 'v1'], 'llama_2', 'Family, which also names the default template', {
      synonyms: { llama: 'llama_2', vicuna: 'v1' },
    }),
  }),
  vision_encoder: section('CLIP vision tower', {
    from_pretrained: path(null, 'Its weights: Hugging Face folder or hub cache entry, safetensors, or a CLIP .nemo'),
    from_hf: bool(true, 'Whether from_pretrained is of Hugging Face form', {
      status: { kind: 'no-effect', reason: 'the kind of a checkpoint is recognized from its content' },
    }),
    freeze: bool(true, 'Keep its weights as they are, as NeVA and LLaVA do in both stages; false trains it too'),
    image_size: int(null, 'Side of the square picture, in pixels; null = from the checkpoint', { min: 1 }),
    patch_dim: int(null, 'Side of a patch, in pixels; null = from the checkpoint', { min: 1 }),
    hidden_size: int(null, 'Width of the tower; null = from the checkpoint', { min: 1 }),
    num_layers: int(null, 'Blocks; null = from the checkpoint', { min: 1 }),
    num_attention_heads: int(null, 'Attention heads; null = from the checkpoint', { min: 1 }),
    ffn_hidden_size: int(null, "Width of the blocks' MLP; null = from the checkpoint", { min: 1 }),
    layernorm_epsilon: float(null, 'Epsilon of the layer norms; null = from the checkpoint'),
    vision_select_layer: int(-2, 'Which hidden state is the feature: an index into [embeddings, block 1, …]'),
    class_token_length: int(1, 'Leading tokens dropped from it: 1 drops the class token, 0 keeps it', {
      min: 0,
      max: 1,
    }),
  }),
  pretrain_mm_mlp_adapter: path(
    null,
    "The projector's weights: a run or experiment folder (its newest checkpoint), a checkpoint, or mm_projector.bin",
  ),
  mm_mlp_adapter_type: str('linear', 'Projector: linear, mlp2x_gelu, mlp3x_gelu, … or identity'),
  use_im_start_end: bool(false, 'Give the image start and end tokens positions of their own around the features'),
});
