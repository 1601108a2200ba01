import { join } from 'node:path';
import { packageRoot } from '../../src/root.ts';

const vision = 'model.mm_cfg.vision_encoder';
/** Overrides that put a model of 170 thousand random weights in the place of the demo's. */
export const tiny = [
  'model.mm_cfg.llm.from_pretrained=null',
  ...['num_layers=2', 'hidden_size=64', 'ffn_hidden_size=128', 'num_attention_heads=4'].map((key) => `model.${key}`),
  'model.tokenizer.library=huggingface',
  `model.tokenizer.model=${join(packageRoot, 'data/demo/llm')}`,
  `${vision}.from_pretrained=null`,
  ...[
    'image_size=32',
    'patch_dim=8',
    'hidden_size=32',
    'num_layers=2',
    'num_attention_heads=2',
    'ffn_hidden_size=64',
  ].map((key) => `${vision}.${key}`),
  'model.micro_batch_size=8',
  'model.global_batch_size=8',
];
