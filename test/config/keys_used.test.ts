/** A key that the documentation says works is read somewhere: none is taken in silence. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../src/root.ts';

const sources = join(packageRoot, 'src');
const code = readdirSync(sources, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts') && !name.startsWith('config'))
  .map((name) => readFileSync(join(sources, name), 'utf8'))
  .join('\n');

test('every key that works has a reader', () => {
  const keys = [
    ...readFileSync(join(packageRoot, 'docs/config.md'), 'utf8').matchAll(/^\| `(\w+)` \|.*\| works \|$/gm),
  ];
  assert.ok(keys.length > 150, String(keys.length));
  const unread = keys.map(([, key]) => key!).filter((key) => !new RegExp(`\\b${key}\\b`).test(code));
  // `vars` is for files to refer to; momentum is refused together with the optimizer that would have it.
  assert.deepEqual(unread.sort(), ['momentum', 'vars']);
});
