/** When the walk says that a gradient is final: the moment data-parallel ranks may send it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Parameter, Segment, Tensor } from '../../src/engine/engine.ts';
import type { Chain } from '../../src/model/neva.ts';
import { KEEP_ALL, type Recompute } from '../../src/train/recompute.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { referenceRecords } from '../support/batches.ts';
import { tinyLlava } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();

/** For each call: the parameters' names, and their gradients as they were then. */
function walk(chain: Chain, recompute: Recompute = KEEP_ALL) {
  const calls: { names: string[]; gradients: number[][] }[] = [];
  engine.scope(() =>
    forwardBackward(engine, chain, 1, recompute, (parameters) => {
      const read = ({ grad }: Parameter) => (grad ? [...engine.read(grad)] : []);
      calls.push({ names: parameters.map(({ name }) => name), gradients: parameters.map(read) });
    }),
  );
  return calls;
}

test('every trained weight is told of once, last layers first, with the gradient that it ends with', () => {
  for (const recompute of [KEEP_ALL, { granularity: 'full', method: 'uniform', layers: 2 }] as Recompute[]) {
    const model = tinyLlava(engine);
    for (const { name, parameters } of model.parts) {
      for (const parameter of parameters) parameter.trainable = name !== 'vision_encoder';
    }
    const calls = walk(model.lossChain(referenceRecords(engine).micro([0, 1, 2])), recompute);
    const trained = model.parameters.filter(({ trainable }) => trainable);
    const told = calls.flatMap(({ names, gradients }) => names.map((name, i) => [name, gradients[i]!] as const));
    const relevant = told.filter(([name]) => trained.some((parameter) => parameter.name === name));
    assert.deepEqual(relevant.map(([name]) => name).sort(), trained.map(({ name }) => name).sort());
    for (const [name, gradient] of relevant) {
      assert.deepEqual(gradient, [...engine.read(trained.find((parameter) => parameter.name === name)!.grad!)], name);
    }
    const position = (part: string) => calls.findIndex(({ names }) => names.some((name) => name.includes(part)));
    assert.ok(position('lm_head') < position('layers.1.'));
    // Two blocks that run again together are final together.
    assert.ok(position('layers.1.') < position('layers.0.') + (recompute.layers - 1));
    assert.ok(position('embed_tokens') < position('multi_modal_projector'));
  }
});

test('a weight that the beginning and the head share is final at the beginning', () => {
  const shared: Parameter = {
    name: 'shared',
    value: engine.keep(engine.full([2], 3)),
    main: null,
    grad: null,
    trainable: true,
    decay: true,
  };
  const times = (name: string, total: boolean): Segment => ({
    name,
    parameters: [shared],
    forward: ([x]) => {
      const product = engine.mul(x as Tensor, shared.value);
      return [total ? engine.linear(product, engine.full([1, 2], 1)) : product];
    },
  });
  const head = (): Segment => {
    const { name, parameters, forward } = times('head', true);
    return { name, parameters, forward: (inputs) => [engine.reshape(forward(inputs)[0]!, [])] };
  };
  const calls = walk({
    input: [engine.full([1, 2], 1)],
    segments: [times('beginning', false)],
    blocks: [],
    loss: { rows: 1, chunk: 1, segment: head },
  });
  // Σ w·w·1: its gradient is 2w, of which the head alone gives w.
  assert.deepEqual(calls, [
    { names: [], gradients: [] },
    { names: ['shared'], gradients: [[6, 6]] },
  ]);
});
