/**
 * Writes more of the same world, for making the tower and the language model:
 *   node dist/data/demo/make/more.js --out FOLDER --seed 2 --count 20000 [--text]
 * With pictures: pretrain.json, finetune.json and images/. With --text, no pictures: text.json, where the scene in
 * words stands in the picture's place, one record of questions and one with the caption for each scene.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { SEED } from './bundle.ts';
import { png } from './picture.ts';
import {
  captionRecord,
  examples,
  jsonLines,
  type LlavaRecord,
  questionRecord,
  textCaptionRecord,
  textRecord,
} from './records.ts';

const { values } = parseArgs({
  options: {
    out: { type: 'string' },
    seed: { type: 'string', default: String(SEED + 1) },
    count: { type: 'string', default: '1000' },
    text: { type: 'boolean', default: false },
  },
});
const [out, seed, count] = [values.out, Number(values.seed), Number(values.count)];
if (out === undefined || !Number.isInteger(seed) || !Number.isInteger(count) || count < 1) {
  console.error('usage: more.js --out FOLDER [--seed N] [--count N] [--text]');
  process.exit(2);
}

mkdirSync(values.text ? out : join(out, 'images'), { recursive: true });
const captions: LlavaRecord[] = [];
const questions: LlavaRecord[] = [];
let index = 0;
for (const example of examples(seed)) {
  const id = String(index).padStart(6, '0');
  if (values.text) {
    captions.push(textCaptionRecord(`${id}-caption`, example));
    questions.push(textRecord(`${id}-questions`, example));
  } else {
    captions.push(captionRecord(id, `${id}.png`, example));
    questions.push(questionRecord(id, `${id}.png`, example));
    writeFileSync(join(out, 'images', `${id}.png`), await png(example.scene));
  }
  if (++index === count) break;
}
if (values.text) {
  const both = captions.flatMap((record, i) => [record, questions[i]!]);
  writeFileSync(join(out, 'text.json'), jsonLines(both));
} else {
  writeFileSync(join(out, 'pretrain.json'), jsonLines(captions));
  writeFileSync(join(out, 'finetune.json'), jsonLines(questions));
}
