/**
 * Conversation templates: a conversation becomes segments of text, special tokens and images, each in the loss or not.
 * The texts are those of LLaVA's and NeMo's templates of the same names, byte for byte; see docs/data.md.
 */
import { mistake } from '../errors.ts';
import { LLAVA_MASKS, type Mask, NEMO_MASKS } from './reference-masks.ts';
import { type Conversation, IMAGE_TAG, type Segment, Writer } from './segments.ts';
import { BODIES, type TemplateBody } from './template-bodies.ts';

export { type Conversation, IMAGE_TAG, type Segment, type Turn } from './segments.ts';

/** Whose text and labels a template gives: `default` LLaVA's text, labelled by segments; `llava` and `nemo` theirs, quirks and all. */
export type Compat = 'default' | 'llava' | 'nemo';

export interface Template {
  readonly name: string;
  readonly system: string;
  /** Texts at which generation ends, besides the end-of-text token. */
  readonly stop: readonly string[];
  /** Tokens that the text uses and the vocabulary must hold. */
  readonly tokens: readonly string[];
  /** The beginning-of-text token is written only by tokenizers that add one by themselves. */
  readonly bosIfAdded: boolean;
  /** LLaVA's rewriting: the one image of a message goes to its front. */
  readonly movesImages: boolean;
  /**
   * Encode as NeMo does, the whole conversation as one SentencePiece text: one dummy prefix before everything,
   * none after special tokens and images.
   */
  readonly oneText: boolean;
  /** How the reference counts its labels; null where they follow from the segments. */
  readonly mask: Mask | null;
  /** Why this template cannot render a conversation, or null. */
  unfit(conversation: Conversation): string | null;
  /** The segments of a whole conversation; with `generation`, up to where the model has to go on. */
  render(conversation: Conversation, options?: { generation?: boolean }): Segment[];
}

export const templateNames: readonly string[] = Object.keys(BODIES);

/** The template of that name; an unknown one is the user's mistake. */
export function findTemplate(name: string, compat: Compat = 'default'): Template {
  const body = Object.hasOwn(BODIES, name) ? (BODIES[name] as TemplateBody) : undefined;
  if (body === undefined) {
    throw mistake({
      where: 'model.data.conv_template',
      problem: 'unknown conversation template',
      expected: `one of ${templateNames.join(', ')}`,
      found: JSON.stringify(name),
    });
  }
  const nemo = compat === 'nemo' || body.origin === 'nemo';
  const system = (compat === 'nemo' ? undefined : body.llavaSystem) ?? body.system;
  const masks = compat === 'llava' ? LLAVA_MASKS : compat === 'nemo' ? NEMO_MASKS : {};
  return {
    name,
    system,
    stop: body.stop ?? [],
    tokens: body.tokens ?? [],
    bosIfAdded: body.bosIfAdded ?? false,
    movesImages: !nemo,
    oneText: compat === 'nemo' || body.oneText === true,
    mask: Object.hasOwn(masks, name) ? masks[name]! : null,
    unfit: body.unfit ?? (() => null),
    render(conversation, { generation = false } = {}) {
      const writer = new Writer();
      const { turns, system: own } = conversation;
      body.write(writer, {
        turns,
        system: own ?? system,
        generation,
        nemo,
        training: compat === 'llava' && !generation,
      });
      return writer.segments;
    },
  };
}

/**
 * LLaVA's rewriting of a message: its one image goes to the front, with a newline after it.
 * Several images in a message stay where they stand.
 */
export function placeImages(text: string): string {
  if (text.split(IMAGE_TAG).length !== 2) return text;
  return `${IMAGE_TAG}\n${text.replace(IMAGE_TAG, '').trim()}`.trim();
}
