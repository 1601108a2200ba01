/** From a record to what the model reads: token ids, a label for each, and where each image's features go. */

import { mistake } from '../errors.ts';
import type { DataRecord } from './parse-record.ts';
import { problem } from './problem.ts';
import { IMAGE_TAG, placeImages, type Segment, type Template, type Turn } from './templates.ts';
import type { Start, Tokenizer } from './tokenizer.ts';
import { IGNORE } from './types.ts';

export interface EncodingOptions {
  /** Positions, image positions included. */
  maxLength: number;
  /** P: positions one image takes. */
  featuresPerImage: number;
  /** Put the start and end tokens around the image's positions, with embeddings of their own. */
  useImStartEnd: boolean;
  imStartId?: number;
  imEndId?: number;
  /** NeMo's `sep_image_conv_front`: the picture goes to the very front of the first turn, the speaker's name after it. */
  imageToFront?: boolean;
}

export interface Example {
  /** [T]; 0 at image positions. */
  ids: Int32Array;
  /** [T] the id itself where the position is in the loss, IGNORE elsewhere; not shifted. */
  labels: Int32Array;
  /** First position of each image's P features, in the record's order. */
  imageStarts: number[];
  /** Positions cut off at the right. */
  cut: number;
}

/** Encodes a record with its template. A record that cannot be learnt from whole is a problem; see docs/data.md. */
export function encodeRecord(
  record: DataRecord,
  template: Template,
  tokenizer: Tokenizer,
  options: EncodingOptions,
  where: string,
): Example {
  const segments = renderRecord(record, template, options, where);
  const example = encodeSegments(segments, template, tokenizer, options);
  if (template.mask !== null) example.labels = countedLabels(segments, example, template, tokenizer, options);
  return truncate(example, options, where);
}

/** Labels as the reference counts them, over positions of which each image takes one, spread to where each takes P. */
function countedLabels(
  segments: readonly Segment[],
  { ids, imageStarts }: Example,
  template: Template,
  tokenizer: Tokenizer,
  options: EncodingOptions,
): Int32Array {
  const { featuresPerImage, maxLength, useImStartEnd } = options;
  const compact = encodeSegments(segments, template, tokenizer, { ...options, featuresPerImage: 1 });
  for (const start of compact.imageStarts) compact.ids[start] = NO_TOKEN;
  const token = (id: number | null) => (id === null ? '' : (tokenizer.token(id) ?? ''));
  const eos = token(tokenizer.eosId);
  const written = segments.map(({ text, special }, at) =>
    special === 'eos' ? eos : special === 'bos' ? (at > 0 ? token(tokenizer.bosId) : '') : text,
  );
  const perImage = useImStartEnd ? 3 : 1;
  // LLaVA tokenizes each piece between images as a text of its own; NeMo all as one.
  const lengthOf = (piece: string, at: number) =>
    template.oneText
      ? tokenizer.encode((at === 0 && tokenizer.prefixes ? ' ' : '') + piece, { start: 'bare' }).length
      : tokenizer.encode(piece, { start: at > 0 && useImStartEnd ? 'special' : 'text' }).length;
  const measure = (piece: string) => {
    const parts = piece.split(IMAGE_TAG);
    const bos = !template.oneText && compact.ids[0] === tokenizer.bosId ? 1 : 0;
    return parts.reduce((sum, part, at) => sum + lengthOf(part, at), bos + (parts.length - 1) * perImage);
  };
  const labels = template.mask!({
    text: written.join(''),
    ids: compact.ids,
    measure,
    eos,
    padId: tokenizer.unkId,
    legacy: tokenizer.legacy,
    hasImage: imageStarts.length > 0,
    maxLength,
  });
  const spread = new Int32Array(ids.length).fill(IGNORE);
  let from = 0;
  imageStarts.forEach((start, image) => {
    const end = compact.imageStarts[image]!;
    spread.set(labels.subarray(from, end), start - (end - from));
    from = end + 1;
  });
  const last = imageStarts.at(-1);
  spread.set(labels.subarray(from), last === undefined ? 0 : last + featuresPerImage);
  return spread;
}

