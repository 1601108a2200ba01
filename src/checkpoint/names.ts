/**
 * Weight names. neva's own are those of llava-hf's files (the "old" layout, up to transformers 4.51):
 *
 *     language_model.model.…   language_model.lm_head.weight   multi_modal_projector.linear_1.…   vision_tower.vision_model.…
 *
 * No rule contradicts another, so a file's layout need not be known to read it.
 */

export type Part = 'llm' | 'vision' | 'projector';

/** What a name in a file stands for: a weight under its own name, or one that is left out, with the reason. */
export type Reading = { name: string; part: Part } | { dropped: string } | null;

const LLM_BODY = '(?:embed_tokens\\.|embed_positions\\.|layers\\.|norm\\.)';
const TOWER_BODY = '(?:embeddings\\.|encoder\\.|pre_layrnorm\\.|post_layernorm\\.)';

const OTHER_HALF = 'the text half of CLIP';

/** First match wins. */
const DROPPED: readonly [RegExp, string][] = [
  [/\.rotary_emb\.inv_freq$/, 'computed from rotary_base'],
  [/\bembeddings\.position_ids$/, 'a counting buffer'],
  [/^(?:text_model|text_projection|visual_projection|logit_scale)\b/, OTHER_HALF],
];

/** What stands before the body of a part, in every layout known: [pattern, own prefix, part]. */
const RULES: readonly [RegExp, string, Part][] = [
  // Hugging Face old; new (transformers ≥ 4.52); LLaVA original and plain LLaMA; LlamaModel without a head.
  [
    new RegExp(`^(?:language_model\\.model\\.|model\\.language_model\\.|model\\.|)(?=${LLM_BODY})`),
    'language_model.model.',
    'llm',
  ],
  [/^(?:language_model\.)?(?=lm_head\.weight$)/, 'language_model.', 'llm'],
  // LLaVA original; new; old; CLIP; then the same as transformers 5 saves them, without `vision_model.`.
  [
    new RegExp(
      `^(?:model\\.vision_tower\\.vision_tower\\.vision_model\\.|(?:model\\.)?vision_tower\\.vision_model\\.|vision_model\\.|` +
        `(?:model\\.)?vision_tower\\.|)(?=${TOWER_BODY})`,
    ),
    'vision_tower.vision_model.',
    'vision',
  ],
  [/^(?:model\.)?multi_modal_projector\.(?=linear_\d+\.(?:weight|bias)$)/, 'multi_modal_projector.', 'projector'],
  // LLaVA's linear projector, as opposed to its Sequential below.
  [/^(?:model\.)?mm_projector\.(?=(?:weight|bias)$)/, 'multi_modal_projector.linear_1.', 'projector'],
];

/** Members of LLaVA's nn.Sequential: linear, gelu, linear, …, so that member 2(n−1) is our linear_n. */
const SEQUENTIAL = /^(?:model\.)?mm_projector\.(\d*[02468])\.(weight|bias)$/;

/** Reads a name from any of LLaVA's layouts, plain LLaMA, plain CLIP or a projector file; null when it is none of them. */
export function readName(name: string): Reading {
  for (const [pattern, why] of DROPPED) if (pattern.test(name)) return { dropped: why };
  const member = SEQUENTIAL.exec(name);
  if (member !== null) {
    return { name: `multi_modal_projector.linear_${Number(member[1]) / 2 + 1}.${member[2]}`, part: 'projector' };
  }
  for (const [pattern, prefix, part] of RULES) {
    if (pattern.test(name)) return { name: name.replace(pattern, prefix), part };
  }
  return null;
}

/** The part of an own name. */
export function partOf(ownName: string): Part {
  if (ownName.startsWith('language_model.')) return 'llm';
  if (ownName.startsWith('vision_tower.')) return 'vision';
  if (ownName.startsWith('multi_modal_projector.')) return 'projector';
  throw new Error(`${ownName} is no weight name of neva's`);
}

/** Whether a weight, by its own name, has a row a token. */
export const isVocabulary = (ownName: string): boolean =>
  /^language_model\.(?:model\.embed_tokens|lm_head)\.weight$/.test(ownName);

/** Layouts that can be written. `hf` is neva's own; `part` are plain LLaMA, plain CLIP and LLaVA's mm_projector file. */
export type Layout = 'hf' | 'hf-new' | 'llava' | 'part';

const WRITTEN: Record<Exclude<Layout, 'hf'>, readonly [RegExp, string][]> = {
  'hf-new': [
    [/^language_model\.lm_head\./, 'lm_head.'],
    [/^language_model\.model\./, 'model.language_model.'],
    [/^vision_tower\./, 'model.vision_tower.'],
    [/^multi_modal_projector\./, 'model.multi_modal_projector.'],
  ],
  llava: [
    [/^language_model\./, ''],
    [/^vision_tower\./, 'model.vision_tower.vision_tower.'],
  ],
  part: [
    [/^language_model\./, ''],
    [/^vision_tower\./, ''],
  ],
};

/**
 * An own name as another layout spells it.
 * `linearProjector`: the projector has one layer, which LLaVA writes without a number.
 */
export function writeName(ownName: string, layout: Layout, linearProjector = false): string {
  if (layout === 'hf') return ownName;
  const layer = /^multi_modal_projector\.linear_(\d+)\.(weight|bias)$/.exec(ownName);
  if (layer !== null && layout !== 'hf-new') {
    return linearProjector
      ? `model.mm_projector.${layer[2]}`
      : `model.mm_projector.${2 * (Number(layer[1]) - 1)}.${layer[2]}`;
  }
  for (const [pattern, prefix] of WRITTEN[layout]) if (pattern.test(ownName)) return ownName.replace(pattern, prefix);
  return ownName;
}
