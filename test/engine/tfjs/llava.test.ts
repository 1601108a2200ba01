/** The tiny LLaVA on the tfjs engine: Hugging Face's losses, gradients and tokens, and nothing left behind. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decode } from '../../../src/generate/decode.ts';
import type { LlmShape } from '../../../src/model/shapes.ts';
import { forwardBackward } from '../../../src/train/walk.ts';
import { assertClose } from '../../support/allclose.ts';
import { tensorFile } from '../../support/fixtures.ts';
import { compareWithReference } from '../../support/gpt.ts';
import { greedy, reference, referenceInput, referencePrompt, tinyLlava } from '../../support/llava.ts';
import { tfjsEngine } from '../../support/tfjs.ts';
import { tinyRun } from '../../support/tiny_run.ts';
import { torchEngine } from '../../support/torch.ts';

const engine = await tfjsEngine();
const padded = (shape: LlmShape): LlmShape => ({ ...shape, paddedVocabSize: 104 });
const labels = reference.label_tokens as number;

test('loss and the gradient of every parameter', () => {
  const tensors = tensorFile(engine, 'llava/reference.safetensors');
  const model = tinyLlava(engine);
  const input = referenceInput(engine);
  for (const parameter of model.parameters) parameter.trainable = true;
  const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
  assert.ok(Math.abs(engine.item(loss) / labels / reference.loss - 1) < 1e-5);
  let compared = 0;
  for (const { name, grad } of model.parameters) {
    if (reference.zero_gradients.includes(name)) continue;
    assert.ok(grad, `${name} has a gradient`);
    assertClose(engine.read(grad), tensors.values(`grad.${name}`), { relative: 1e-4 }, name);
    compared += 1;
  }
  assert.ok(compared > 30);
});

for (const name of ['nemotron', 'gpt2', 'nvgpt']) {
  test(`${name}: logits, loss and gradients`, () => compareWithReference(engine, name, { change: padded }));
}

for (const stage of ['pretrain', 'finetune'] as const) {
  test(`10 steps of ${stage} give the losses of Hugging Face and of the torch engine`, () => {
    const { losses, norms, live } = tinyRun(engine, stage, 10);
    const torch = tinyRun(torchEngine(), stage, 10);
    for (const [i, loss] of losses.entries()) {
      const { losses: expected, grad_norms } = reference[stage];
      assert.ok(Math.abs(loss / expected[i] - 1) < 1e-4, `step ${i + 1}: ${loss}, Hugging Face ${expected[i]}`);
      assert.ok(Math.abs(loss / torch.losses[i]! - 1) < 1e-4, `step ${i + 1}: ${loss}, torch ${torch.losses[i]}`);
      assert.ok(Math.abs(norms[i]! / grad_norms[i] - 1) < 1e-3, `norm of step ${i + 1}: ${norms[i]}`);
    }
    assert.deepEqual(new Set(live.slice(1)), new Set([live[1]]), 'live tensors return to their baseline');
  });
}

test('greedy tokens are those of transformers, and the caches are freed', () => {
  const model = tinyLlava(engine);
  const { tokens } = reference.generation;
  const ask = () => decode(engine, model, referencePrompt(engine), { ...greedy, maxTokens: tokens.length });
  assert.deepEqual(ask().tokens, tokens);
  const live = engine.memory().tensors;
  ask();
  assert.equal(engine.memory().tensors, live);
});
