/** The language models of test/fixtures/gpt, each behind the tiny LLaVA's tower and projector. */
import assert from 'node:assert/strict';
import { openWeights } from '../../src/checkpoint/weights.ts';
import type { DType, Engine } from '../../src/engine/engine.ts';
import { type LabelledInput, NevaModel } from '../../src/model/neva.ts';
import type { LlmShape, NevaShape } from '../../src/model/shapes.ts';
import { KEEP_ALL, type Recompute } from '../../src/train/recompute.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { assertClose } from './allclose.ts';
import { fixture, readJson, tensorFile } from './fixtures.ts';
import { referenceInput } from './llava.ts';

export const gptReference = readJson('gpt/reference.json');
export const gptNames = Object.keys(gptReference.models);

export interface GptOptions {
  computeDtype?: DType;
  /** Another shape than the folder's. */
  change?: (shape: LlmShape) => LlmShape;
}

export function gptModel(
  engine: Engine,
  name: string,
  { computeDtype = 'float32', change }: GptOptions = {},
): NevaModel {
  const whole = openWeights(fixture('llava/model'));
  const llm = openWeights(fixture(`gpt/${name}`));
  const { vision, projector } = whole.config!;
  const shape = { vision, projector, llm: change?.(llm.config!.llm!) ?? llm.config!.llm } as NevaShape;
  const sources = {
    vision_encoder: openWeights(fixture('llava/vision')).source(engine, 'vision'),
    projector: whole.source(engine, 'projector'),
    llm: llm.source(engine, 'llm'),
  };
  const model = new NevaModel(engine, shape, { sources, computeDtype });
  for (const parameter of model.parameters) parameter.value = engine.keep(engine.scale(parameter.value, 1));
  return model;
}

/** Logits, loss and the gradient of every weight of the language model, against the reference; padding must stay out of it. */
export function compareWithReference(
  engine: Engine,
  name: string,
  { recompute = KEEP_ALL, packed = false, ...options }: GptOptions & { recompute?: Recompute; packed?: boolean } = {},
): void {
  const expected = gptReference.models[name];
  const tensors = tensorFile(engine, `gpt/${name}.safetensors`);
  const model = gptModel(engine, name, options);
  const input = packed ? packedInput(engine) : referenceInput(engine);
  const labels = input.labelRows.length;

  const logits = model.logits(input, input.labelRows);
  assertClose(engine.read(logits), tensors.values('logits'), { relative: 1e-4 }, 'logits');
  logits.dispose();

  for (const parameter of model.llm.parameters) parameter.trainable = true;
  const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels, recompute));
  assert.ok(Math.abs(engine.item(loss) / labels / expected.loss - 1) < 1e-5);
  loss.dispose();
  const names = model.llm.parameters.map((parameter) => `grad.${parameter.name}`);
  assert.deepEqual(names.sort(), tensors.names.filter((each) => each.startsWith('grad.')).sort());
  for (const parameter of model.llm.parameters) {
    if (expected.zero_gradients.includes(parameter.name)) continue;
    assert.ok(parameter.grad, `${parameter.name} has a gradient`);
    const wanted = tensors.values(`grad.${parameter.name}`);
    const found = engine.read(parameter.grad);
    assertClose(found.slice(0, wanted.length), wanted, { relative: 1e-4 }, parameter.name);
    assert.ok(found.slice(wanted.length).every((value) => value === 0));
  }
  for (const parameter of model.parameters) {
    parameter.grad?.dispose();
    parameter.value.dispose();
  }
}

/** The reference's records one after the other in a single row, without padding. */
function packedInput(engine: Engine): LabelledInput {
  const input = referenceInput(engine);
  const packed = Int32Array.from(tensorFile(engine, 'llava/reference.safetensors').values('lengths'));
  const starts = packed.map((_, b) => packed.slice(0, b).reduce((sum, length) => sum + length, 0));
  const moved = (row: number) => starts[Math.floor(row / input.length)]! + (row % input.length);
  const ids = Array.from(packed, (length, b) => [...input.ids.slice(b * input.length, b * input.length + length)]);
  return {
    ...input,
    batch: 1,
    length: packed.reduce((sum, length) => sum + length, 0),
    ids: Int32Array.from(ids.flat()),
    imageRows: input.imageRows.map(moved),
    labelRows: input.labelRows.map(moved),
    packed,
  };
}
