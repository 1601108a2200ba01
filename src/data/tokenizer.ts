/**
 * The text tokenizer of a model's folder: `tokenizer.json` with its `tokenizer_config.json` and `special_tokens_map.json`.
 *
 * neva encodes a conversation segment by segment, so that label masks follow from the segments. What a segment begins with
 * (`Start`) decides whether the tokenizer's dummy prefix `▁` goes before it; see docs/data.md, "Tokenizers".
 */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers';
import { mistake } from '../errors.ts';
import { type PrefixRule, prefixRule, type TokenizerJson, withoutPrefix } from './prefix.ts';
import { fromSentencePiece } from './sentencepiece.ts';

/**
 * What stands before a piece of text: nothing (`text`: also after an image, where LLaVA starts afresh), a special token
 * (`special`), or text of the same sentence (`middle`). `bare`: no prefix at all, not even after special tokens in the text.
 */
export type Start = 'text' | 'special' | 'middle' | 'bare';

export interface EncodeOptions {
  /** Put the beginning-of-text id first. Default false. */
  bos?: boolean;
  /** Default `text`. */
  start?: Start;
}

export interface Tokenizer {
  /** One more than the largest id, added tokens included. */
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly padId: number | null;
  readonly unkId: number | null;
  /** Puts the dummy prefix of SentencePiece before a text. */
  readonly prefixes: boolean;
  /** Puts it after special tokens too (LLaMA's `legacy` behaviour). */
  readonly legacy: boolean;
  /** Puts the beginning-of-text token before a text by itself (`encode` never does, unless told to). */
  readonly addsBos: boolean;
  encode(text: string, options?: EncodeOptions): number[];
  /** Text of the ids. Special tokens are left out unless `special` is true. */
  decode(ids: readonly number[], options?: { special?: boolean }): string;
  /** The id of a token of the vocabulary, or null. */
  tokenId(token: string): number | null;
  /** The token of an id as it stands in the vocabulary, or null. */
  token(id: number): string | null;
}

type JsonObject = Record<string, unknown>;

interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
  lstrip: boolean;
  rstrip: boolean;
}

/**
 * Loads a tokenizer: a folder with tokenizer.json or tokenizer.model, or one of these files itself. `additional` special tokens
 * that it lacks get the ids after its last one. A missing or malformed file is the user's mistake.
 */
export function loadTokenizer(path: string, additional: readonly string[] = []): Tokenizer {
  const file = tokenizerFile(path);
  const folder = dirname(file);
  const config = readOptionalJson(join(folder, 'tokenizer_config.json'));
  const specials = readOptionalJson(join(folder, 'special_tokens_map.json'));
  if (file.endsWith('.model')) {
    const converted = fromSentencePiece(readFileSync(file), file);
    const json = withAdded(withAddedFiles(converted.json, folder, config), additional);
    return makeTokenizer(json, { ...converted.specials, ...present(specials), ...present(config) }, file);
  }
  const json = readJson(file) as unknown as TokenizerJson;
  return makeTokenizer(withAdded(json, additional), { ...specials, ...present(config) }, file);
}

/** tokenizer.json is preferred, as transformers does: it may hold more than tokenizer.model. */
function tokenizerFile(path: string): string {
  if (/\.(json|model)$/.test(path) && existsSync(path)) return path;
  for (const name of ['tokenizer.json', 'tokenizer.model']) {
    if (existsSync(join(path, name))) return join(path, name);
  }
  throw mistake({
    where: path,
    problem: 'no tokenizer here',
    expected: 'a tokenizer.json or tokenizer.model file, or a folder that holds one',
    fix: 'point model.tokenizer.model at the folder of the language model',
  });
}

/** Beside a tokenizer.model, added tokens stand in added_tokens.json or in tokenizer_config.json, with their ids. */
function withAddedFiles(json: TokenizerJson, folder: string, config: JsonObject): TokenizerJson {
  const added = new Map((json.added_tokens as AddedToken[]).map((token) => [token.id, token]));
  const blank = { special: true, normalized: false, lstrip: false, rstrip: false };
  for (const [content, id] of Object.entries(readOptionalJson(join(folder, 'added_tokens.json')))) {
    if (typeof id === 'number') added.set(id, { ...blank, id, content });
  }
  for (const [id, token] of Object.entries(
    (config.added_tokens_decoder ?? {}) as Record<string, Partial<AddedToken>>,
  )) {
    if (typeof token.content === 'string')
      added.set(Number(id), { ...blank, ...token, id: Number(id), content: token.content });
  }
  return { ...json, added_tokens: [...added.values()] };
}

function withAdded(json: TokenizerJson, tokens: readonly string[]): TokenizerJson {
  if (tokens.length === 0) return json;
  const added = [...((json.added_tokens ?? []) as AddedToken[])];
  const known = new Set(added.map(({ content }) => content));
  const vocab = json.model.vocab ?? {};
  const ids = Array.isArray(vocab) ? vocab.map((_, id) => id) : (Object.values(vocab) as number[]);
  let next = 1 + [...ids, ...added.map(({ id }) => id)].reduce((largest, id) => Math.max(largest, id), -1);
  for (const content of tokens) {
    if (known.has(content)) continue;
    const id = Array.isArray(vocab) ? undefined : (vocab as Record<string, number>)[content];
    const token = { id: id ?? next++, content, special: true, normalized: false, lstrip: false, rstrip: false };
    added.push(token);
    known.add(content);
  }
  return { ...json, added_tokens: added };
}

