/**
 * The tiny LLaVA of test/tools/llava_reference.py against Hugging Face: logits, loss, every gradient, and twenty AdamW
 * steps of both stages.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openWeights } from '../../src/checkpoint/weights.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { forwardBackward, forwardOnly } from '../../src/train/walk.ts';
import { assertClose } from '../support/allclose.ts';
import { fixture, tensorFile } from '../support/fixtures.ts';
import { reference, referenceInput, tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const SHAPE: NevaShape = {
  llm: {
    numLayers: 3,
    hiddenSize: 48,
    ffnHiddenSize: 80,
    numAttentionHeads: 6,
    numQueryGroups: 2,
    headDim: 8,
    vocabSize: 96,
    normEpsilon: 1e-5,
    rotaryBase: 10000,
    maxPositions: 128,
    tiedEmbeddings: false,
  },
  vision: {
    imageSize: 28,
    patchSize: 7,
    hiddenSize: 32,
    numLayers: 3,
    numAttentionHeads: 4,
    ffnHiddenSize: 64,
    normEpsilon: 1e-5,
    selectLayer: -2,
    classTokenLength: 1,
  },
  projector: { type: 'mlp2x_gelu', inputSize: 32, outputSize: 48 },
};

const engine = torchEngine();
const tensors = tensorFile(engine, 'llava/reference.safetensors');

const input = referenceInput(engine);
const labels = reference.label_tokens as number;

test('shapes are read from the files of Hugging Face', () => {
  const { config } = openWeights(fixture('llava/model'));
  assert.deepEqual(config, { kind: 'llava', ...SHAPE });
  assert.deepEqual(openWeights(fixture('llava/llm')).config, { kind: 'llm', llm: SHAPE.llm });
  assert.deepEqual(openWeights(fixture('llava/vision')).config, { kind: 'clip', vision: SHAPE.vision });
});

test('logits at labelled positions', () => {
  const model = tinyLlava(engine);
  const logits = model.logits(input, input.labelRows);
  assertClose(engine.read(logits), tensors.values('logits'), { relative: 1e-5 }, 'logits');
});

test('loss and the gradient of every parameter', () => {
  const model = tinyLlava(engine);
  for (const parameter of model.parameters) parameter.trainable = true;
  const before = engine.memory().tensors;
  const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
  assert.ok(Math.abs(engine.item(loss) / labels / reference.loss - 1) < 1e-5);
  loss.dispose();

  let compared = 0;
  for (const parameter of model.parameters) {
    const name = `grad.${parameter.name}`;
    if (reference.zero_gradients.includes(parameter.name)) continue;
    assert.ok(parameter.grad, `${parameter.name} has a gradient`);
    assertClose(engine.read(parameter.grad), tensors.values(name), { relative: 1e-4 }, name);
    compared += 1;
  }
  const used = tensors.names.filter(
    (name) =>
      name.startsWith('grad.') &&
      !reference.unused_parameters.includes(name.slice(5)) &&
      !reference.zero_gradients.includes(name.slice(5)),
  );
  assert.equal(compared, used.length, 'every gradient of the reference was compared');
  for (const parameter of model.parameters) parameter.grad?.dispose();
  // The rotary tables are made once and kept.
  assert.ok(engine.memory().tensors <= before + 2, 'no tensor is left behind by a step');
});

for (const stage of ['pretrain', 'finetune'] as const) {
  test(`20 AdamW steps of ${stage}: losses and gradient norms`, () => {
    const model = tinyLlava(engine);
    const { trained, losses, grad_norms } = reference[stage];
    for (const parameter of model.parameters) {
      parameter.trainable = trained.some((prefix: string) => parameter.name.startsWith(prefix));
    }
    const { lr, betas, eps, weight_decay: weightDecay, clip_grad_norm: clip } = reference.adamw;
    const trainable = model.parameters.filter((parameter) => parameter.trainable);
    const optimizer = new Optimizer(engine, trainable, { betas, eps, weightDecay, clip });
    let live = 0;
    for (let step = 1; step <= losses.length; step++) {
      const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
      const value = engine.item(loss) / labels;
      loss.dispose();
      const norm = optimizer.step(step, lr);
      assert.ok(Math.abs(value / losses[step - 1] - 1) < 1e-4, `loss of step ${step}: ${value} ≠ ${losses[step - 1]}`);
      assert.ok(Math.abs(norm / grad_norms[step - 1] - 1) < 1e-3, `norm of step ${step}: ${norm}`);
      if (step === 1) live = engine.memory().tensors;
      assert.equal(engine.memory().tensors, live, 'live tensors return to their baseline after every step');
    }
    const end = engine.scope(() => forwardOnly(engine, model.lossChain(input)));
    assert.ok(engine.item(end) / labels < losses.at(-1));
  });
}

for (const o2 of [true, false]) {
  test(`bfloat16 ${o2 ? 'with float32 main weights' : 'over float32 weights'} follows the float32 run`, () => {
    const model = tinyLlava(engine, 'bfloat16');
    for (const { name, parameters } of model.parts) {
      for (const parameter of parameters) {
        parameter.trainable = name !== 'vision_encoder';
        if (o2 && parameter.trainable) parameter.main = parameter.value;
        if (o2 || !parameter.trainable) parameter.value = engine.keep(engine.cast(parameter.value, 'bfloat16'));
      }
    }
    const trainable = model.parameters.filter((parameter) => parameter.trainable);
    const { lr, betas, eps, weight_decay: weightDecay, clip_grad_norm: clip } = reference.adamw;
    const optimizer = new Optimizer(engine, trainable, { betas, eps, weightDecay, clip });
    const { losses } = reference.finetune;
    for (let step = 1; step <= losses.length; step++) {
      const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
      const value = engine.item(loss) / labels;
      loss.dispose();
      for (const { grad } of trainable) assert.equal(grad?.dtype, 'float32', 'gradients add up in float32');
      optimizer.step(step, lr);
      assert.ok(Math.abs(value - losses[step - 1]) < 0.05, `step ${step}: ${value} and ${losses[step - 1]}`);
    }
    for (const { value, main } of trainable) {
      assert.equal(value.dtype, o2 ? 'bfloat16' : 'float32');
      if (!main) continue;
      // Ties may go either way: both neighbours are as near.
      const [own, exact, even] = [value, main, engine.cast(main, 'bfloat16')].map((each) => engine.read(each));
      for (const [i, x] of own!.entries()) {
        assert.equal(Math.abs(x - exact![i]!), Math.abs(even![i]! - exact![i]!), `value ${x} rounds main ${exact![i]}`);
      }
    }
  });
}

test('the loss in chunks of any size is the loss, and so are its gradients', () => {
  const grads = (chunk: number) => {
    const model = tinyLlava(engine);
    for (const parameter of model.parameters) parameter.trainable = true;
    const loss = engine.scope(() => {
      const chain = model.lossChain(input);
      return forwardBackward(engine, { ...chain, loss: { ...chain.loss!, chunk } }, 1 / labels);
    });
    const alone = engine.scope(() => {
      const chain = model.lossChain(input);
      return forwardOnly(engine, { ...chain, loss: { ...chain.loss!, chunk } });
    });
    assert.ok(Math.abs(engine.item(alone) / engine.item(loss) - 1) < 1e-6);
    return { loss: engine.item(loss), parameters: model.parameters };
  };
  const whole = grads(1000);
  for (const chunk of [1, 4, 18]) {
    const pieces = grads(chunk);
    assert.ok(Math.abs(pieces.loss / whole.loss - 1) < 1e-6);
    pieces.parameters.forEach(({ name, grad }, i) => {
      if (reference.zero_gradients.includes(name)) return;
      assertClose(engine.read(grad!), engine.read(whole.parameters[i]!.grad!), { relative: 1e-5 }, `${chunk}: ${name}`);
    });
  }
});
