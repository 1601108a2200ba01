/** What neva converts to Hugging Face's layouts, transformers loads, and computes the same with. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type ConvertOptions, convert } from '../../src/checkpoint/convert.ts';
import { packageRoot } from '../../src/root.ts';
import { fixture } from '../support/fixtures.ts';

const root = mkdtempSync(join(tmpdir(), 'neva-transformers-'));
after(() => rmSync(root, { recursive: true }));
const model = fixture('llava/model');
const python = spawnSync('python3', ['-c', 'import transformers']).status === 0;

let made = 0;
function converted(options: Partial<ConvertOptions>): string {
  const out = join(root, String(made++));
  convert({ from: model, to: 'hf', out, part: 'all', dtype: null, tp: 1, pp: 1, ...options });
  return out;
}

test('whole and in parts, in one file and in shards, by way of NeMo', { skip: !python && 'no transformers' }, () => {
  const nemo = converted({ to: 'nemo', part: 'llm', tp: 2, pp: 1 });
  const folders = [
    converted({}),
    converted({ to: 'hf-new' }),
    converted({ maxShardBytes: 60_000 }),
    converted({ to: 'hf-new', maxShardBytes: 100_000 }),
    converted({ from: converted({ to: 'llava' }) }),
    converted({ part: 'llm' }),
    converted({ part: 'llm', maxShardBytes: 30_000 }),
    converted({ part: 'vision' }),
    converted({ from: nemo, part: 'llm' }),
  ];
  const said = execFileSync('python3', [join(packageRoot, 'test/tools/check_hf.py'), model, ...folders], {
    encoding: 'utf8',
  });
  assert.equal(said.trim().split('\n').length, folders.length);
});