/** A tokenizer from the contents of its files; `where` names it in messages. */
export function makeTokenizer(json: TokenizerJson, config: JsonObject, where: string): Tokenizer {
  const rule = prefixRule(json, config);
  let inner: HfTokenizer;
  try {
    // Cleaning up spaces is an English-only habit of BERT's days; `decode` must give back what was encoded.
    inner = new HfTokenizer(withoutPrefix(json), { ...config, clean_up_tokenization_spaces: false });
  } catch (error) {
    throw mistake({ where, problem: `not a usable tokenizer: ${(error as Error).message}` });
  }
  return new FolderTokenizer(inner, rule, config, json);
}

class FolderTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly padId: number | null;
  readonly unkId: number | null;
  readonly prefixes: boolean;
  readonly legacy: boolean;
  readonly addsBos: boolean;
  readonly #inner: HfTokenizer;
  readonly #rule: PrefixRule;
  readonly #added: RegExp | null;

  constructor(inner: HfTokenizer, rule: PrefixRule, config: JsonObject, json: TokenizerJson) {
    this.#inner = inner;
    this.#rule = rule;
    const id = (key: string) => {
      const token = tokenText(config[key]);
      return token === null ? null : this.tokenId(token);
    };
    this.bosId = id('bos_token');
    this.eosId = id('eos_token');
    this.padId = id('pad_token');
    this.unkId = id('unk_token');
    this.prefixes = rule.scheme !== 'never';
    this.legacy = rule.scheme === 'always';
    this.addsBos = addsBos(json, config);
    let largest = -1;
    for (const value of inner.get_vocab(true).values()) largest = Math.max(largest, value);
    this.vocabSize = largest + 1;
    const contents = [...inner.get_added_tokens_decoder().values()].map((token) => token.content);
    this.#added =
      contents.length === 0 ? null : new RegExp(contents.map(escapeRegExp).sort(longestFirst).join('|'), 'g');
  }

  encode(text: string, { bos = false, start = 'text' }: EncodeOptions = {}): number[] {
    const ids: number[] = [];
    if (bos && this.bosId !== null) ids.push(this.bosId);
    if (text === '') return ids;
    for (const id of this.#encodeText(text, start)) ids.push(id);
    return ids;
  }

  /** Special tokens written out in the text are recognized, as the reference tokenizers do. */
  #encodeText(text: string, start: Start): number[] {
    if (start === 'bare' || this.#rule.scheme === 'never' || this.#added === null) {
      return this.#inner.encode(this.#prefixed(text, start), { add_special_tokens: false }).ids;
    }
    let out = '';
    let from = 0;
    let before = start;
    for (const match of text.matchAll(this.#added)) {
      if (match.index > from) out += this.#prefixed(text.slice(from, match.index), before);
      out += match[0];
      from = match.index + match[0].length;
      before = 'special';
    }
    if (from < text.length) out += this.#prefixed(text.slice(from), before);
    return this.#inner.encode(out, { add_special_tokens: false }).ids;
  }

  #prefixed(text: string, start: Start): string {
    const { scheme, unlessPresent } = this.#rule;
    const wanted =
      scheme === 'always' ? start === 'text' || start === 'special' : scheme === 'first' ? start === 'text' : false;
    return wanted && !(unlessPresent && /^[ ▁]/.test(text)) ? ` ${text}` : text;
  }

  decode(ids: readonly number[], { special = false }: { special?: boolean } = {}): string {
    if (ids.length === 0) return '';
    return this.#inner.decode([...ids], { skip_special_tokens: !special, clean_up_tokenization_spaces: false });
  }

  tokenId(token: string): number | null {
    return this.#inner.token_to_id(token) ?? null;
  }

  token(id: number): string | null {
    return this.#inner.id_to_token(id) ?? null;
  }
}

/** From the post-processor, which transformers follows; `add_bos_token` where it says nothing. */
function addsBos(json: TokenizerJson, config: JsonObject): boolean {
  const single = (json.post_processor as { single?: unknown[] } | null)?.single;
  if (Array.isArray(single) && single.length > 1) return Object.hasOwn(single[0] as object, 'SpecialToken');
  return config.add_bos_token === true;
}

const escapeRegExp = (text: string) => text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&');
const longestFirst = (a: string, b: string) => b.length - a.length;

/** A special token stands in the config as a string or as `{content: string}`. */
function tokenText(value: unknown): string | null {
  if (typeof value === 'string') return value;
  const content = (value as { content?: unknown } | null)?.content;
  return typeof content === 'string' ? content : null;
}

function present(object: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(object).filter(([, value]) => value !== null));
}

function readOptionalJson(path: string): JsonObject {
  return existsSync(path) ? readJson(path) : {};
}

function readJson(path: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw mistake({ where: path, problem: `not readable as JSON: ${(error as Error).message}` });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw mistake({ where: path, problem: 'not a JSON object' });
  }
  return value as JsonObject;
}
