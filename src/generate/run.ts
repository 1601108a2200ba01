/** `neva generate`: one prompt from the command line, or a JSONL file of them. */
import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { NevaConfig } from '../config/index.ts';
import { mistake } from '../errors.ts';
import { LineFile } from '../files.ts';
import { answerer, type Reply, withImageTags } from './answer.ts';
import { openModel } from './load.ts';

export interface GenerateRequest {
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

export interface Answer extends Reply {
  prompt: string;
  images: string[];
}

/** Answers, one at a time; throws user errors for paths and prompts that do not fit. */
export async function generate(config: NevaConfig, request: GenerateRequest): Promise<void> {
  const promptFile = config.inference.prompt_file ?? config.prompt_file;
  if (request.prompt === null && !promptFile) {
    throw mistake({
      where: 'neva generate',
      problem: 'there is nothing to answer',
      fix: '--prompt TEXT, or inference.prompt_file=FILE.jsonl',
    });
  }
  const { engine, loaded } = await openModel(config, 'generate');
  const answer = answerer(engine, loaded, config.inference);
  const place = config.inference.insert_media_token ?? config.inference.insert_image_token;
  const ask = async (prompt: string, images: readonly string[]): Promise<Answer> => {
    const turns = [{ from: 'human' as const, text: withImageTags(prompt, images.length, place) }];
    return { prompt, ...(await answer({ turns, images })), images: [...images] };
  };

  if (request.prompt !== null) {
    const given = await ask(request.prompt, request.images);
    request.print(request.json ? JSON.stringify(given) : given.text);
    return;
  }
  await answerFile(config, promptFile!, loaded.path, ask, request);
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
  const file = output ? new LineFile(output) : null;
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
      if (file) file.write(answered);
      else print(json ? JSON.stringify(given) : JSON.stringify(answered));
      progress?.(i + 1, lines.length);
    }
    file?.keep();
  } finally {
    file?.drop();
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
