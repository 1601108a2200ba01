/**
 * NVGPT (Nemotron), GPT-2, gated GELU with biases, LLaMA with biases, and LLaMA with stretched positions against transformers and PyTorch
 * (test/tools/gpt_reference.py).
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ConfigReader } from '../../src/checkpoint/config_reader.ts';
import { llmConfig, readLlm } from '../../src/checkpoint/hf_llm.ts';
import { decode } from '../../src/generate/decode.ts';
import { stepFlops } from '../../src/model/flops.ts';
import { isGated } from '../../src/model/mlp.ts';
import { blockOf, type LlmShape } from '../../src/model/shapes.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { assertClose } from '../support/allclose.ts';
import { readJson, tensorFile } from '../support/fixtures.ts';
import { compareWithReference, gptModel, gptNames, gptReference } from '../support/gpt.ts';
import { greedy, referenceInput } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();

for (const name of gptNames) {
  test(`${name}: logits, loss and the gradient of every parameter`, () => compareWithReference(engine, name));

  test(`${name}: greedy tokens, with the cache`, () => {
    const { prompt, tokens, margins } = gptReference.models[name];
    assert.ok(Math.min(...margins) > 1e-3, 'no tie decides');
    const encoded = { ids: Int32Array.from(prompt), imageStarts: [], pictures: [] };
    const result = decode(engine, gptModel(engine, name), encoded, { ...greedy, maxTokens: tokens.length });
    assert.deepEqual(result, { tokens, finishReason: 'length' });
  });
}

test('recomputed blocks give the same gradients', () => {
  for (const name of ['nemotron', 'gpt2', 'nvgpt']) {
    compareWithReference(engine, name, { recompute: { granularity: 'full', method: 'uniform', layers: 2 } });
    compareWithReference(engine, name, { recompute: { granularity: 'full', method: 'block', layers: 1 } });
  }
});

test('packed records give the same gradients, with rotary positions and with learned ones', () => {
  for (const name of ['nemotron', 'gpt2']) compareWithReference(engine, name, { packed: true });
});

const padded = (shape: LlmShape): LlmShape => ({ ...shape, paddedVocabSize: 128 });

test('rows that the vocabulary is padded with take no part', () => {
  for (const name of ['nemotron', 'gpt2', 'llama3']) {
    compareWithReference(engine, name, { change: padded });
    const model = gptModel(engine, name, { change: padded });
    for (const parameter of new Set([model.llm.embedding, model.llm.head])) {
      assert.deepEqual([parameter.value.shape, parameter.rows], [[128, 48], 96]);
      assert.ok(
        engine
          .read(parameter.value)
          .slice(96 * 48)
          .every((value) => value === 0),
      );
    }
  }
});

test('tokens beyond those of the tokenizer are never chosen', () => {
  const { prompt, tokens } = gptReference.models.nemotron;
  const encoded = { ids: Int32Array.from(prompt), imageStarts: [], pictures: [] };
  const vocabSize = Math.max(...tokens); // the largest of them is now one too many
  const result = decode(engine, gptModel(engine, 'nemotron', { change: padded }), encoded, {
    ...greedy,
    vocabSize,
    maxTokens: 12,
  });
  assert.ok(result.tokens.every((token) => token < vocabSize));
  const until = tokens.indexOf(vocabSize);
  assert.deepEqual(result.tokens.slice(0, until), tokens.slice(0, until));
  assert.notEqual(result.tokens[until], vocabSize);
});

test('added tokens begin as the mean of the others, in embedding and head', () => {
  const before = gptModel(engine, 'nemotron');
  const after = gptModel(engine, 'nemotron', {
    change: (shape) => ({ ...shape, vocabSize: 99, paddedVocabSize: 104 }),
  });
  for (const which of ['embedding', 'head'] as const) {
    const old = engine.read(before.llm[which].value);
    const rows = engine.read(after.llm[which].value);
    const mean = Array.from({ length: 48 }, (_, c) => {
      let sum = 0;
      for (let row = 0; row < 96; row++) sum += old[row * 48 + c]!;
      return sum / 96;
    });
    assert.deepEqual(rows.slice(0, old.length), old);
    assertClose(rows.slice(old.length, 99 * 48), [...mean, ...mean, ...mean], { relative: 1e-6 }, which);
    assert.ok(rows.slice(99 * 48).every((value) => value === 0));
    assert.deepEqual([after.llm[which].value.shape, after.llm[which].rows], [[104, 48], 99]);
  }
  const input = referenceInput(engine);
  const [small, large] = [before, after].map((model) => engine.read(model.logits(input, Int32Array.of(3))));
  assertClose(large!.slice(0, 96), small!, { relative: 1e-5 }, 'logits of the old tokens');
  assert.equal(large!.length, 99);
});

test('positions stretched as transformers does it: linear, dynamic, YaRN', () => {
  const logits = tensorFile(engine, 'gpt/scalings.safetensors');
  const input = referenceInput(engine);
  const read = new ConfigReader('config.json');
  for (const [name, rope] of Object.entries(gptReference.scalings) as [string, Record<string, unknown>][]) {
    const { rope_parameters: _, ...config } = readJson('gpt/llama3/config.json');
    const { rope_type, ...numbers } = rope;
    // transformers 5 has one mapping; before, the base stood beside it, and the type was called `type`.
    const now = { ...config, rope_parameters: { ...rope, rope_theta: 1000 } };
    const before = {
      ...config,
      rope_theta: 1000,
      rope_scaling: rope_type === 'default' ? null : { type: rope_type, ...numbers },
    };
    assert.deepEqual(readLlm(read, 'llama', now), readLlm(read, 'llama', before));
    const shape = readLlm(read, 'llama', now);
    assert.deepEqual(readLlm(read, 'llama', llmConfig(shape)), shape);
    const model = gptModel(engine, 'llama3', { change: () => shape });
    const found = engine.read(model.logits(input, input.labelRows));
    assertClose(found, logits.values(name), { relative: 1e-4 }, name);
  }
});

test('operations of a step count every matrix of the blocks', () => {
  for (const name of gptNames) {
    const { shape, llm } = gptModel(engine, name);
    const matrices = llm.parameters.filter(({ name }) => /layers\.0\..*proj\.weight$/.test(name));
    assert.equal(matrices.length, isGated(blockOf(shape.llm).activation) ? 7 : 6);
    const weights = matrices.reduce((sum, { value }) => sum + value.shape[0]! * value.shape[1]!, 0);
    const work = { images: 0, trains: { llm: false, projector: false, vision: false } };
    const at = (length: number) => stepFlops(shape, { ...work, lengths: [length], labelTokens: length });
    // Attention grows with the square of the length: what is left is linear.
    const perToken = (4 * at(10) - at(20)) / 20;
    const attention = (2 * 2 * shape.llm.numAttentionHeads * shape.llm.headDim * shape.llm.numLayers) / 2;
    assert.equal(perToken, 2 * (weights * shape.llm.numLayers + 48 * 96) + attention);
  }
});

for (const o2 of [true, false]) {
  test(`NVGPT in bfloat16, ${o2 ? 'with float32 main weights' : 'over float32 weights'}, follows the float32 run`, () => {
    const input = referenceInput(engine);
    const labels = input.labelRows.length;
    const losses = (low: boolean) => {
      const model = gptModel(engine, 'nemotron_bias', low ? { computeDtype: 'bfloat16' } : {});
      for (const parameter of model.parameters) {
        parameter.trainable = model.llm.parameters.includes(parameter);
        if (!low || (parameter.trainable && !o2)) continue;
        if (parameter.trainable) parameter.main = parameter.value;
        parameter.value = engine.keep(engine.cast(parameter.value, 'bfloat16'));
      }
      const optimizer = new Optimizer(engine, model.llm.parameters, {
        betas: [0.9, 0.95],
        eps: 1e-8,
        weightDecay: 0,
        clip: 1,
      });
      return Array.from({ length: 12 }, (_, step) => {
        const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
        optimizer.step(step + 1, 1e-3);
        return engine.item(loss) / labels;
      });
    };
    const [exact, low] = [losses(false), losses(true)];
    assert.ok(exact.at(-1)! < exact[0]! - 0.5, `the loss falls: ${exact}`);
    for (const [i, loss] of low.entries()) {
      assert.ok(Math.abs(loss - exact[i]!) < 0.05, `step ${i + 1}: ${loss} and ${exact[i]}`);
    }
  });
}
