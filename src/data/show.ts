/** What the model sees of one record: `neva data show`. */

import { mistake } from '../errors.ts';
import { renderRecord } from './example.ts';
import { SampleSource, type SourceOptions } from './source.ts';
import type { Segment } from './templates.ts';
import type { Tokenizer } from './tokenizer.ts';

/** Stands in `tokens` at every position that an image feature takes; no token has this id. */
export const IMAGE_POSITION = -200;

export interface ShownRecord {
  index: number;
  id: string;
  template: string;
  /** The rendered text, special tokens written out, `<image>` once for each image. */
  text: string;
  /** [T] token ids; IMAGE_POSITION where an image feature goes. */
  tokens: number[];
  /** [T] the token id where the position is in the loss, −100 elsewhere. */
  labels: number[];
  images: { path: string; width: number; height: number }[];
  /** Positions cut off at the right: `text` still shows them, `tokens` does not. */
  cut: number;
}

/** A run of the text, in the loss or not. */
export interface ShownPiece {
  text: string;
  loss: boolean;
}

/** Record `index` with its pictures' sizes as stored, and their pixels [3, S, S] as the vision tower gets them. */
export async function showRecord(
  options: SourceOptions,
  index: number,
): Promise<{ record: ShownRecord; pieces: ShownPiece[]; pixels: Float32Array[] }> {
  const source = await SampleSource.open(options);
  try {
    if (!Number.isInteger(index) || index < 0 || index >= source.size) {
      throw mistake({
        where: '--index',
        problem: 'no such record',
        expected: `0 to ${source.size - 1}`,
        found: String(index),
      });
    }
    const raw = source.get(index);
    const example = source.encode(index, raw);
    const tokens = [...example.ids];
    for (const start of example.imageStarts) tokens.fill(IMAGE_POSITION, start, start + options.featuresPerImage);
    const labels = [...example.labels];
    const images: ShownRecord['images'] = [];
    const pixels: Float32Array[] = [];
    for (const file of source.imageFiles(index, raw)) {
      await source.decode(file, (picture) => {
        images.push({ path: file.name, width: picture.width, height: picture.height });
        pixels.push(source.preprocess(picture));
      });
    }
    const pieces = shownPieces(
      renderRecord(raw, source.template, options, source.nameOf(index, raw)),
      source.tokenizer,
    );
    const text = pieces.map((piece) => piece.text).join('');
    return {
      record: { index, id: raw.id, template: source.template.name, text, tokens, labels, images, cut: example.cut },
      pieces,
      pixels,
    };
  } finally {
    source.close();
  }
}

function shownPieces(segments: readonly Segment[], tokenizer: Tokenizer): ShownPiece[] {
  const written = ({ text, special }: Segment) => {
    if (special !== 'bos' && special !== 'eos') return text;
    const id = special === 'bos' ? tokenizer.bosId : tokenizer.eosId;
    return id === null ? '' : (tokenizer.token(id) ?? '');
  };
  return segments.map((segment) => ({ text: written(segment), loss: segment.loss }));
}
