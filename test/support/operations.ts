/** Every model operation and its gradients against PyTorch (test/tools/op_reference.py), for any engine. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DType, Engine, Tensor } from '../../src/engine/engine.ts';
import { assertClose } from './allclose.ts';
import { readJson, tensorFile } from './fixtures.ts';

export interface Case {
  op: string;
  name: string;
  inputs: string[];
  // biome-ignore lint/suspicious/noExplicitAny: options differ by operation
  options: any;
  output: string;
  gradOutput: string | null;
  grads: (string | null)[];
}

export const operationCases: readonly Case[] = readJson('engine/ops.json').cases;

function apply(e: Engine, { op, options: o }: Case, x: readonly Tensor[]): Tensor {
  const [a, b, c] = x as [Tensor, Tensor, Tensor];
  switch (op) {
    case 'linear':
      return e.linear(a, b, c);
    case 'embedding':
      return e.embedding(a, b);
    case 'rmsNorm':
      return e.rmsNorm(a, b, o.eps);
    case 'layerNorm':
      return e.layerNorm(a, b, c, o.eps);
    case 'attention':
      return e.attention(a, b, c, o);
    case 'rope':
      return e.rope(a, b, c);
    case 'patchEmbed':
      return e.patchEmbed(a, b);
    case 'silu':
      return e.silu(a);
    case 'siluMul':
      return e.siluMul(a, b);
    case 'relu':
      return e.relu(a);
    case 'gelu':
      return e.gelu(a);
    case 'geluTanh':
      return e.geluTanh(a);
    case 'quickGelu':
      return e.quickGelu(a);
    case 'crossEntropy':
      return e.crossEntropy(a, b);
    case 'add':
      return e.add(a, b);
    case 'mul':
      return e.mul(a, b);
    case 'scale':
      return e.scale(a, o.factor);
    case 'cast':
      return e.cast(a, o.dtype as DType);
    case 'reshape':
      return e.reshape(a, o.shape);
    case 'transpose':
      return e.transpose(a, o.dimA, o.dimB);
    case 'expand':
      return e.expand(a, o.shape);
    case 'slice':
      return e.slice(a, o.dim, o.start, o.end);
    case 'concat':
      return e.concat(x, o.dim);
    case 'gatherRows':
      return e.gatherRows(a, b);
    case 'scatterRows':
      return e.scatterRows(a, b, c);
    case 'argmax':
      return e.argmax(a);
    default:
      throw new Error(`no such operation: ${op}`);
  }
}

const isFloat = ({ dtype }: Tensor) => dtype === 'float32' || dtype === 'bfloat16';

/** One test a case. `relative` is the tolerance in float32: values were computed in float64 and stored as float32. */
export function testOperations(engine: Engine, cases: readonly Case[], relative = 2e-6): void {
  const file = tensorFile(engine, 'engine/ops.safetensors');
  for (const each of cases) {
    test(each.name, () => {
      const before = engine.memory().tensors;
      engine.scope(() => {
        const inputs = each.inputs.map(file.load);
        const needs = inputs.map((input, i) => isFloat(input) && Boolean(each.grads[i]));
        const segment = {
          name: each.name,
          parameters: [],
          forward: (x: readonly Tensor[]) => [apply(engine, each, x)],
        };
        const vjp = engine.vjp(segment, inputs, needs);
        const [output] = vjp.outputs as [Tensor];
        const expected = file.load(each.output);
        assert.deepEqual(output.shape, expected.shape);
        // bfloat16 keeps 8 bits of mantissa.
        const bound = { relative: inputs.some(({ dtype }) => dtype === 'bfloat16') ? 1.6e-2 : relative };
        assertClose(engine.read(output), engine.read(expected), bound, 'output');
        if (!each.gradOutput) return vjp.drop();
        const grads = vjp.backward([file.load(each.gradOutput)]);
        for (const [i, name] of each.grads.entries()) {
          if (!name) continue;
          assert.ok(grads[i], `gradient of input ${i}`);
          assert.deepEqual(grads[i].shape, inputs[i]!.shape);
          assertClose(engine.read(grads[i]), file.values(name), bound, `gradient of input ${i}`);
        }
      });
      assert.equal(engine.memory().tensors, before, 'tensors left behind');
    });
  }
}
