/** Lists of cached features: a picture that changed stands in two of them, and their names decide nothing. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { FeatureIndex } from '../../src/data/feature_index.ts';
import type { ImageFile } from '../../src/data/image-store.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-index-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const picture = (name: string, size: number, time: number) =>
  ({ name, stamp: () => ({ size, time }) }) as unknown as ImageFile;

test('a changed picture is found by its newest state, whatever the lists are called', () => {
  // A list's name is a hash, so the later one comes first as often as last.
  for (const [before, after] of [
    ['a', 'b'],
    ['b', 'a'],
  ]) {
    const lists = mkdtempSync(join(folder, 'lists-'));
    const write = (list: string, time: number) =>
      writeFileSync(
        join(lists, `${list}.jsonl`),
        `${JSON.stringify({ name: 'cat.png', size: 7, time, file: `${list}.safetensors`, offset: time })}\n`,
      );
    write(before!, 1);
    write(after!, 2);
    const index = new FeatureIndex(lists);
    assert.deepEqual(index.find(picture('cat.png', 7, 2)), { file: join(lists, `${after}.safetensors`), offset: 2 });
    assert.deepEqual(index.find(picture('cat.png', 7, 1)), { file: join(lists, `${before}.safetensors`), offset: 1 });
    assert.equal(index.find(picture('cat.png', 7, 3)), null);
    assert.equal(index.find(picture('cat.png', 8, 2)), null);
    assert.equal(index.find(picture('dog.png', 7, 2)), null);
  }
});