/** The record's text as the template writes it, in segments. */
export function renderRecord(
  record: DataRecord,
  template: Template,
  { imageToFront = false }: Pick<EncodingOptions, 'imageToFront'>,
  where: string,
): Segment[] {
  const unfit = template.unfit(record);
  if (unfit) throw problem('record', { where, problem: `not for the ${template.name} template`, found: unfit });
  const turns = imageToFront && record.images.length > 0 ? withImageInFront(record.turns, where) : record.turns;
  return template.render({ turns: placed(turns, template), system: record.system });
}

/** NeMo's text of the first turn: the tag, and the default conversation's separator and speaker (v1's) before the words. */
function withImageInFront(turns: readonly Turn[], where: string): Turn[] {
  const [first, ...others] = turns as [Turn, ...Turn[]];
  if (!first.text.includes(IMAGE_TAG)) {
    throw problem('record', {
      where,
      problem: 'no picture in the first turn, which model.data.sep_image_conv_front=true needs',
      found: `the picture in a later turn`,
      fix: 'set model.data.sep_image_conv_front=false',
    });
  }
  const words = first.text.replaceAll(IMAGE_TAG, '').trim();
  const tags = first.text.split(IMAGE_TAG).length - 1;
  return [{ ...first, text: `${IMAGE_TAG.repeat(tags)} USER: ${words}` }, ...others];
}

/**
 * A prompt as generation starts from it: the turns so far (the last one human), up to where the answer begins.
 * The ids are exactly those the model saw in training before the answer.
 */
export function encodePrompt(
  tokenizer: Tokenizer,
  template: Template,
  conversation: { turns: readonly Turn[]; system?: string },
  options: Omit<EncodingOptions, 'maxLength'>,
): { ids: Int32Array; imageStarts: number[] } {
  const { imageToFront = false } = options;
  const pictured = conversation.turns.some(({ text }) => text.includes(IMAGE_TAG));
  const first = imageToFront && pictured ? withImageInFront(conversation.turns, 'the prompt') : conversation.turns;
  const turns = placed(first, template);
  const segments = template.render({ ...conversation, turns }, { generation: true });
  const { ids, imageStarts } = encodeSegments(segments, template, tokenizer, options);
  return { ids, imageStarts };
}

function placed(turns: readonly Turn[], template: Template): readonly Turn[] {
  return template.movesImages ? turns.map((turn) => ({ ...turn, text: placeImages(turn.text) })) : turns;
}

/** Stands for an image among ids; no token has it. */
const NO_TOKEN = -200;

/** Neighbouring texts that are alike in the loss are encoded as one, so that words are not cut where segments meet. */
function encodeSegments(
  segments: readonly Segment[],
  template: Template,
  tokenizer: Tokenizer,
  options: Omit<EncodingOptions, 'maxLength'>,
): Example {
  const ids: number[] = [];
  const labels: number[] = [];
  const imageStarts: number[] = [];
  const put = (id: number, loss: boolean) => {
    ids.push(id);
    labels.push(loss ? id : IGNORE);
  };
  const { oneText } = template;
  const brackets = options.useImStartEnd ? imageBrackets(tokenizer, options) : null;
  let before: Start = oneText ? 'bare' : 'text';
  // SentencePiece prefixes the one text, whatever it begins with.
  let text = oneText && tokenizer.prefixes ? ' ' : '';
  let loss = false;
  const flush = () => {
    if (text === '') return;
    for (const id of tokenizer.encode(text, { start: before })) put(id, loss);
    if (!oneText) before = 'middle';
    text = '';
  };
  for (const segment of segments) {
    if (segment.special === undefined) {
      if (segment.loss !== loss) flush();
      text += segment.text;
      loss = segment.loss;
      continue;
    }
    flush();
    if (segment.special === 'image') {
      if (brackets) put(brackets[0], false);
      imageStarts.push(ids.length);
      for (let i = 0; i < options.featuresPerImage; i++) put(0, false);
      if (brackets) put(brackets[1], false);
      if (!oneText) before = brackets ? 'special' : 'text';
      continue;
    }
    const id = segment.special === 'bos' ? tokenizer.bosId : tokenizer.eosId;
    if (id !== null && !(segment.special === 'bos' && template.bosIfAdded && !tokenizer.addsBos)) put(id, segment.loss);
    // The first token of all opens the text; later ones are special tokens inside it.
    if (ids.length > 1 && !oneText) before = 'special';
  }
  flush();
  return { ids: Int32Array.from(ids), labels: Int32Array.from(labels), imageStarts, cut: 0 };
}

