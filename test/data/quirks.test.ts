/**
 * `template_compat: llava | nemo` against the training code of LLaVA and NeMo itself, llama_3 against transformers
 * (test/tools/data_quirks.py).
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { encodeRecord } from '../../src/data/example.ts';
import { type Compat, findTemplate, IMAGE_TAG, type Turn } from '../../src/data/templates.ts';
import { loadTokenizer } from '../../src/data/tokenizer.ts';
import { packageRoot } from '../../src/root.ts';

const fixtures = join(packageRoot, 'test', 'fixtures', 'data');

interface Row {
  compat: Compat;
  tokenizer: string;
  /** LLaVA's mm_use_im_start_end. */
  brackets?: boolean;
  /** NeMo's sep_image_conv_front. */
  front?: boolean;
  template: string;
  turns: ['human' | 'gpt', string][];
  system?: string | null;
  /** SteerLM's attribute line of each turn. */
  attributes?: (string | null)[];
  /** Added to the vocabulary. */
  tokens?: string[];
  ids: number[];
  labels: number[];
}
const { rows } = JSON.parse(readFileSync(join(fixtures, 'quirks.json'), 'utf8')) as { rows: Row[] };

function encode(row: Row, featuresPerImage = 1) {
  const turns = row.turns.map(
    ([from, text], at): Turn => ({ from, text, ...(row.attributes?.[at] ? { label: row.attributes[at] } : {}) }),
  );
  const images = turns.flatMap(({ text }) => text.split(IMAGE_TAG).slice(1));
  const tokenizer = loadTokenizer(
    join(fixtures, `tokenizer-${row.tokenizer}`),
    row.brackets ? ['<im_start>', '<im_end>'] : row.tokens,
  );
  const { ids, labels, imageStarts } = encodeRecord(
    { index: 0, id: '0', images, turns, ...(row.system ? { system: row.system } : {}) },
    findTemplate(row.template, row.compat),
    tokenizer,
    {
      maxLength: 4096,
      featuresPerImage,
      useImStartEnd: row.brackets === true,
      imageToFront: row.front === true,
    },
    'record',
  );
  for (const start of imageStarts) ids[start] = -200;
  return { ids: [...ids], labels: [...labels] };
}

const groups = new Map<string, Row[]>();
for (const row of rows) {
  const name = `${row.compat} ${row.template}${row.brackets ? ' with start and end tokens' : ''}${row.front ? ' with the image in front' : ''}`;
  groups.set(name, [...(groups.get(name) ?? []), row]);
}
for (const [name, group] of groups) {
  test(`${name}: ids and labels are those of the original's code`, () => {
    for (const row of group) {
      const where = JSON.stringify([row.tokenizer, row.turns]);
      if (row.labels.every((label) => label === -100)) {
        // What it learns nothing from is reported here.
        assert.throws(() => encode(row), { kind: 'no_labels' }, where);
        continue;
      }
      assert.deepEqual(encode(row), { ids: row.ids, labels: row.labels }, where);
    }
  });
}

test('the originals lose labels that the default keeps', () => {
  const lost = rows.filter(({ compat, labels }) => compat === 'llava' && labels.every((label) => label === -100));
  assert.ok(lost.length > 10);
  for (const row of lost) {
    const kept = encode({ ...row, compat: 'default' });
    assert.ok(kept.labels.some((label) => label !== -100));
  }
});

test('labels are counted alike however many positions an image takes', () => {
  for (const row of rows.filter(({ ids, labels }) => ids.includes(-200) && labels.some((label) => label !== -100))) {
    const one = encode(row);
    const many = encode(row, 5);
    assert.deepEqual(
      many.labels.filter((label) => label !== -100),
      one.labels.filter((label) => label !== -100),
    );
    many.labels.forEach((label, at) => {
      if (label !== -100) assert.equal(label, many.ids[at]);
    });
  }
});
