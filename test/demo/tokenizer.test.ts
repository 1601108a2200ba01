import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { Tokenizer } from '@huggingface/tokenizers';
import type { LlavaRecord } from '../../data/demo/make/records.ts';
import { packageRoot } from '../../src/root.ts';

const read = (...path: string[]) => JSON.parse(readFileSync(join(packageRoot, ...path), 'utf8'));

interface Reference {
  conversations: { count: number; sha256: string };
  turns: { count: number; sha256: string };
  samples: { text: string; ids: number[]; decoded: string }[];
}
/** What Python's tokenizers makes of the same texts; written by test/tools/demo_tokenizer.py. */
const reference: Reference = read('test', 'fixtures', 'demo', 'tokenizer.json');
const json = read('data', 'demo', 'llm', 'tokenizer.json');
const tokenizer = new Tokenizer(json, read('data', 'demo', 'llm', 'tokenizer_config.json'));
const SYSTEM = reference.samples[0]!.text;
const records: LlavaRecord[] = ['pretrain', 'finetune', 'heldout'].flatMap((name) =>
  read('data', 'demo', `${name}.json`),
);

function digest(texts: string[]): string {
  return createHash('sha256')
    .update(texts.map((text) => tokenizer.encode(text).ids.join(' ')).join('\n'))
    .digest('hex');
}

describe("the demo's tokenizer", () => {
  it('gives Python’s ids for every turn and every whole conversation of the demo', () => {
    const values = records.map((r) => r.conversations.map((c) => c.value.replace('<image>', '')));
    const texts = values.map((turns) => {
      const rounds = turns.map((value, i) => (i % 2 === 0 ? `USER: ${value} ASSISTANT: ` : `${value}</s>`));
      return `${SYSTEM} ${rounds.join('')}`;
    });
    assert.equal(texts.length, reference.conversations.count);
    assert.equal(values.flat().length, reference.turns.count);
    assert.equal(digest(values.flat()), reference.turns.sha256);
    assert.equal(digest(texts), reference.conversations.sha256);
  });

  it('gives Python’s ids and texts for samples, odd ones among them', () => {
    for (const { text, ids, decoded } of reference.samples) {
      assert.deepEqual(tokenizer.encode(text).ids, ids, JSON.stringify(text));
      assert.equal(tokenizer.decode(ids, { skip_special_tokens: true }), decoded, JSON.stringify(text));
    }
  });

  it('is small, and has LLaMA’s special tokens and bytes where LLaMA has them', () => {
    assert.equal(Object.keys(json.model.vocab).length, 512);
    assert.deepEqual(
      ['<unk>', '<s>', '</s>', '<0x00>', '<0xFF>'].map((t) => tokenizer.token_to_id(t)),
      [0, 1, 2, 3, 258],
    );
    assert.ok(tokenizer.encode(SYSTEM, { add_special_tokens: false }).ids.length <= 40);
    const questions = records
      .filter((r) => r.id.startsWith('heldout'))
      .map((r) => r.conversations.map((c) => c.value.replace('<image>\n', '')));
    for (const [question, answer] of questions) {
      const before = tokenizer.encode('</s>').ids.length;
      const turn = tokenizer.encode(`</s>USER: ${question} ASSISTANT: ${answer}</s>`).ids.length - before;
      assert.ok(turn <= 20, `${question} ${answer}: ${turn} tokens`);
    }
  });
});
