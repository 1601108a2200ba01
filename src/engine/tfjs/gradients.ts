/**
 * Gradients of the TensorFlow.js operations that the engine uses outside its custom gradients. Core's own table of them is
 * not in the build that Node loads. Each gradient is computed only if it is asked for: none for a frozen weight.
 */
import * as tf from '@tensorflow/tfjs-core';

/** Sum of `x` over the dimensions in which `shape` was broadcast to it. */
export function reduceTo(x: tf.Tensor, shape: readonly number[]): tf.Tensor {
  const leading = x.shape.length - shape.length;
  const axes = x.shape.flatMap((size, i) => (i < leading || (shape[i - leading] === 1 && size !== 1) ? [i] : []));
  return tf.reshape(axes.length > 0 ? tf.sum(x, axes) : x, [...shape]);
}

/** Core's GradConfig for operations with one output. */
interface Gradient {
  kernelName: string;
  inputsToSave?: string[];
  saveAllInputs?: boolean;
  gradFunc: (dy: tf.Tensor, saved: tf.Tensor[], attributes: tf.NamedAttrMap) => { [input: string]: () => tf.Tensor };
}

const GRADIENTS: readonly Gradient[] = [
  {
    kernelName: tf.Identity,
    gradFunc: (dy) => ({ x: () => tf.clone(dy) }),
  },
  {
    kernelName: tf.Cast,
    gradFunc: (dy) => ({ x: () => tf.clone(dy) }),
  },
  {
    kernelName: tf.Reshape,
    inputsToSave: ['x'],
    gradFunc: (dy, [x]) => ({ x: () => tf.reshape(dy, x!.shape) }),
  },
  {
    kernelName: tf.Transpose,
    gradFunc: (dy, _saved, attributes) => {
      const permutation = attributes.perm as number[];
      return {
        x: () =>
          tf.transpose(
            dy,
            permutation.map((_, i) => permutation.indexOf(i)),
          ),
      };
    },
  },
  {
    kernelName: tf.Slice,
    inputsToSave: ['x'],
    gradFunc: (dy, [x], attributes) => {
      const begin = attributes.begin as number[];
      const around = x!.shape.map((size, i): [number, number] => [begin[i]!, size - begin[i]! - dy.shape[i]!]);
      return { x: () => tf.pad(dy, around) };
    },
  },
  {
    kernelName: tf.Concat,
    saveAllInputs: true,
    gradFunc: (dy, saved, attributes) => {
      const axis = attributes.axis as number;
      let end = 0;
      const parts = saved.map(({ shape }) => {
        const begin = shape.map((_, i) => (i === axis ? end : 0));
        end += shape[axis]!;
        return () => tf.slice(dy, begin, shape);
      });
      return Object.fromEntries(parts.entries());
    },
  },
  {
    kernelName: tf.Add,
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => reduceTo(dy, a!.shape),
      b: () => reduceTo(dy, b!.shape),
    }),
  },
  {
    kernelName: tf.Multiply,
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b]) => ({
      a: () => reduceTo(tf.mul(dy, b!), a!.shape),
      b: () => reduceTo(tf.mul(dy, a!), b!.shape),
    }),
  },
  {
    kernelName: tf.BatchMatMul,
    inputsToSave: ['a', 'b'],
    gradFunc: (dy, [a, b], attributes) => {
      if (attributes.transposeA) throw new Error('no gradient for a product with its first factor transposed');
      if (!attributes.transposeB) {
        return { a: () => tf.matMul(dy, b!, false, true), b: () => tf.matMul(a!, dy, true, false) };
      }
      return { a: () => tf.matMul(dy, b!), b: () => tf.matMul(dy, a!, true, false) };
    },
  },
];

/** Once a process; tfjs-node brings gradients of its own, which these replace. */
export function registerGradients(): void {
  for (const gradient of GRADIENTS) tf.registerGradient(gradient as tf.GradConfig);
}
