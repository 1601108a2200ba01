/** One answer to a conversation: encoded as in training, decoded, and cut at its end string. */
import type { NevaConfig } from '../config/index.ts';
import { encodePrompt } from '../data/example.ts';
import type { Turn } from '../data/segments.ts';
import type { Engine } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { positionLimit } from '../model/shapes.ts';
import { decode } from './decode.ts';
import type { LoadedModel } from './load.ts';
import { uniformDraws } from './sample.ts';

export interface Question {
  /** The last one is human. */
  turns: readonly Turn[];
  system?: string;
  /** Files, or pictures as the tower takes them, in the order of the turns' <image> tags. */
  images: readonly (string | Float32Array)[];
}

export interface Reply {
  text: string;
  /** New tokens, the end token not counted. */
  tokens: number;
  prompt_tokens: number;
  finish_reason: 'stop' | 'length';
}

/**
 * A function that answers, with the draws of one seed over all its answers. It is told of the text so far after every
 * token. Throws a user error for a prompt that leaves no room for an answer.
 */
export function answerer(engine: Engine, loaded: LoadedModel, inference: NevaConfig['inference']) {
  const { model, tokenizer, template } = loaded;
  const endStrings = inference.end_strings ?? [];
  const draw = uniformDraws(inference.seed);
  return async ({ turns, system, images }: Question, onText?: (text: string) => void): Promise<Reply> => {
    const encoded = encodePrompt(
      tokenizer,
      template,
      { turns, ...(system === undefined ? {} : { system }) },
      loaded.source,
    );
    const maxPositions = positionLimit(model.shape.llm);
    if (encoded.ids.length >= maxPositions) {
      throw mistake({
        where: 'the prompt',
        problem: 'it leaves no room for an answer',
        expected: `fewer than the language model's ${maxPositions} positions`,
        found: String(encoded.ids.length),
      });
    }
    const pictures = await Promise.all(images.map((each) => (typeof each === 'string' ? loaded.picture(each) : each)));
    const result = decode(
      engine,
      model,
      { ...encoded, pictures },
      {
        greedy: inference.greedy,
        temperature: inference.temperature,
        topK: inference.top_k,
        topP: inference.top_p,
        repetitionPenalty: inference.repetition_penalty,
        maxTokens: inference.tokens_to_generate,
        minTokens: inference.min_tokens_to_generate,
        endId: tokenizer.eosId ?? -1,
        vocabSize: tokenizer.vocabSize,
        ends: (tokens) => {
          onText?.(withoutEnd(tokenizer.decode(tokens).trimStart(), endStrings));
          if (endStrings.length === 0) return false;
          const written = tokenizer.decode(tokens, { special: true });
          return endStrings.some((end) => written.endsWith(end));
        },
        draw,
      },
    );
    return {
      text: withoutEnd(tokenizer.decode(result.tokens).trim(), endStrings),
      tokens: result.tokens.length,
      prompt_tokens: encoded.ids.length,
      finish_reason: result.finishReason,
    };
  };
}

/** As many <image> tags as pictures: those that the prompt lacks go before it (or after it). */
export function withImageTags(prompt: string, images: number, place: 'left' | 'right' | null): string {
  const tags = prompt.split('<image>').length - 1;
  if (tags === images) return prompt;
  if (tags > images || place === null) {
    throw mistake({
      where: 'the prompt',
      problem: 'as many <image> tags as pictures are needed',
      expected: `${images} (one for each --image)`,
      found: String(tags),
    });
  }
  const missing = '<image>\n'.repeat(images - tags);
  return place === 'right' ? `${prompt}\n${missing.trimEnd()}` : missing + prompt;
}

function withoutEnd(text: string, ends: readonly string[]): string {
  const end = ends.find((each) => text.endsWith(each));
  return end ? text.slice(0, -end.length).trim() : text;
}
