/** Hugging Face `config.json` to shapes and back. A model's kind is read from the file, never from a folder's name. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { mistake } from '../errors.ts';
import {
  featuresPerImage,
  type LlmShape,
  type NevaShape,
  type ProjectorShape,
  type VisionShape,
} from '../model/shapes.ts';
import { ConfigReader, type Json } from './config_reader.ts';
import { isLlmType, llmConfig, llmType, readLlm } from './hf_llm.ts';
import { readJsonObject } from './json.ts';

/** What a folder's config.json tells; parts that it says nothing about are absent. */
export interface ConfigShapes {
  kind: 'llava' | 'llm' | 'clip';
  llm?: LlmShape;
  vision?: VisionShape;
  projector?: ProjectorShape;
  /** The tower that the model was trained with, by path or name of the hub, where it is not among the weights. */
  visionTower?: string;
  /** Which state of that tower is the feature. */
  feature?: VisionFeature;
}

export type VisionFeature = Pick<VisionShape, 'selectLayer' | 'classTokenLength'>;

/** Null where the folder has no config.json. */
export function readConfigShapes(folder: string): ConfigShapes | null {
  const file = join(folder, 'config.json');
  if (!existsSync(file)) return null;
  const config = readJsonObject(file);
  const read = new Reader(file);
  switch (config.model_type) {
    case 'llama':
    case 'nemotron':
    case 'nvgpt':
      return { kind: 'llm', llm: readLlm(read, config.model_type, config) };
    case 'clip_vision_model':
      return { kind: 'clip', vision: read.vision(config) };
    case 'clip':
      // Older files give the tower twice, and there `…_dict` is the one that counts.
      return {
        kind: 'clip',
        vision: read.vision(read.object(config, config.vision_config_dict ? 'vision_config_dict' : 'vision_config')),
      };
    case 'llava':
    case 'llava_llama':
      return config.text_config ? read.llava(config) : read.originalLlava(config);
    default:
      throw mistake({
        where: file,
        problem: 'a kind of model that neva does not know',
        expected: 'model_type llama, nemotron, nvgpt, clip_vision_model, clip or llava',
        found: JSON.stringify(config.model_type ?? null),
        fix: "GPT models are read from NeMo's archives, or as model_type nemotron or nvgpt (docs/checkpoints.md)",
      });
  }
}

class Reader extends ConfigReader {
  /** LLaVA's choice of hidden state and class token unless `feature` says otherwise. */
  vision(c: Json, feature: VisionFeature = LLAVA_FEATURE): VisionShape {
    this.mustBe(c, 'hidden_act', 'quick_gelu');
    this.mustBe(c, 'num_channels', 3);
    return {
      imageSize: this.count(c, 'image_size', 224),
      patchSize: this.count(c, 'patch_size', 32),
      hiddenSize: this.count(c, 'hidden_size', 768),
      numLayers: this.count(c, 'num_hidden_layers', 12),
      numAttentionHeads: this.count(c, 'num_attention_heads', 12),
      ffnHiddenSize: this.count(c, 'intermediate_size', 3072),
      normEpsilon: this.positive(c, 'layer_norm_eps', 1e-5),
      ...feature,
    };
  }

  llava(c: Json): ConfigShapes {
    const [text, tower] = [this.object(c, 'text_config'), this.object(c, 'vision_config')];
    const textType = text.model_type ?? 'llama';
    if (!isLlmType(textType)) {
      this.refuse('text_config.model_type', 'llama, nemotron or nvgpt', JSON.stringify(textType));
    }
    this.mustBe(tower, 'model_type', 'clip_vision_model', 'vision_config.');
    this.mustBe(c, 'projector_hidden_act', 'gelu');
    this.mustBe(c, 'multimodal_projector_bias', true);
    const strategy = c.vision_feature_select_strategy ?? 'default';
    if (strategy !== 'default' && strategy !== 'full') {
      this.refuse('vision_feature_select_strategy', 'default or full', String(strategy));
    }
    const llm = readLlm(this, textType, text);
    // LlavaConfig ties when either says so.
    llm.tiedEmbeddings ||= c.tie_word_embeddings === true;
    const vision = this.vision(tower, {
      selectLayer: this.number(c, 'vision_feature_layer', -2),
      classTokenLength: strategy === 'default' ? 1 : 0,
    });
    const features = featuresPerImage(vision);
    if (this.count(c, 'image_seq_length', features) !== features) {
      this.refuse(
        'image_seq_length',
        `${features}, what this vision_config makes of a picture`,
        String(c.image_seq_length),
      );
    }
    const type = String(c.mm_projector_type ?? 'mlp2x_gelu');
    return {
      kind: 'llava',
      llm,
      vision,
      projector: { type, inputSize: vision.hiddenSize, outputSize: llm.hiddenSize },
    };
  }

