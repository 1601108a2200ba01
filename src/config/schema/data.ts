import { bool, choice, float, int, list, noEffect, path, refused, section, sections, str } from './field.ts';

/** model.data */
export const data = section('Training data', {
  data_path: path(
    null,
    'Conversations: a LLaVA .json or .jsonl file (or .gz of one), or WebDataset shards like "s/{00..99}.tar"',
  ),
  image_folder: path(null, 'Where the pictures are: a folder or a .tar file'),
  validation_data_path: path(null, 'Conversations to validate on, of the same forms as data_path'),
  validation_image_folder: path(null, 'Where their pictures are; null is image_folder'),
  validation_fraction: float(
    0,
    'Share of the training records that is held out to validate on: the same ones in every run, never trained on',
    { min: 0, max: 0.5 },
  ),
  conv_template: choice(
    [
      'plain',
      'v1',
      'llama_2',
      'llava_llama_2',
      'v0',
      'llava_v1',
      'mpt',
      'chatml_direct',
      'mistral',
      'mistral_instruct',
      'llama_3',
      'nvgpt',
      'nv_steerlm',
      'nv_dpo',
    ],
    'plain',
    'How a conversation is written out as text',
    { synonyms: { vicuna_v1: 'v1', llava_v0: 'v0', chatml: 'chatml_direct' } },
  ),
  template_compat: choice(
    ['default', 'llava', 'nemo'],
    'default',
    "Labels by construction on LLaVA's text; or text and labels exactly as LLaVA's or NeMo's code makes them, with its quirks",
  ),
  image_aspect_ratio: choice(
    ['square', 'pad', 'keep'],
    'square',
    'Crop the centre, or pad to a square; keep is refused (docs/data.md)',
  ),
  image_token_len: int(null, 'Feature vectors of a picture; null follows from the tower', {
    min: 1,
    ...noEffect("it follows from the tower's image size and patch, in training and in inference"),
  }),
  media_type: choice(['image', 'video'], 'image', 'What the records show', {
    ...refused('only pictures; cut a video into frames'),
  }),
  is_multimodal: bool(true, 'The data hold pictures', {
    ...noEffect('a record with pictures is recognized by its fields'),
  }),
  lazy_preprocess: bool(true, 'Tokenize when needed', { ...noEffect('records are always tokenized when needed') }),
  sep_image_conv_front: bool(false, 'Move the picture to the front of the first turn'),
  dataloader_type: choice(
    ['cyclic', 'single', 'group_by_modality_length'],
    'cyclic',
    'Shuffle every epoch anew, read in order, or shuffle batches of like records (with pictures or without, of like length)',
  ),
  group_pool_batches: int(
    1,
    'With group_by_modality_length: global batches that are sorted by length together; 1 as LLaVA, more for less padding',
    { min: 1 },
  ),
  blend: sections(
    section('One of the sets that are mixed', {
      data_path: path(null, 'Its conversations, of the same forms as model.data.data_path'),
      image_folder: path(null, 'Where its pictures are; null is model.data.image_folder'),
      weight: float(null, 'Its share of the samples, against the weights of the others', {
        min: 0,
        exclusiveMin: true,
      }),
    }),
    'Several sets in place of data_path, e.g. [{data_path: a.json, weight: 0.7}, {data_path: b.json, weight: 0.3}]; without weights each record comes once an epoch',
  ),
  num_workers: int(2, 'Processes that read and decode ahead', {
    min: 0,
    ...noEffect('one thread reads ahead, and pictures are decoded on as many as UV_THREADPOOL_SIZE says (4)'),
  }),
  prefetch_batches: int(2, 'Global batches to prepare ahead', { min: 0 }),
  on_error: choice(
    ['error', 'skip', 'replace'],
    'error',
    'A record that cannot be used: stop, leave it out, or take another in its place',
  ),
  max_bad_fraction: float(0.01, 'Stop all the same when more than this share of the records cannot be used', {
    min: 0,
    max: 1,
  }),
  check_at_start: int(
    32,
    'Records, spread over the data, that are read and decoded before training starts; 0 checks none',
    { min: 0 },
  ),
  vision_cache: path(
    null,
    'Folder for the features of a frozen vision tower: every picture is encoded once, before the first step; null encodes in each step',
  ),
  packed_sequence: bool(
    false,
    'Lay records one after the other in rows of up to encoder_seq_length positions, without padding; results stay the same',
  ),
  data_prefix: path(
    null,
    'Packs that `neva data pack --out` made; a global batch is then so many packs. null packs the records of each global batch',
  ),
  crop_size: list(int(224, 'pixels'), null, 'Height and width that pictures are cropped to', {
    length: 2,
    ...noEffect("it follows from the tower's image size"),
  }),
  eod_mask_loss: bool(false, 'Leave the end token out of the loss', { ...refused('the template decides') }),
  validation_drop_last: bool(true, 'Leave out the last, incomplete validation batch'),
  splice_single_frame: str(null, 'Which frame stands for a video', { ...refused('only pictures') }),
  num_frames: int(8, 'Frames of a video', { ...noEffect('only pictures') }),
  sep_token_between_frames: bool(false, 'A token between frames', { ...noEffect('only pictures') }),
  video_folder: path(null, 'Where the videos are', { ...refused('only pictures; cut a video into frames') }),
});

/** model.tokenizer */
export const tokenizer = section('Tokenizer; all null takes the one in the folder of the language model', {
  library: choice(['sentencepiece', 'huggingface', 'megatron'], null, 'Kind of tokenizer', {
    ...noEffect('the kind is recognized from the file'),
  }),
  type: str(null, 'Name of a tokenizer within the library', {
    ...noEffect('the kind is recognized from the file'),
  }),
  model: path(null, 'tokenizer.json, tokenizer.model, the folder that holds it, or a hub cache entry'),
  vocab_file: path(null, 'vocab.json of a byte-pair tokenizer', {
    ...refused('set model.tokenizer.model to the tokenizer.json that transformers saves of it'),
  }),
  merge_file: path(null, 'merges.txt of a byte-pair tokenizer', {
    ...refused('set model.tokenizer.model to the tokenizer.json that transformers saves of it'),
  }),
  delimiter: str(null, 'Separator of a tabular tokenizer', { ...refused('tabular tokenizers have no use here') }),
  sentencepiece_legacy: bool(false, "SentencePiece's legacy treatment of special tokens", {
    ...noEffect('tokens can be added to any SentencePiece model'),
  }),
  additional_special_tokens: list(str('', 'token'), null, 'Tokens to add to the vocabulary'),
});
