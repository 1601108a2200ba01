import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, describe, it } from 'node:test';
import sharp from 'sharp';
import { type Bundle, bundle } from '../../data/demo/make/bundle.ts';
import { png, rasterize } from '../../data/demo/make/picture.ts';
import { examples, type LlavaRecord, type QuestionLine } from '../../data/demo/make/records.ts';
import { isHeldOut, signature } from '../../data/demo/make/world.ts';
import { packageRoot } from '../../src/root.ts';
import { answer, describes, look, type Seen } from './look.ts';

const demo = join(packageRoot, 'data', 'demo');
const json = (name: string): LlavaRecord[] => JSON.parse(readFileSync(join(demo, name), 'utf8'));
const pretrain = json('pretrain.json');
const finetune = json('finetune.json');
const heldOutLines: QuestionLine[] = readFileSync(join(demo, 'heldout.jsonl'), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line));

/** Question and answer pairs of a record. */
function turns({ conversations }: LlavaRecord): [question: string, answer: string][] {
  return conversations.flatMap(({ from, value }, i) =>
    from === 'human' ? [[value.replace('<image>\n', ''), conversations[i + 1]!.value] as [string, string]] : [],
  );
}

describe('the demo world', () => {
  let made: Bundle;
  const seen = new Map<string, Seen[]>();
  before(async () => {
    made = bundle();
    for (const name of made.pictures.keys()) seen.set(name, await look(join(demo, 'images', name)));
  });

  it('is made again exactly: every text, and a sample of the pictures', async () => {
    for (const [name, text] of made.texts) assert.ok(readFileSync(join(demo, name), 'utf8') === text, name);
    // Pixels are compared with what is committed and bytes between two runs: another processor or version of sharp
    // may pack the same pixels differently.
    for (const [name, scene] of [...made.pictures].filter((_, i) => i % 27 === 0)) {
      const pixels = await sharp(join(demo, 'images', name))
        .raw()
        .toBuffer();
      assert.deepEqual(new Uint8Array(pixels), rasterize(scene), name);
      assert.deepEqual(await png(scene), await png(scene), name);
    }
  });

  it('has a picture for every record, and a record for every picture', () => {
    const named = new Set([...pretrain, ...finetune, ...heldOutLines].map((r) => r.image!));
    const there = ['train', 'heldout'].flatMap((s) => readdirSync(join(demo, 'images', s)).map((f) => `${s}/${f}`));
    assert.deepEqual([...named].sort(), there.sort());
    assert.equal(there.length, 1620);
  });

  it('keeps held-out scenes out of training', () => {
    const trained = new Set(made.train.map((e) => signature(e.scene)));
    assert.equal(trained.size, 1500);
    assert.ok(made.train.every((e) => !isHeldOut(e.scene)));
    assert.ok(made.heldOut.every((h) => isHeldOut(h.scene) && !trained.has(signature(h.scene))));
    assert.equal(new Set(made.heldOut.map((h) => signature(h.scene))).size, 120);
    let drawn = 0;
    for (const { scene } of examples(7)) {
      assert.ok(!isHeldOut(scene));
      if (++drawn === 2000) break;
    }
  });

  it('says what the pixels show', () => {
    for (const record of pretrain) {
      const caption = record.conversations[1]!.value;
      assert.ok(describes(caption, seen.get(record.image!)!), `${record.id}: ${caption}`);
    }
    for (const record of finetune) {
      for (const [question, said] of turns(record)) {
        const things = seen.get(record.image!)!;
        if (question.includes('picture')) assert.ok(describes(said, things), `${record.id}: ${said}`);
        else assert.equal(said, answer(question, things), `${record.id}: ${question}`);
      }
    }
    for (const { image, prompt, answer: said } of heldOutLines) assert.equal(said, answer(prompt, seen.get(image)!));
  });

  it('asks five to ten questions a record, none twice', () => {
    for (const record of finetune) {
      const asked = turns(record).map(([question]) => question);
      assert.ok(asked.length >= 5 && asked.length <= 10 && new Set(asked).size === asked.length, record.id);
      assert.equal(record.conversations.filter((c) => c.value.includes('<image>')).length, 1, record.id);
    }
  });

  it('cannot be answered without looking', () => {
    const answersTo = new Map<string, Map<string, number>>();
    const count = (table: Map<string, number>, key: string) => table.set(key, (table.get(key) ?? 0) + 1);
    for (const [question, said] of finetune.flatMap(turns)) {
      if (!answersTo.has(question)) answersTo.set(question, new Map());
      count(answersTo.get(question)!, said);
    }
    const usual = (table?: Map<string, number>) => [...(table ?? [])].sort((a, b) => b[1] - a[1])[0]?.[0];
    const guessed = heldOutLines.filter((l) => usual(answersTo.get(l.prompt)) === l.answer).length;
    assert.ok(guessed / heldOutLines.length < 0.35, `the usual answer to each question is right ${guessed} times`);
    const yes = finetune.flatMap(turns).filter(([, said]) => said === 'yes').length;
    const no = finetune.flatMap(turns).filter(([, said]) => said === 'no').length;
    assert.ok(Math.abs(yes - no) < 0.02 * (yes + no), `${yes} yes, ${no} no`);
  });
});
