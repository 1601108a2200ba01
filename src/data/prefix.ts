/**
 * The dummy prefix of SentencePiece-style tokenizers: where `▁` is put before a text that does not begin a word itself.
 * neva takes the prefix out of the tokenizer's own pipeline and decides it per segment.
 */

/** `always`: before every stretch of text between special tokens; `first`: only before the first; `never`. */
export interface PrefixRule {
  scheme: 'always' | 'first' | 'never';
  /** No second `▁` where the text begins with a space (Metaspace); SentencePiece proper adds one all the same. */
  unlessPresent: boolean;
}

interface Component {
  type: string;
  [key: string]: unknown;
}

export interface TokenizerJson {
  model: { type?: string; vocab?: unknown; merges?: (string | [string, string])[]; [key: string]: unknown };
  normalizer: Component | null;
  pre_tokenizer: Component | null;
  [key: string]: unknown;
}

const MARK = '▁';

/**
 * How this tokenizer prefixes. As transformers 5 chooses: for LLaMA's class the `legacy` key of tokenizer_config.json decides
 * (true: always; false or absent: first) and `add_prefix_space: false` means never, whatever tokenizer.json says; for other
 * classes tokenizer.json does.
 */
export function prefixRule(json: TokenizerJson, config: Record<string, unknown>): PrefixRule {
  const prepends = components(json.normalizer, 'normalizers').some((part) => part.type === 'Prepend');
  const metaspace = components(json.pre_tokenizer, 'pretokenizers').find((part) => part.type === 'Metaspace');
  if (!prepends && !metaspace) return { scheme: 'never', unlessPresent: true };
  if (/^LlamaTokenizer/.test(String(config.tokenizer_class ?? ''))) {
    if (config.add_prefix_space === false) return { scheme: 'never', unlessPresent: true };
    return { scheme: config.legacy === true ? 'always' : 'first', unlessPresent: true };
  }
  if (prepends) return { scheme: 'always', unlessPresent: false };
  // Before `prepend_scheme` came, `add_prefix_space` said the same.
  const old = metaspace?.add_prefix_space === false ? 'never' : 'always';
  return { scheme: (metaspace?.prepend_scheme ?? old) as PrefixRule['scheme'], unlessPresent: true };
}

/**
 * The same tokenizer without its prefix. Where no merge reaches across the start of a word, the text is also cut into words
 * first: the same ids, and the BPE's cache then works (whole conversations never repeat, words do).
 */
export function withoutPrefix(json: TokenizerJson): TokenizerJson {
  const normalizers = components(json.normalizer, 'normalizers').filter((part) => part.type !== 'Prepend');
  const preTokenizers = components(json.pre_tokenizer, 'pretokenizers').map((part) =>
    part.type === 'Metaspace' ? { ...part, prepend_scheme: 'never', add_prefix_space: false } : part,
  );
  const marked = JSON.stringify([normalizers, preTokenizers]).includes(MARK);
  if (marked && json.model.type === 'BPE' && !mergesCrossWords(json.model.merges ?? [])) {
    preTokenizers.push({
      type: 'Split',
      pattern: { Regex: `${MARK}+[^${MARK}]*|[^${MARK}]+` },
      invert: true,
      behavior: 'Removed',
    });
  }
  return {
    ...json,
    normalizer: sequence(normalizers, 'normalizers'),
    pre_tokenizer: sequence(preTokenizers, 'pretokenizers'),
  };
}

function mergesCrossWords(merges: readonly (string | [string, string])[]): boolean {
  return merges.some((merge) => {
    const piece = typeof merge === 'string' ? merge.replace(' ', '') : merge[0] + merge[1];
    return piece.replace(/^▁+/, '').includes(MARK);
  });
}

function components(part: Component | null, list: string): Component[] {
  if (part === null || part === undefined) return [];
  return part.type === 'Sequence' ? (part[list] as Component[]) : [part];
}

function sequence(parts: Component[], list: string): Component | null {
  if (parts.length === 0) return null;
  return parts.length === 1 ? (parts[0] as Component) : { type: 'Sequence', [list]: parts };
}
