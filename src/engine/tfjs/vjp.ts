/**
 * The gradient primitive of the walk: the segment's outputs now; in backward the segment is run again under the tape of
 * TensorFlow.js, which ends at the segment's own borders. Nothing but the inputs is kept in between.
 */
import * as tf from '@tensorflow/tfjs-core';
import type { Segment, Tensor, Vjp } from '../engine.ts';
import { weightedSum } from './operations.ts';
import { keep, scope, TfjsTensor, tfjsTensor } from './tensor.ts';

/** See `Engine.vjp`. */
export function vjp(segment: Segment, given: readonly TfjsTensor[], needs: readonly boolean[]): Vjp {
  // Handles of our own: the given ones may be disposed before backward. The values are shared.
  const inputs = given.map(({ data, dtype }) => keep(new TfjsTensor(tf.clone(data), dtype)));
  const outputs = scope(() => segment.forward(inputs)).map((output) => keep(ownHandle(tfjsTensor(output), inputs)));

  const drop = () => {
    for (const tensor of [...outputs, ...inputs]) tensor.dispose();
  };

  const backward = (gradOutputs: readonly (Tensor | null)[]): (Tensor | null)[] => {
    const trained = segment.parameters.filter((parameter) => parameter.trainable);
    const wanted = inputs.filter((_, i) => needs[i]);
    const targets = [...wanted.map(({ data }) => data), ...trained.map(({ value }) => tfjsTensor(value).data)];
    const grads = gradients(segment, inputs, gradOutputs, targets);
    trained.forEach((parameter, i) => {
      const grad = grads[wanted.length + i];
      if (!grad) return;
      if (parameter.grad === null) {
        parameter.grad = keep(new TfjsTensor(grad, 'float32'));
      } else {
        const sum = tfjsTensor(parameter.grad);
        sum.replace(tf.add(sum.data, grad));
        grad.dispose();
      }
    });
    drop();
    const inputGrads = grads.slice(0, wanted.length).map((grad) => (grad ? new TfjsTensor(grad, 'float32') : null));
    return needs.map((needed) => (needed ? (inputGrads.shift() ?? null) : null));
  };

  return { outputs, backward, drop };
}

/** A segment that hands an input on must not have it freed twice. */
function ownHandle(output: TfjsTensor, inputs: readonly TfjsTensor[]): TfjsTensor {
  return inputs.includes(output) ? new TfjsTensor(tf.clone(output.data), output.dtype) : output;
}

/** Gradients of Σ output·gradOutput; null for a target that it does not depend on. */
function gradients(
  segment: Segment,
  inputs: readonly TfjsTensor[],
  gradOutputs: readonly (Tensor | null)[],
  targets: tf.Tensor[],
): (tf.Tensor | null)[] {
  const nothing = targets.map(() => null);
  if (targets.length === 0) return nothing;
  const given = gradOutputs.flatMap((grad, i) => (grad ? [{ i, grad: tfjsTensor(grad).data }] : []));
  if (given.length === 0) return nothing;
  // The tape takes one output: a single one as it is, several as the sum that their gradients stand for.
  const [first] = given as [(typeof given)[number]];
  const single = given.length === 1;
  const run = (): tf.Tensor => {
    let result: tf.Tensor;
    scope(() => {
      const outputs = segment.forward(inputs).map((output) => tfjsTensor(output).data);
      result = single
        ? tf.clone(outputs[first.i]!)
        : weightedSum(
            given.map(({ i }) => outputs[i]!),
            given.map(({ grad }) => grad),
          );
    });
    return result!;
  };
  let grads: (tf.Tensor | null)[] = nothing;
  tf.tidy(() => {
    const computed = tf.engine().gradients(run, targets, single ? first.grad : undefined, true);
    // A gradient that is the given one itself (an input handed on) must not share its handle.
    grads = computed.grads.map((grad) => (grad ? tf.keep(tf.clone(grad)) : null));
  });
  return grads;
}