  /** liuhaotian/llava-v1.5-7b and the like: the tower is named, its shape is not here. */
  originalLlava(c: Json): ConfigShapes {
    this.mustBe(c, 'mm_patch_merge_type', 'flat'); // anything else is LLaVA 1.6, which tiles its pictures
    const llm = readLlm(this, 'llama', c);
    const type = String(c.mm_projector_type ?? 'linear');
    const inputSize = this.count(c, 'mm_hidden_size', 1024);
    const selected = c.mm_vision_select_feature ?? 'patch';
    if (selected !== 'patch' && selected !== 'cls_patch') {
      this.refuse('mm_vision_select_feature', 'patch or cls_patch', String(selected));
    }
    const feature = {
      selectLayer: this.number(c, 'mm_vision_select_layer', LLAVA_FEATURE.selectLayer),
      classTokenLength: selected === 'patch' ? 1 : 0,
    };
    return {
      kind: 'llava',
      llm,
      projector: { type, inputSize, outputSize: llm.hiddenSize },
      ...(c.vision_config ? { vision: this.vision(this.object(c, 'vision_config'), feature) } : {}),
      ...(typeof c.mm_vision_tower === 'string' ? { visionTower: c.mm_vision_tower } : {}),
      feature,
    };
  }
}

const LLAVA_FEATURE = { selectLayer: -2, classTokenLength: 1 };

/** config.json of a whole model as llava-hf writes it, with the projector's type added. */
export function writeConfig({ llm, vision, projector }: NevaShape): Json {
  return {
    architectures: ['LlavaForConditionalGeneration'],
    model_type: 'llava',
    text_config: llmConfig(llm),
    vision_config: visionConfig(vision),
    mm_projector_type: projector.type,
    projector_hidden_act: 'gelu',
    multimodal_projector_bias: true,
    image_seq_length: featuresPerImage(vision),
    vision_feature_layer: vision.selectLayer,
    vision_feature_select_strategy: vision.classTokenLength === 1 ? 'default' : 'full',
    tie_word_embeddings: llm.tiedEmbeddings,
  };
}

/** config.json of LLaVA's own code: the LLM's fields at the top; the tower is in the weights, or named. */
export function originalConfig(shapes: ConfigShapes & { llm: LlmShape; projector: ProjectorShape }): Json {
  const { llm, projector, vision, feature = vision ?? LLAVA_FEATURE, visionTower } = shapes;
  if (llmType(llm) !== 'llama') {
    throw mistake({
      where: '--to llava',
      problem: "LLaVA's own code knows LLaMA alone",
      found: `a language model of type ${llmType(llm)}`,
      fix: 'use --to hf or --to hf-new',
    });
  }
  return {
    ...llmConfig(llm),
    architectures: ['LlavaLlamaForCausalLM'],
    model_type: 'llava_llama',
    ...(visionTower ? { mm_vision_tower: visionTower } : {}),
    // LLaVA's code looks the tower up by name and ignores this; neva needs it where the tower is among the weights.
    ...(vision ? { vision_config: visionConfig(vision) } : {}),
    mm_projector_type: projector.type,
    mm_hidden_size: projector.inputSize,
    mm_vision_select_layer: feature.selectLayer,
    mm_vision_select_feature: feature.classTokenLength === 1 ? 'patch' : 'cls_patch',
    mm_use_im_start_end: false,
    use_mm_proj: true,
  };
}

export const visionConfig = (s: VisionShape): Json => ({
  architectures: ['CLIPVisionModel'],
  model_type: 'clip_vision_model',
  hidden_act: 'quick_gelu',
  image_size: s.imageSize,
  patch_size: s.patchSize,
  hidden_size: s.hiddenSize,
  num_hidden_layers: s.numLayers,
  num_attention_heads: s.numAttentionHeads,
  intermediate_size: s.ffnHiddenSize,
  layer_norm_eps: s.normEpsilon,
});
