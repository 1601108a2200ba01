import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type DecodeOptions, decode } from '../../src/generate/decode.ts';
import { chooseToken, uniformDraws } from '../../src/generate/sample.ts';
import { tensorFile } from '../support/fixtures.ts';
import { reference, tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const model = tinyLlava(engine);
const {
  prompt,
  image,
  tokens: expected,
} = reference.generation as { prompt: number[]; image: number; tokens: number[] };

const greedy: DecodeOptions = {
  greedy: true,
  temperature: 1,
  topK: 0,
  topP: 1,
  repetitionPenalty: 1,
  maxTokens: expected.length,
  minTokens: 0,
  endId: -1,
  draw: () => 0,
};

function encoded() {
  const pixels = Float32Array.from(tensorFile(engine, 'llava/reference.safetensors').values('pixel_values'));
  const size = 3 * 28 * 28;
  const start = prompt.indexOf(reference.image_token);
  return {
    ids: Int32Array.from(prompt, (id) => (id === reference.image_token ? 0 : id)),
    imageStarts: [start],
    pictures: [pixels.slice(image * size, (image + 1) * size)],
  };
}

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