/** A template whose tokens the vocabulary lacks would be spelt out in letters: the user's mistake. */
export function requireTokens(template: Template, tokenizer: Tokenizer): void {
  const missing = template.tokens.filter((token) => tokenizer.tokenId(token) === null);
  if (missing.length === 0) return;
  throw mistake({
    where: 'model.data.conv_template',
    problem: `the ${template.name} template needs tokens that the tokenizer lacks`,
    expected: template.tokens.join(' '),
    found: `no ${missing.join(' ')}`,
    fix: `model.tokenizer.additional_special_tokens='[${missing.map((token) => `"${token}"`).join(',')}]', or another template`,
  });
}

/** LLaVA's and NeMo's tokens around an image. */
const IMAGE_BRACKETS = [
  ['<im_start>', '<im_end>'],
  ['<extra_id_4>', '<extra_id_5>'],
] as const;

/** Ids of the tokens around an image: those given, or those of LLaVA or NeMo that the vocabulary holds. */
export function imageBrackets(
  tokenizer: Tokenizer,
  { imStartId, imEndId }: Pick<EncodingOptions, 'imStartId' | 'imEndId'>,
): [start: number, end: number] {
  if (imStartId !== undefined && imEndId !== undefined) return [imStartId, imEndId];
  for (const [startToken, endToken] of IMAGE_BRACKETS) {
    const start = tokenizer.tokenId(startToken);
    const end = tokenizer.tokenId(endToken);
    if (start !== null && end !== null) return [start, end];
  }
  throw mistake({
    where: 'model.mm_cfg.use_im_start_end',
    problem: 'the tokenizer has no tokens to put around an image',
    expected: IMAGE_BRACKETS.map((pair) => pair.join(' and ')).join(', or '),
    fix: `model.tokenizer.additional_special_tokens='["<im_start>","<im_end>"]', or model.mm_cfg.use_im_start_end=false`,
  });
}

/** Cuts at the right. An image is never cut or lost, and something to learn must be left. */
function truncate(
  example: Example,
  { maxLength, featuresPerImage, useImStartEnd }: EncodingOptions,
  where: string,
): Example {
  const { ids, labels, imageStarts } = example;
  const last = imageStarts.at(-1);
  const needed = last === undefined ? 0 : last + featuresPerImage + (useImStartEnd ? 1 : 0);
  if (needed > maxLength) {
    throw problem('image_cut', {
      where,
      problem: 'the record is too long: cutting it would remove an image',
      expected: `images that end within model.encoder_seq_length = ${maxLength} positions`,
      found: `${ids.length} positions, the last image ending at ${needed}`,
      fix: 'raise model.encoder_seq_length, or set model.data.on_error=skip',
    });
  }
  const cut = {
    ids: ids.slice(0, maxLength),
    labels: labels.slice(0, maxLength),
    imageStarts,
    cut: Math.max(0, ids.length - maxLength),
  };
  // Position 0 has no predecessor to predict it from.
  if (cut.labels.findIndex((label, at) => at > 0 && label !== IGNORE) < 0) {
    throw problem('no_labels', {
      where,
      problem: 'nothing is left to learn in this record',
      found: `${ids.length} positions, of which ${maxLength} fit; no answer among them`,
      fix: 'raise model.encoder_seq_length, or set model.data.on_error=skip',
    });
  }
  return cut;
}
