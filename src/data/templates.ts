/**
 * Conversation templates: a conversation becomes segments of text, special tokens and images, each in the loss or not.
 * The texts are those of LLaVA's and NeMo's templates of the same names, byte for byte.
 */
import { mistake } from '../errors.ts';

export const IMAGE_TAG = '<image>';

export interface Turn {
  from: 'human' | 'gpt';
  text: string;
}

export interface Conversation {
  turns: readonly Turn[];
  /** Takes the place of the template's own system text. */
  system?: string;
}

export interface Segment {
  text: string;
  /** The model learns to produce this segment. */
  loss: boolean;
  /** Instead of text: the tokenizer's special token, or the features of the record's next image. */
  special?: 'bos' | 'eos' | 'image';
}

export interface Template {
  readonly name: string;
  readonly system: string;
  /** Texts at which generation ends, besides the end-of-text token. */
  readonly stop: readonly string[];
  /** Why this template cannot render a conversation, or null. */
  unfit?(conversation: Conversation): string | null;
  /** The segments of a whole conversation; with `generation`, up to where the model has to go on. */
  render(conversation: Conversation, options?: { generation?: boolean }): Segment[];
}

/** Collects segments; `<image>` tags inside a text become image segments. */
class Writer {
  readonly segments: Segment[] = [];

  text(text: string, loss = false): void {
    text.split(IMAGE_TAG).forEach((part, index) => {
      if (index > 0) this.segments.push({ text: IMAGE_TAG, loss: false, special: 'image' });
      if (part !== '') this.segments.push({ text: part, loss });
    });
  }
  answer(text: string): void {
    this.text(text, true);
  }
  bos(): void {
    this.segments.push({ text: '', loss: false, special: 'bos' });
  }
  eos(loss = true): void {
    this.segments.push({ text: '', loss, special: 'eos' });
  }
}

type Body = (writer: Writer, conversation: Conversation, system: string, generation: boolean) => void;

function template(name: string, system: string, stop: string[], body: Body): Template {
  return {
    name,
    system,
    stop,
    render(conversation, { generation = false } = {}) {
      const writer = new Writer();
      body(writer, conversation, conversation.system ?? system, generation);
      return writer.segments;
    },
  };
}

// Interface constants: models were trained on exactly these (checked by hash in the tests).
const VICUNA_USER =
  'A chat between a curious user and an artificial intelligence assistant. ' +
  "The assistant gives helpful, detailed, and polite answers to the user's questions.";
const LLAVA_LLAMA_2 =
  'You are a helpful language and vision assistant. ' +
  'You are able to understand the visual content that the user provides, ' +
  'and assist the user with a variety of tasks using natural language.';

/** Image and caption: the question is thrown away, and no end-of-text is taught (LLaVA's first stage). */
const plain: Body = (writer, { turns }) => {
  writer.bos();
  for (const turn of turns) {
    if (turn.from === 'human') {
      const images = turn.text.split(IMAGE_TAG).length - 1;
      writer.text(IMAGE_TAG.repeat(images));
    } else {
      writer.answer(`${turn.text}\n`);
    }
  }
};

function unfitForPlain({ turns }: Conversation): string | null {
  if (turns.length !== 2) return `${turns.length} turns instead of an image and its caption`;
  return turns[0]?.text.includes(IMAGE_TAG) ? null : 'no <image> tag in the first turn';
}

/** Vicuna v1.1: the space before an answer belongs to the answer, as the model meets it when it generates. */
const vicuna: Body = (writer, { turns }, system, generation) => {
  writer.bos();
  writer.text(`${system} `);
  for (const turn of turns) {
    if (turn.from === 'human') {
      writer.text(`USER: ${turn.text} `);
    } else {
      writer.text('ASSISTANT:');
      writer.answer(` ${turn.text}`);
      writer.eos();
    }
  }
  if (generation) writer.text('ASSISTANT:');
};

const llama2: Body = (writer, { turns }, system) => {
  turns.forEach((turn, index) => {
    if (turn.from === 'human') {
      const head = index === 0 && system !== '' ? `<<SYS>>\n${system}\n<</SYS>>\n\n` : '';
      writer.bos();
      writer.text(`[INST] ${head}${turn.text} [/INST]`);
    } else {
      writer.answer(` ${turn.text} `);
      writer.eos();
    }
  });
};

const TEMPLATES: Record<string, Template> = Object.fromEntries(
  [
    { ...template('plain', '', ['\n'], plain), unfit: unfitForPlain },
    template('v1', VICUNA_USER, [], vicuna),
    template('vicuna_v1', VICUNA_USER, [], vicuna),
    template('llama_2', LLAVA_LLAMA_2, [], llama2),
    template('llava_llama_2', LLAVA_LLAMA_2, [], llama2),
  ].map((entry) => [entry.name, entry]),
);

export const templateNames: readonly string[] = Object.keys(TEMPLATES);

/** The template of that name; an unknown one is the user's mistake. */
export function findTemplate(name: string): Template {
  const found = Object.hasOwn(TEMPLATES, name) ? TEMPLATES[name] : undefined;
  if (found === undefined) {
    throw mistake({
      where: 'model.data.conv_template',
      problem: 'unknown conversation template',
      expected: `one of ${templateNames.join(', ')}`,
      found: JSON.stringify(name),
    });
  }
  return found;
}

/**
 * LLaVA's rewriting of a message: its one image goes to the front, with a newline after it.
 * Several images in a message stay where they stand.
 */
export function placeImages(text: string): string {
  if (text.split(IMAGE_TAG).length !== 2) return text;
  return `${IMAGE_TAG}\n${text.replace(IMAGE_TAG, '').trim()}`.trim();
}
