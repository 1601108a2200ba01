/** The id that stands for a picture in transformers' LLaVA: `image_token_index` of config.json. neva itself needs none. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { readJsonObject } from './json.ts';

/**
 * What the source's config.json says, else the tokenizer's `<image>`, else null: then it is the first id after the vocabulary, where
 * llava-hf's converter adds the token.
 */
export function imageTokenOf(modelFolder: string | null, tokenizerFolder: string | null): number | null {
  const config = modelFolder && join(modelFolder, 'config.json');
  if (config && existsSync(config)) {
    const { image_token_index: index, image_token_id: id } = readJsonObject(config);
    const found = index ?? id;
    if (Number.isSafeInteger(found) && (found as number) >= 0) return found as number;
  }
  const tokenizer = tokenizerFolder && join(tokenizerFolder, 'tokenizer.json');
  if (!tokenizer || !existsSync(tokenizer)) return null;
  const { added_tokens: added } = readJsonObject(tokenizer);
  const token = Array.isArray(added) ? added.find((each) => each?.content === '<image>') : undefined;
  return Number.isSafeInteger(token?.id) ? token.id : null;
}
