import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { countWords, groupingLengths, recordCounts } from '../../src/data/lengths.ts';
import type { DataRecord } from '../../src/data/parse-record.ts';
import { problem } from '../../src/data/problem.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-lengths-'));
after(() => rmSync(folder, { recursive: true }));
const cache = join(folder, 'cache');
const dataPath = join(folder, 'data.json');
writeFileSync(dataPath, '[]');

const record = (index: number, texts: string[], images: string[]): DataRecord => ({
  index,
  id: String(index),
  images,
  turns: texts.map((text, i) => ({ from: i % 2 === 0 ? 'human' : 'gpt', text })),
});

/** Counts how often it is asked. */
function source() {
  const all = [
    record(0, ['<image>\nWhat is it?', ' a  cat '], ['a.png']),
    record(1, ['Hello', 'Good day to you'], []),
    null,
  ];
  return {
    asked: 0,
    size: all.length,
    get(number: number): DataRecord {
      this.asked++;
      const found = all[number];
      if (!found) throw problem('json', { where: 'record 2', problem: 'not valid JSON' });
      return found;
    },
  };
}

test('words are counted as Python’s split counts them', () => {
  for (const [text, words] of [
    ['', 0],
    ['  ', 0],
    ['a', 1],
    [' a\n\tb  c ', 3],
    ['a\u00a0b\u3000c', 3],
  ] as const) {
    assert.equal(countWords(text), words, JSON.stringify(text));
  }
});

test('lengths are words and image positions, negative without a picture, 0 for bad records', () => {
  const counts = recordCounts(source(), [dataPath], null);
  assert.deepEqual([...counts], [6, 1, 5, 0, 0, 0]);
  assert.deepEqual([...groupingLengths(counts, Int32Array.of(2, 0, 1), 16)], [0, 22, -5]);
});

test('they are counted once, and again when the file has changed or the cache is damaged', () => {
  const first = source();
  const counts = recordCounts(first, [dataPath], cache);
  assert.equal(first.asked, 3);
  const second = source();
  assert.deepEqual(recordCounts(second, [dataPath], cache), counts);
  assert.equal(second.asked, 0);
  const [file] = readdirSync(cache);
  writeFileSync(join(cache, file!), 'short');
  recordCounts(second, [dataPath], cache);
  assert.equal(second.asked, 3);
  utimesSync(dataPath, 1, 1);
  recordCounts(second, [dataPath], cache);
  assert.equal(second.asked, 6);
});

test('without a place to write they are counted all the same', () => {
  const blocked = join(dataPath, 'no-folder');
  assert.deepEqual([...recordCounts(source(), [dataPath], blocked)], [6, 1, 5, 0, 0, 0]);
  assert.ok(!existsSync(blocked));
});
