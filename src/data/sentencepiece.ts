/**
 * SentencePiece's `tokenizer.model` as a `tokenizer.json`: vocabulary, merges and special tokens in the form that
 * `@huggingface/tokenizers` runs. Follows transformers' conversion of LLaMA's tokenizer.
 */
import { PbfReader } from 'pbf';
import { mistake } from '../errors.ts';
import type { TokenizerJson } from './prefix.ts';

/** Kinds of pieces in sentencepiece_model.proto. */
const [UNKNOWN, CONTROL, USER_DEFINED, BYTE] = [2, 3, 4, 6] as const;
const [UNIGRAM, BPE] = [1, 2] as const;

interface Piece {
  text: string;
  score: number;
  kind: number;
}

interface Model {
  pieces: Piece[];
  modelType: number;
  byteFallback: boolean;
  ids: { unk: number; bos: number; eos: number; pad: number };
  dummyPrefix: boolean;
  removeExtraSpaces: boolean;
  charsMap: number;
}

/** The special tokens of the model, under the names of tokenizer_config.json. */
export interface SentencePieceTokenizer {
  json: TokenizerJson;
  specials: Record<string, string>;
}

export function fromSentencePiece(bytes: Uint8Array, path: string): SentencePieceTokenizer {
  const model = parse(bytes, path);
  const unsupported = (what: string) =>
    mistake({
      where: path,
      problem: `a SentencePiece model that neva does not read itself: ${what}`,
      expected: 'a BPE or Unigram model without normalization, like those of LLaMA',
      fix: 'convert it with transformers (AutoTokenizer.from_pretrained(…).save_pretrained(…)) and use the tokenizer.json',
    });
  if (model.modelType !== BPE && model.modelType !== UNIGRAM) throw unsupported('neither BPE nor Unigram');
  if (model.charsMap > 0) throw unsupported('it normalizes characters');
  if (model.removeExtraSpaces) throw unsupported('it removes spaces');
  if (model.modelType === UNIGRAM && model.byteFallback) throw unsupported('Unigram with byte fallback');
  const text = (id: number) => model.pieces[id]?.text;
  const unk = text(model.ids.unk);
  const specials: Record<string, string> = {};
  for (const [name, id] of Object.entries(model.ids)) {
    const token = id < 0 ? undefined : text(id);
    if (token !== undefined) specials[`${name}_token`] = token;
  }
  const added = model.pieces.flatMap(({ text: content, kind }, id) =>
    kind === UNKNOWN || kind === CONTROL || kind === USER_DEFINED
      ? [
          {
            id,
            content,
            special: kind !== USER_DEFINED,
            normalized: false,
            lstrip: false,
            rstrip: false,
            single_word: false,
          },
        ]
      : [],
  );
  const json: TokenizerJson = {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: {
      type: 'Metaspace',
      replacement: '▁',
      prepend_scheme: model.dummyPrefix ? 'first' : 'never',
      split: false,
    },
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [
        { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
        { type: 'ByteFallback' },
        { type: 'Fuse' },
        { type: 'Strip', content: ' ', start: model.dummyPrefix ? 1 : 0, stop: 0 },
      ],
    },
    model:
      model.modelType === BPE
        ? {
            type: 'BPE',
            vocab: vocabulary(model),
            merges: merges(model),
            unk_token: unk,
            fuse_unk: true,
            byte_fallback: model.byteFallback,
          }
        : {
            type: 'Unigram',
            unk_id: model.ids.unk,
            vocab: model.pieces.map(({ text: piece, score }) => [piece, score]),
          },
  };
  return { json, specials };
}

function vocabulary({ pieces }: Model): Record<string, number> {
  return Object.fromEntries(pieces.map(({ text }, id) => [text, id]));
}

/** Every way to make a piece out of two others, best pieces first: SentencePiece stores only the results. */
function merges({ pieces }: Model): [string, string][] {
  const ids = new Map(pieces.map(({ text }, id) => [text, id]));
  const found: { score: number; left: number; right: number; pair: [string, string] }[] = [];
  pieces.forEach(({ text, score, kind }) => {
    if (kind === BYTE || kind === CONTROL || kind === UNKNOWN || kind === USER_DEFINED) return;
    for (let cut = 1; cut < text.length; cut++) {
      const pair: [string, string] = [text.slice(0, cut), text.slice(cut)];
      const left = ids.get(pair[0]);
      const right = ids.get(pair[1]);
      if (left !== undefined && right !== undefined) found.push({ score, left, right, pair });
    }
  });
  found.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  return found.map(({ pair }) => pair);
}

/** Field numbers of sentencepiece_model.proto; the defaults are the file format's. */
function parse(bytes: Uint8Array, path: string): Model {
  const model: Model = {
    pieces: [],
    modelType: UNIGRAM,
    byteFallback: false,
    ids: { unk: 0, bos: 1, eos: 2, pad: -1 },
    dummyPrefix: true,
    removeExtraSpaces: true,
    charsMap: 0,
  };
  const piece = (tag: number, result: Piece, reader: PbfReader) => {
    if (tag === 1) result.text = reader.readString();
    else if (tag === 2) result.score = reader.readFloat();
    else if (tag === 3) result.kind = reader.readVarint();
  };
  const trainer = (tag: number, result: Model, reader: PbfReader) => {
    if (tag === 3) result.modelType = reader.readVarint();
    else if (tag === 35) result.byteFallback = reader.readBoolean();
    else if (tag === 40) result.ids.unk = reader.readVarint(true);
    else if (tag === 41) result.ids.bos = reader.readVarint(true);
    else if (tag === 42) result.ids.eos = reader.readVarint(true);
    else if (tag === 43) result.ids.pad = reader.readVarint(true);
  };
  const normalizer = (tag: number, result: Model, reader: PbfReader) => {
    if (tag === 2) result.charsMap = reader.readBytes().length;
    else if (tag === 3) result.dummyPrefix = reader.readBoolean();
    else if (tag === 4) result.removeExtraSpaces = reader.readBoolean();
  };
  try {
    new PbfReader(bytes).readFields((tag, result: Model, reader) => {
      if (tag === 1) result.pieces.push(reader.readMessage(piece, { text: '', score: 0, kind: 1 }));
      else if (tag === 2) reader.readMessage(trainer, result);
      else if (tag === 3) reader.readMessage(normalizer, result);
    }, model);
  } catch (error) {
    throw mistake({ where: path, problem: `not a SentencePiece model: ${(error as Error).message}` });
  }
  if (model.pieces.length === 0)
    throw mistake({ where: path, problem: 'not a SentencePiece model: it holds no pieces' });
  return model;
}
