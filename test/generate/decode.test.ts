import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decode } from '../../src/generate/decode.ts';
import { chooseToken, uniformDraws } from '../../src/generate/sample.ts';
import { greedy, reference, referencePrompt, tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const model = tinyLlava(engine);
const expected = reference.generation.tokens as number[];
const encoded = () => referencePrompt(engine);

test('greedy tokens are those of transformers', () => {
  const live = engine.memory().tensors;
  const result = decode(engine, model, encoded(), greedy);
  assert.deepEqual(result, { tokens: expected, finishReason: 'length' });
  assert.ok(engine.memory().tensors <= live + 2, 'the caches are freed'); // the rotary tables stay
});

test('the end token, an end string and the least length', () => {
  const third = expected[2]!;
  const stop = decode(engine, model, encoded(), { ...greedy, endId: third });
  assert.deepEqual(stop, { tokens: expected.slice(0, 2), finishReason: 'stop' });
  const held = decode(engine, model, encoded(), { ...greedy, endId: third, minTokens: 4 });
  assert.deepEqual(held.tokens.slice(0, 2), expected.slice(0, 2));
  assert.ok(held.tokens.length >= 4 && !held.tokens.slice(0, 4).includes(third));
  const ended = decode(engine, model, encoded(), { ...greedy, ends: (tokens) => tokens.length === 5 });
  assert.deepEqual(ended, { tokens: expected.slice(0, 5), finishReason: 'stop' });
});

test('sampling keeps to top-k and top-p and follows the probabilities', () => {
  const logits = [0, Math.log(6), Math.log(3), Number.NEGATIVE_INFINITY]; // 0.1, 0.6, 0.3, 0
  const sampling = { greedy: false, temperature: 1, topK: 0, topP: 1, repetitionPenalty: 1 };
  const counts = (options: object) => {
    const draw = uniformDraws(1);
    const seen = [0, 0, 0, 0];
    for (let i = 0; i < 20000; i++) seen[chooseToken(logits, [], { ...sampling, ...options }, draw)]! += 1 / 20000;
    return seen;
  };
  const close = (actual: number[], expected: number[]) =>
    actual.forEach((share, i) => {
      assert.ok(Math.abs(share - expected[i]!) < 0.02, `${actual} ≠ ${expected}`);
    });
  close(counts({}), [0.1, 0.6, 0.3, 0]);
  close(counts({ topK: 2 }), [0, 2 / 3, 1 / 3, 0]);
  close(counts({ topP: 0.5 }), [0, 1, 0, 0]);
  close(counts({ topP: 0.7 }), [0, 2 / 3, 1 / 3, 0]);
  close(counts({ temperature: 0.5 }), [1 / 46, 36 / 46, 9 / 46, 0]);
  assert.equal(
    chooseToken([1, 2, 3], [2], { ...sampling, temperature: 1, topK: 1, repetitionPenalty: 4 }, () => 0),
    1,
  );
});
