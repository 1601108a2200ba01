/** `neva generate`: one prompt from the command line, or a JSONL file of them. */
import { closeSync, openSync, readFileSync, renameSync, rmSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { NevaConfig } from '../config/index.ts';
import { encodePrompt } from '../data/example.ts';
import type { Engine } from '../engine/engine.ts';
import { openEngine } from '../engine/open.ts';
import { mistake } from '../errors.ts';
import { besideName } from '../files.ts';
import { featuresPerImage } from '../model/shapes.ts';
import { decode } from './decode.ts';
import { type LoadedModel, loadModel } from './load.ts';
import { uniformDraws } from './sample.ts';

export interface GenerateRequest {
  /** --model; null takes neva_model_file. */
  model: string | null;
  /** --image, in the order of the prompt's <image> tags. */
  images: readonly string[];
  /** --prompt; null takes inference.prompt_file. */
  prompt: string | null;
  /** One JSON object a prompt instead of the answer's text. */
  json: boolean;
  print: (line: string) => void;
  /** Told after every prompt of a file. */
  progress?: (done: number, total: number) => void;
}

export interface Answer {
  prompt: string;
  text: string;
  /** New tokens, the end token not counted. */
  tokens: number;
  prompt_tokens: number;
  images: string[];
  finish_reason: 'stop' | 'length';
}

/** Answers, one at a time; throws user errors for paths and prompts that do not fit. */
export async function generate(config: NevaConfig, request: GenerateRequest): Promise<void> {
  const path = request.model ?? config.neva_model_file;
  if (!path) throw mistake({ where: 'neva generate', problem: 'no model is named', fix: '--model FOLDER' });
  const promptFile = config.inference.prompt_file ?? config.prompt_file;
  if (request.prompt === null && !promptFile) {
    throw mistake({
      where: 'neva generate',
      problem: 'there is nothing to answer',
      fix: '--prompt TEXT, or inference.prompt_file=FILE.jsonl',
    });
  }
  const engine = await openEngine(config.trainer);
  const { conv_template, template_compat } = config.model.data;
  const model = loadModel(engine, {
    path,
    languageModel: config.base_model_file,
    template: conv_template,
    templateCompat: template_compat,
  });
  const draw = uniformDraws(config.inference.seed);
  const ask = (prompt: string, images: readonly string[]) => answer(engine, model, config, prompt, images, draw);

  if (request.prompt !== null) {
    const given = await ask(request.prompt, request.images);
    request.print(request.json ? JSON.stringify(given) : given.text);
    return;
  }
  await answerFile(config, promptFile!, model.path, ask, request);
}

async function answer(
  engine: Engine,
  loaded: LoadedModel,
  { inference }: NevaConfig,
  prompt: string,
  images: readonly string[],
  draw: () => number,
): Promise<Answer> {
  const { model, tokenizer, template } = loaded;
  const text = withImageTags(prompt, images.length, inference.insert_media_token ?? inference.insert_image_token);
  const encoded = encodePrompt(
    tokenizer,
    template,
    { turns: [{ from: 'human', text }] },
    { featuresPerImage: featuresPerImage(model.shape.vision), useImStartEnd: loaded.useImStartEnd },
  );
  const pictures = await Promise.all(images.map(loaded.picture));
  const endStrings = inference.end_strings ?? [];
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
      ends: (tokens) => endStrings.some((end) => tokenizer.decode(tokens, { special: true }).endsWith(end)),
      draw,
    },
  );
  return {
    prompt,
    text: withoutEnd(tokenizer.decode(result.tokens).trim(), endStrings),
    tokens: result.tokens.length,
    prompt_tokens: encoded.ids.length,
    images: [...images],
    finish_reason: result.finishReason,
  };
}

/** As many <image> tags as pictures: those that the prompt lacks go before it (or after it). */
function withImageTags(prompt: string, images: number, place: 'left' | 'right' | null): string {
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

type Line = Record<string, unknown> & { line: number; prompt: string; images: string[] };

/** Answers every line of a JSONL file: the line's own fields, then NeMo's and LLaVA's of the answer. */
async function answerFile(
  config: NevaConfig,
  promptFile: string,
  modelPath: string,
  ask: (prompt: string, images: readonly string[]) => Promise<Answer>,
  { json, print, progress }: GenerateRequest,
): Promise<void> {
  const lines = readPrompts(promptFile, config.inference.media_base_path ?? config.inference.images_base_path);
  const output = config.inference.output_file ?? config.output_file;
  const beside = output && besideName(output);
  const handle = beside ? openSync(beside, 'w') : null;
  try {
    for (const [i, { line: _, images, ...fields }] of lines.entries()) {
      const given = await ask(fields.prompt, images);
      const answered = {
        ...fields,
        full_text: `${given.prompt} ${given.text}`,
        text: given.text,
        model_id: modelPath,
        answer_id: i,
        metadata: { tokens: given.tokens, prompt_tokens: given.prompt_tokens, finish_reason: given.finish_reason },
      };
      if (handle !== null) writeSync(handle, `${JSON.stringify(answered)}\n`);
      else print(json ? JSON.stringify(given) : JSON.stringify(answered));
      progress?.(i + 1, lines.length);
    }
    if (handle !== null) closeSync(handle);
    if (beside) renameSync(beside, output);
  } catch (error) {
    if (beside) rmSync(beside, { force: true });
    throw error;
  }
}

function readPrompts(file: string, base: string | null): Line[] {
  let content: string;
  try {
    content = readFileSync(file, 'utf8');
  } catch (error) {
    throw mistake({ where: file, problem: `cannot be read (${(error as NodeJS.ErrnoException).code})` });
  }
  return content.split('\n').flatMap((text, i) => {
    if (text.trim() === '') return [];
    const where = `${basename(file)}, line ${i + 1}`;
    let fields: Record<string, unknown>;
    try {
      fields = JSON.parse(text);
    } catch (error) {
      throw mistake({ where, problem: 'not JSON', found: (error as Error).message });
    }
    const prompt = fields.prompt ?? fields.text;
    if (typeof prompt !== 'string')
      throw mistake({ where, problem: 'no prompt', expected: 'a string in "prompt" or "text"' });
    const names = fields.image === undefined || fields.image === null ? [] : [fields.image].flat();
    if (!names.every((name): name is string => typeof name === 'string')) {
      throw mistake({ where, problem: 'image must be a path or a list of paths', found: JSON.stringify(fields.image) });
    }
    return [{ ...fields, line: i + 1, prompt, images: names.map((name) => (base ? join(base, name) : name)) }];
  });
}
