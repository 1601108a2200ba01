import { readFileSync } from 'node:fs';
import { mistake } from '../errors.ts';

/**
 * The first key that an object in this JSON text has twice, or null. JSON.parse keeps the last one silently, which lets
 * two readers of one file see different tensors. The text must already have been accepted by JSON.parse.
 */
export function duplicateKey(text: string): string | null {
  const seen: (Set<string> | null)[] = []; // one entry an open bracket: keys of an object, null for a list
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{') seen.push(new Set());
    else if (c === '[') seen.push(null);
    else if (c === '}' || c === ']') seen.pop();
    else if (c === '"') {
      const start = i;
      for (i++; text[i] !== '"'; i++) if (text[i] === '\\') i++;
      let next = i + 1;
      while (' \t\r\n'.includes(text[next] ?? 'x')) next++;
      if (text[next] !== ':') continue; // a value
      const key: string = JSON.parse(text.slice(start, i + 1));
      const keys = seen.at(-1);
      if (keys?.has(key)) return key;
      keys?.add(key);
    }
  }
  return null;
}

/** A JSON file that must hold an object; anything else is a user error naming the file. */
export function readJsonObject(file: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    throw mistake({ where: file, problem: 'cannot be read as JSON', found: (error as Error).message });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw mistake({ where: file, problem: 'must hold a JSON object', found: JSON.stringify(value).slice(0, 80) });
  }
  return value as Record<string, unknown>;
}
