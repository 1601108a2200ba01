/** `neva evaluate`: how well a model knows a data set with answers. Nothing is learned from it. */
import type { NevaConfig } from '../config/index.ts';
import { collate, type Sample } from '../data/collate.ts';
import type { DataRecord } from '../data/parse-record.ts';
import { SampleSource } from '../data/source.ts';
import type { Engine } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import type { NevaModel } from '../model/neva.ts';
import { answerer, type Question } from './answer.ts';
import { openModel } from './load.ts';

export interface EvaluateRequest {
  /** Only so many records, from the first on. */
  limit: number | null;
  /** False leaves out the answers that the model gives by itself: loss and token accuracy only. */
  answers: boolean;
  /** Told of every answer. */
  onAnswer?: (answer: GivenAnswer) => void;
  /** Told after every record. */
  progress?: (done: number, total: number) => void;
}

export interface GivenAnswer {
  record: number;
  id: string;
  prompt: string;
  answer: string;
  text: string;
  exact: boolean;
}

export interface Evaluation {
  model: string;
  data: string;
  records: number;
  /** Labelled positions, as in training. */
  label_tokens: number;
  /** Mean cross-entropy over them, given all that stands before each; null where there is none. */
  loss: number | null;
  perplexity: number | null;
  /** Share of them whose likeliest token is the right one. */
  token_accuracy: number | null;
  /** Answers asked for: one for each assistant turn, after the turns as the data have them. */
  answers: number;
  /** Share of the answers that are the data's, letter by letter but for white space around them. */
  exact_match: number | null;
}

/** Throws a user error for a record that training would refuse. */
export async function evaluate(config: NevaConfig, request: EvaluateRequest): Promise<Evaluation> {
  const { data_path: dataPath, image_folder: imageFolder } = config.model.data;
  if (!dataPath) {
    throw mistake({
      where: 'model.data.data_path',
      problem: 'not set: there is nothing to evaluate on',
      fix: 'model.data.data_path=FILE.json model.data.image_folder=FOLDER',
    });
  }
  const { engine, loaded } = await openModel(config, 'evaluate');
  const source = await SampleSource.open({ ...loaded.source, dataPath, imageFolder });
  const answer = answerer(engine, loaded, config.inference);
  const total = Math.min(source.size, request.limit ?? source.size);
  const sums = { loss: 0, labels: 0, right: 0, answers: 0, exact: 0 };
  try {
    for (let index = 0; index < total; index++) {
      const sample = await source.sample(index);
      const known = score(engine, loaded.model, sample, source);
      sums.loss += known.loss;
      sums.labels += known.labels;
      sums.right += known.right;
      const record = source.get(index);
      for (const { question, wanted } of request.answers ? questions(record, sample) : []) {
        const { text } = await answer(question);
        const exact = text === wanted.trim();
        sums.answers += 1;
        sums.exact += exact ? 1 : 0;
        const prompt = question.turns.at(-1)!.text;
        request.onAnswer?.({ record: index, id: record.id, prompt, answer: wanted, text, exact });
      }
      request.progress?.(index + 1, total);
    }
  } finally {
    source.close();
  }
  const share = (part: number, whole: number) => (whole === 0 ? null : part / whole);
  const loss = share(sums.loss, sums.labels);
  return {
    model: loaded.path,
    data: dataPath,
    records: total,
    label_tokens: sums.labels,
    loss,
    perplexity: loss === null ? null : Math.exp(loss),
    token_accuracy: share(sums.right, sums.labels),
    answers: sums.answers,
    exact_match: share(sums.exact, sums.answers),
  };
}

/** Of one record's labelled positions: summed loss, how many, how many whose likeliest token is right. */
function score(engine: Engine, model: NevaModel, sample: Sample, { tokenizer, options }: SampleSource) {
  const { imageSize, featuresPerImage } = options;
  const input = collate([sample], { imageSize, featuresPerImage, padId: tokenizer.padId ?? 0 });
  const { labelRows, labelTargets } = input;
  const { sum, likeliest } = engine.scope(() => {
    const logits = model.logits(input, labelRows); // [M, V]
    const targets = engine.tensor(labelTargets, [labelTargets.length]);
    return { sum: engine.crossEntropy(logits, targets), likeliest: engine.argmax(logits) };
  });
  const [loss, words] = [engine.item(sum), engine.read(likeliest)];
  sum.dispose();
  likeliest.dispose();
  const right = labelTargets.filter((target, i) => words[i] === target).length;
  return { loss, labels: labelTargets.length, right };
}

/** Every assistant turn as a question: the turns before it, and the pictures that they show. */
function* questions(
  { turns, system }: DataRecord,
  { pictures }: Sample,
): Generator<{ question: Question; wanted: string }> {
  for (const [at, turn] of turns.entries()) {
    if (turn.from !== 'gpt' || at === 0) continue;
    const before = turns.slice(0, at);
    const shown = before.reduce((sum, { text }) => sum + text.split('<image>').length - 1, 0);
    const question = { turns: before, images: pictures.slice(0, shown), ...(system === undefined ? {} : { system }) };
    yield { question, wanted: turn.text };
  }
}
