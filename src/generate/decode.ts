/** One answer, token by token: the prompt goes through the model once, then each new token alone against the KV cache. */
import type { Engine } from '../engine/engine.ts';
import type { BlockCache } from '../model/decoder.ts';
import type { ModelInput, NevaModel } from '../model/neva.ts';
import { featuresPerImage, positionLimit } from '../model/shapes.ts';
import { chooseToken, type SamplingOptions } from './sample.ts';

export interface EncodedPrompt {
  /** Token ids; positions of image features hold 0. */
  ids: Int32Array;
  /** First position of each picture's features. */
  imageStarts: readonly number[];
  /** One [3, S, S] array a picture. */
  pictures: readonly Float32Array[];
}

export interface DecodeOptions extends SamplingOptions {
  maxTokens: number;
  minTokens: number;
  endId: number;
  /** Tokens that the tokenizer has: none beyond them is ever chosen. Absent: all that the model has. */
  vocabSize?: number;
  /** Asked after every token with all of them; true ends the answer (end strings). */
  ends?: (tokens: readonly number[]) => boolean;
  draw: () => number;
}

export interface Decoded {
  /** New tokens; the end token is not among them. */
  tokens: number[];
  finishReason: 'stop' | 'length';
}

export function decode(engine: Engine, model: NevaModel, prompt: EncodedPrompt, options: DecodeOptions): Decoded {
  const limit = Math.min(options.maxTokens, positionLimit(model.shape.llm) - prompt.ids.length);
  const caches: BlockCache[] = model.llm.blocks.map(() => ({ keys: null, values: null }));
  const tokens: number[] = [];
  try {
    let input = promptInput(model, prompt);
    let position = 0;
    while (tokens.length < limit) {
      const scores = nextScores(engine, model, input, caches, position).subarray(0, options.vocabSize);
      if (tokens.length < options.minTokens) scores[options.endId] = Number.NEGATIVE_INFINITY;
      const token = chooseToken(scores, tokens, options, options.draw);
      if (token === options.endId) return { tokens, finishReason: 'stop' };
      tokens.push(token);
      if (options.ends?.(tokens)) return { tokens, finishReason: 'stop' };
      position += input.length;
      input = tokenInput(token);
    }
    return { tokens, finishReason: 'length' };
  } finally {
    for (const { keys, values } of caches) {
      keys?.dispose();
      values?.dispose();
    }
  }
}

/** Logits [V] of the token after the last position of `input`. */
function nextScores(
  engine: Engine,
  model: NevaModel,
  input: ModelInput,
  caches: BlockCache[],
  position: number,
): Float32Array {
  const logits = model.logits(input, Int32Array.of(input.length - 1), caches, position);
  const values = Float32Array.from(engine.read(logits));
  logits.dispose();
  return values;
}

function promptInput(model: NevaModel, { ids, imageStarts, pictures }: EncodedPrompt): ModelInput {
  const { imageSize } = model.shape.vision;
  const features = featuresPerImage(model.shape.vision);
  const pixels = new Float32Array(pictures.length * 3 * imageSize ** 2);
  for (const [i, picture] of pictures.entries()) pixels.set(picture, i * picture.length);
  return {
    batch: 1,
    length: ids.length,
    ids,
    pixels,
    imageCount: pictures.length,
    imageSize,
    imageRows: Int32Array.from(imageStarts.flatMap((start) => Array.from({ length: features }, (_, i) => start + i))),
  };
}

function tokenInput(token: number): ModelInput {
  const none = new Int32Array(0);
  const ids = Int32Array.of(token);
  return { batch: 1, length: 1, ids, pixels: new Float32Array(0), imageCount: 0, imageSize: 0, imageRows: none };
}
