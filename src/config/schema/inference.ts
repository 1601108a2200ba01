import { bool, choice, float, int, list, noEffect, path, refused, section, str } from './field.ts';

const server = refused('`neva chat` talks in the terminal; no server is built in');
const steer = noEffect('NeMo does not use it either; give `label` in the record');

/** inference.* of neva_inference.yaml */
export const inference = section('Generation', {
  greedy: bool(false, 'Take the likeliest token; temperature, top_k and top_p then mean nothing'),
  top_k: int(0, 'Sample among this many likeliest tokens; 0 among all', { min: 0 }),
  top_p: float(0.9, 'Sample among the likeliest tokens that hold this much probability', { min: 0, max: 1 }),
  temperature: float(0.2, 'Divides the logits; 0 is greedy', { min: 0 }),
  add_BOS: bool(false, 'Put BOS first', { ...noEffect('the template decides, as in NeMo') }),
  tokens_to_generate: int(256, 'New tokens at most', { min: 1 }),
  min_tokens_to_generate: int(0, 'New tokens at least', { min: 0 }),
  all_probs: bool(false, 'Return the probabilities of all tokens', {
    ...refused('no probabilities are returned; `neva evaluate` gives the loss of known answers'),
  }),
  compute_logprob: bool(false, 'Return the log probability of every token', {
    ...refused('no probabilities are returned; `neva evaluate` gives the loss of known answers'),
  }),
  repetition_penalty: float(1.0, 'Makes tokens that were already written less likely; 1 changes nothing', {
    min: 0,
    exclusiveMin: true,
  }),
  end_strings: list(str('', 'string'), ['<extra_id_1>', '<extra_id_7>'], 'Texts that end an answer, besides EOS'),
  seed: int(1234, 'Seed of the sampling'),
  batch_size: int(1, 'Prompts answered at a time', {
    min: 1,
    ...noEffect('prompts are answered one after the other'),
  }),
  media_base_path: path(null, 'Folder of the pictures named in prompt_file', {
    nemo: 'inference.media_base_path (before 2.0: images_base_path)',
  }),
  images_base_path: path(null, 'Older name of media_base_path'),
  insert_media_token: choice(['left', 'right'], 'left', 'Where <image> goes in a prompt that has none', {
    nullable: true,
    nemo: 'inference.insert_media_token (before 2.0: insert_image_token)',
  }),
  insert_image_token: choice(['left', 'right'], null, 'Older name of insert_media_token'),
  media_type: choice(['image', 'video'], 'image', 'What is shown', { ...refused('only pictures') }),
  prompt_file: path(null, 'JSONL of prompts'),
  output_file: path(null, 'JSONL of answers'),
});

/** Keys that neva_inference.yaml has at the top level. */
export const inferenceTop = {
  neva_model_file: path(null, 'The model to ask: checkpoint or run folder, Hugging Face folder, or .nemo'),
  base_model_file: path(null, 'Its language model, when neva_model_file holds only the projector'),
  tensor_model_parallel_size: int(1, 'Ranks that share a layer, in inference; -1 reads it from the checkpoint', {
    min: -1,
  }),
  pipeline_model_parallel_size: int(1, 'Pipeline stages, in inference; -1 reads it from the checkpoint', { min: -1 }),
  pipeline_model_parallel_split_rank: int(0, 'Split of an encoder-decoder', {
    nullable: true,
    ...noEffect('the model has no encoder-decoder split'),
  }),
  checkpoint_dir: path(null, "Folder of Lightning's checkpoints", { ...refused('set neva_model_file') }),
  checkpoint_name: str(null, "Name of Lightning's checkpoint", { ...refused('set neva_model_file') }),
  hparams_file: path(null, "Lightning's hparams.yaml", { ...refused('set neva_model_file') }),
  prompt_file: path(null, 'JSONL of prompts (also inference.prompt_file)'),
  output_file: path(null, 'JSONL of answers (also inference.output_file)'),
  quality: int(9, 'SteerLM', { ...steer }),
  toxicity: int(0, 'SteerLM', { ...steer }),
  humor: int(6, 'SteerLM', { ...steer }),
  creativity: int(6, 'SteerLM', { ...steer }),
  violence: int(0, 'SteerLM', { ...steer }),
  helpfulness: int(6, 'SteerLM', { ...steer }),
  not_appropriate: int(0, 'SteerLM', { ...steer }),
  server: bool(false, 'Serve over HTTP', { ...server }),
  port: int(5555, 'Port of the server', { ...noEffect('no server is built in') }),
  web_server: bool(false, 'Serve a page', { ...server }),
  share: bool(false, 'Share the page', { ...server }),
  username: str('test', 'User of the page', { nullable: true, ...noEffect('no server is built in') }),
  password: str('test2', 'Password of the page', { nullable: true, ...noEffect('no server is built in') }),
  web_port: int(9889, 'Port of the page', { ...noEffect('no server is built in') }),
  quantization: section('Quantized inference', {
    algorithm: str('awq', 'Kind', { nullable: true, ...noEffect('nothing is quantized') }),
    enable: bool(false, 'Quantize', { ...refused('nothing is quantized; set trainer.precision=bf16') }),
  }),
} as const;
