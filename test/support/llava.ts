/** The tiny LLaVA of test/fixtures/llava, opened the way neva opens models. */
import { openWeights } from '../../src/checkpoint/weights.ts';
import type { DType, Engine } from '../../src/engine/engine.ts';
import type { DecodeOptions, EncodedPrompt } from '../../src/generate/decode.ts';
import { type LabelledInput, NevaModel, type NevaOptions } from '../../src/model/neva.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { fixture, readJson, tensorFile } from './fixtures.ts';

export const reference = readJson('llava/reference.json');

export function tinyLlava(
  engine: Engine,
  computeDtype: DType = 'float32',
  attention: NevaOptions['attention'] = {},
): NevaModel {
  const whole = openWeights(fixture('llava/model'));
  const { llm, vision, projector } = whole.config!;
  const sources = {
    vision_encoder: openWeights(fixture('llava/vision')).source(engine, 'vision'),
    projector: whole.source(engine, 'projector'),
    llm: openWeights(fixture('llava/llm')).source(engine, 'llm'),
  };
  const model = new NevaModel(engine, { llm, vision, projector } as NevaShape, {
    sources,
    computeDtype,
    attention,
  });
  // Memory of their own: mapped weights would be trained in the page cache's copies.
  for (const parameter of model.parameters) parameter.value = engine.keep(engine.scale(parameter.value, 1));
  return model;
}

/** The reference's three records: two with a picture, one of text alone with a picture that no position takes. */
export function referenceInput(engine: Engine): LabelledInput {
  const tensors = tensorFile(engine, 'llava/reference.safetensors');
  const ints = (name: string) => Int32Array.from(tensors.values(name) as ArrayLike<number>);
  return {
    batch: 3,
    length: 44,
    ids: ints('input_ids').map((id) => (id === reference.image_token ? 0 : id)),
    pixels: Float32Array.from(tensors.values('pixel_values')),
    imageCount: 3,
    imageSize: 28,
    imageRows: ints('image_rows'),
    labelRows: ints('label_rows'),
    labelTargets: ints('label_targets'),
  };
}

export const greedy: DecodeOptions = {
  greedy: true,
  temperature: 1,
  topK: 0,
  topP: 1,
  repetitionPenalty: 1,
  maxTokens: reference.generation.tokens.length,
  minTokens: 0,
  endId: -1,
  draw: () => 0,
};

/** The prompt whose continuation by transformers is `reference.generation.tokens`. */
export function referencePrompt(engine: Engine): EncodedPrompt {
  const { prompt, image } = reference.generation as { prompt: number[]; image: number };
  const pixels = Float32Array.from(tensorFile(engine, 'llava/reference.safetensors').values('pixel_values'));
  const size = 3 * 28 * 28;
  return {
    ids: Int32Array.from(prompt, (id) => (id === reference.image_token ? 0 : id)),
    imageStarts: [prompt.indexOf(reference.image_token)],
    pictures: [pixels.slice(image * size, (image + 1) * size)],
  };
}
