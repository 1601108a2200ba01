/** Padding and added tokens of the vocabulary in checkpoints. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { convert } from '../../src/checkpoint/convert.ts';
import { type CheckpointState, restore } from '../../src/checkpoint/folder.ts';
import { openWhole, referTo } from '../../src/checkpoint/parts.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { saveCheckpoint } from '../../src/checkpoint/write_folder.ts';
import { isUserError } from '../../src/errors.ts';
import { NevaModel } from '../../src/model/neva.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { fixture } from '../support/fixtures.ts';
import { gptModel } from '../support/gpt.ts';
import { referenceInput } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const root = mkdtempSync(join(tmpdir(), 'neva-vocabulary-'));
after(() => rmSync(root, { recursive: true }));
const input = referenceInput(engine);

const state: CheckpointState = {
  format: 1,
  stage: 'finetune',
  step: 2,
  epoch: 0,
  consumedSamples: 6,
  valLoss: null,
  loss: null,
  rng: '',
  seed: 1,
  template: 'v1',
  templateCompat: 'llava',
  imageAspect: 'pad',
  useImStartEnd: false,
  additionalTokens: [],
  frozen: [],
};

function stage(paddedVocabSize: number) {
  const model = gptModel(engine, 'nemotron', { change: (shape) => ({ ...shape, paddedVocabSize }) });
  for (const parameter of model.parameters) parameter.trainable = model.llm.parameters.includes(parameter);
  const options = { betas: [0.9, 0.95] as [number, number], eps: 1e-8, weightDecay: 0.1, clip: 1 };
  const optimizer = new Optimizer(engine, model.llm.parameters, options);
  const steps = (from: number, to: number) =>
    Array.from({ length: to - from }, (_, i) => {
      const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / input.labelRows.length));
      optimizer.step(from + i + 1, 1e-3);
      return engine.item(loss);
    });
  return { model, optimizer, steps };
}

test('padding is not saved, and a run goes on with another padding as if nothing had been', () => {
  const whole = stage(128);
  const uninterrupted = whole.steps(0, 5);
  const begun = stage(128);
  assert.deepEqual(begun.steps(0, 2), uninterrupted.slice(0, 2));
  let folder = '';
  begun.optimizer.withWhole((optimizer) => {
    const { shape, llm, projector } = begun.model;
    const parameters = [...llm.parameters, ...projector.parameters];
    folder = saveCheckpoint(engine, join(root, 'padded'), { state, shape, parameters, optimizer, files: [] });
  });
  for (const file of ['model.safetensors', 'optimizer.safetensors']) {
    const { entries } = readSafetensors(join(folder, file));
    const rows = [...entries].flatMap(([name, { shape }]) => (/embed_tokens|lm_head/.test(name) ? [shape[0]] : []));
    assert.deepEqual(new Set(rows), new Set([96]), file);
  }
  assert.equal(openWeights(folder).config!.llm!.vocabSize, 96);
  assert.equal(openWeights(folder).config!.llm!.paddedVocabSize, undefined);

  for (const padded of [128, 104, 96]) {
    const again = stage(padded);
    restore(engine, folder, again.model.llm.parameters, new Map());
    again.optimizer.load((moments) => restore(engine, folder, [], moments));
    for (const [i, loss] of again.steps(2, 5).entries()) {
      assert.ok(Math.abs(loss / uninterrupted[2 + i]! - 1) < 1e-6, `${padded} rows, step ${i + 3}: ${loss}`);
    }
  }
  const other = gptModel(engine, 'nemotron', {
    change: (shape) => ({ ...shape, vocabSize: 99, paddedVocabSize: 104 }),
  });
  assert.throws(
    () => restore(engine, folder, other.llm.parameters, new Map()),
    (error: unknown) => isUserError(error) && /expected: \[99, 48\]\s+found: {4}\[96, 48\]/.test(error.message),
  );
});

test('tokens that were added to a frozen language model are made again from its files', () => {
  const change = (shape: NevaShape['llm']) => ({ ...shape, vocabSize: 99 });
  const trained = gptModel(engine, 'nemotron', { change });
  const frozen = [
    referTo('llm', openWeights(fixture('gpt/nemotron'))),
    referTo('vision', openWeights(fixture('llava/vision'))),
  ];
  const { shape, projector } = trained;
  const content = {
    state: { ...state, frozen },
    shape,
    parameters: projector.parameters,
    optimizer: new Map(),
    files: [],
  };
  const folder = saveCheckpoint(engine, join(root, 'frozen'), content);
  const loaded = (path: string) => {
    const { config, parts } = openWhole(path);
    const sources = {
      llm: parts.llm!.source(engine, 'llm'),
      projector: parts.projector!.source(engine, 'projector'),
      vision_encoder: parts.vision!.source(engine, 'vision'),
    };
    return new NevaModel(engine, config as NevaShape, { sources });
  };
  const logits = (model: NevaModel) => engine.read(model.logits(input, input.labelRows));
  assert.deepEqual(logits(loaded(folder)), logits(trained));

  const out = join(root, 'converted');
  const { notes } = convert({ from: folder, to: 'hf', out, part: 'all', dtype: null, tp: 1, pp: 1 });
  assert.match(notes.join(), /3 tokens/);
  assert.equal(openWhole(out).config!.llm!.vocabSize, 96);
  const { vocabSize } = loaded(out).shape.llm;
  assert.equal(vocabSize, 96, 'it has the tokens that its embedding has');
});

test('weights of fewer rows than their own configuration says are refused, not filled up', () => {
  const whole = openWeights(fixture('gpt/nemotron'));
  const source = { ...whole.source(engine, 'llm'), vocabSize: 90 };
  const shape = { ...whole.config!.llm!, vocabSize: 99 };
  const vision = openWeights(fixture('llava/model')).config!.vision!;
  assert.throws(
    () =>
      new NevaModel(
        engine,
        { llm: shape, vision, projector: { type: 'linear', inputSize: 32, outputSize: 48 } },
        { sources: { llm: source } },
      ),
    (error: unknown) => isUserError(error) && /embed_tokens\.weight +\[90, 48\] +\[96, 48\]/.test(error.message),
  );
});
