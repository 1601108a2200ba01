/**
 * The gradient primitive of the walk: a segment is run on detached inputs, so that its tape ends at its own borders,
 * and is walked back by LibTorch's autograd when its time comes.
 */
import type { Segment, Tensor, Vjp } from '../engine.ts';
import * as aten from './aten.generated.ts';
import { type Handle, native } from './native.ts';
import { keep, scope, TorchTensor, torchTensor } from './tensor.ts';

/** See `Engine.forward`. */
export function forward(segment: Segment, inputs: readonly Tensor[]): Tensor[] {
  return scope(() => segment.forward(inputs));
}

/** See `Engine.vjp`. */
export function vjp(segment: Segment, inputs: readonly TorchTensor[], needs: readonly boolean[]): Vjp {
  const trained = segment.parameters.filter((parameter) => parameter.trainable);
  const leaves = inputs.map((input, i) => (needs[i] ? leafOf(input) : input));
  const recording = native().setGradEnabled(true);
  let outputs: TorchTensor[];
  try {
    for (const parameter of trained) native().setRequiresGrad(torchTensor(parameter.value).handle, true);
    outputs = scope(() => segment.forward(leaves)).map((output) => keep(torchTensor(output)));
  } finally {
    native().setGradEnabled(recording);
  }

  const drop = () => {
    for (const output of outputs) output.dispose();
    for (const leaf of leaves) if (!inputs.includes(leaf)) leaf.dispose();
  };

  const backward = (gradOutputs: readonly (Tensor | null)[]): (Tensor | null)[] => {
    const wanted = leaves.filter((_, i) => needs[i]);
    const targets: Handle[] = [
      ...wanted.map((leaf) => leaf.handle),
      ...trained.map((parameter) => torchTensor(parameter.value).handle),
    ];
    const grads = native().gradients(
      outputs.map((output) => output.handle),
      gradOutputs.map((grad) => grad && torchTensor(grad).handle),
      targets,
    );
    trained.forEach((parameter, i) => {
      const handle = grads[wanted.length + i];
      if (handle === null || handle === undefined) return;
      const grad = inFloat32(keep(new TorchTensor(handle)));
      if (parameter.grad === null) {
        parameter.grad = ownMemory(grad);
      } else {
        aten.addTensor_(torchTensor(parameter.grad), grad);
        grad.dispose();
      }
    });
    drop();
    const inputGrads = grads
      .slice(0, wanted.length)
      .map((handle) => (handle === null ? null : new TorchTensor(handle)));
    return needs.map((needed) => (needed ? (inputGrads.shift() ?? null) : null));
  };

  return { outputs, backward, drop };
}

function leafOf(input: TorchTensor): TorchTensor {
  const leaf = keep(new TorchTensor(native().detach(input.handle)));
  native().setRequiresGrad(leaf.handle, true);
  return leaf;
}

/** Gradients add up in float32 whatever precision they were computed in. */
function inFloat32(grad: TorchTensor): TorchTensor {
  if (grad.dtype === 'float32' || grad.dtype === 'float64') return grad;
  const wide = keep(aten._toCopy(grad, 'float32'));
  grad.dispose();
  return wide;
}

/** Later gradients are added in place, so a gradient that shares memory (a view of another one) must be copied first. */
function ownMemory(grad: TorchTensor): TorchTensor {
  if (native().ownsMemory(grad.handle)) return grad;
  const copy = keep(aten.clone(grad, 'contiguous'));
  grad.dispose();
  return copy;
}
