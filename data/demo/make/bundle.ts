/** What stands in data/demo: file names and contents, without writing them. */
import {
  captionRecord,
  type Example,
  examples,
  type HeldOut,
  heldOut,
  jsonLines,
  type QuestionLine,
  questionRecord,
  record,
} from './records.ts';
import type { Scene } from './world.ts';

export const SEED = 1;
export const TRAIN_PICTURES = 1500;
export const HELD_OUT_PICTURES = 120;

export interface Bundle {
  train: Example[];
  heldOut: HeldOut[];
  /** Contents by file name. */
  texts: Map<string, string>;
  /** Scenes by the name of their picture under images/. */
  pictures: Map<string, Scene>;
}

export function bundle(): Bundle {
  const train: Example[] = [];
  for (const example of examples(SEED, { distinct: true })) {
    train.push(example);
    if (train.length === TRAIN_PICTURES) break;
  }
  const held = heldOut(SEED, HELD_OUT_PICTURES);
  const lines: QuestionLine[] = held.flatMap(({ questions }, i) =>
    questions.map(({ category, prompt, answer }, j) => ({
      question_id: `${name('heldout', i)}-${j}`,
      image: file('heldout', i),
      prompt,
      answer,
      category,
    })),
  );
  const texts = new Map([
    ['pretrain.json', jsonLines(train.map((e, i) => captionRecord(name('train', i), file('train', i), e)))],
    ['finetune.json', jsonLines(train.map((e, i) => questionRecord(name('train', i), file('train', i), e)))],
    ['heldout.json', jsonLines(lines.map((l) => record(l.question_id, '<image>', [l], l.image)))],
    ['heldout.jsonl', lines.map((l) => `${JSON.stringify(l)}\n`).join('')],
  ]);
  const pictures = new Map([
    ...train.map(({ scene }, i) => [file('train', i), scene] as const),
    ...held.map(({ scene }, i) => [file('heldout', i), scene] as const),
  ]);
  return { train, heldOut: held, texts, pictures };
}

function number(index: number): string {
  return String(index).padStart(4, '0');
}

function name(split: string, index: number): string {
  return `${split}-${number(index)}`;
}

function file(split: string, index: number): string {
  return `${split}/${number(index)}.png`;
}
