/**
 * Operations whose gradient TensorFlow.js lacks, or would compute from more saved tensors or slower kernels than need be.
 * Each is a forward pass, what it saves, and its gradient written out. Shape letters: engine.ts.
 */
import * as tf from '@tensorflow/tfjs-core';
import { reduceTo } from './gradients.ts';
import { sampleMemory } from './tensor.ts';

interface Differentiable {
  value: tf.Tensor;
  /** Gradients of the inputs, in their order. */
  gradient: (dy: tf.Tensor, saved: tf.Tensor[]) => tf.Tensor[];
}

/**
 * An operation on `inputs` with its own gradient. Every tensor that `gradient` needs goes through `save`, constants too: by
 * then the segment's own tensors are freed.
 */
function custom(
  inputs: readonly tf.Tensor[],
  forward: (save: (tensors: tf.Tensor[]) => void) => Differentiable,
): tf.Tensor {
  const operation = tf.customGrad((...args: (tf.Tensor | tf.GradSaveFunc)[]) => {
    const { value, gradient } = forward(args.at(-1) as tf.GradSaveFunc);
    sampleMemory();
    return {
      value,
      gradFunc: (dy: tf.Tensor, saved: tf.Tensor[]) => {
        const grads = gradient(dy, saved);
        sampleMemory();
        return grads;
      },
    };
  });
  return operation(...inputs);
}

const rows = (x: tf.Tensor): tf.Tensor => tf.reshape(x, [-1, x.shape.at(-1)!]);
const lastMean = (x: tf.Tensor): tf.Tensor => tf.mean(x, -1, true);

/** The part of a normalization's gradient that is the same for both: x̂·w = y, so dw = Σ dy·x̂. */
const weightGradient = (dy: tf.Tensor, normalized: tf.Tensor) => tf.sum(rows(tf.mul(dy, normalized)), 0);

export function rmsNorm(x: tf.Tensor, weight: tf.Tensor, eps: number): tf.Tensor {
  return custom([x, weight], (save) => {
    const rstd = tf.rsqrt(tf.add(lastMean(tf.square(x)), eps));
    const normalized = tf.mul(x, rstd);
    save([normalized, rstd, weight]);
    return {
      value: tf.mul(normalized, weight),
      gradient: (dy, [n, r, w]) => {
        const g = tf.mul(dy, w!);
        const dx = tf.mul(r!, tf.sub(g, tf.mul(n!, lastMean(tf.mul(g, n!)))));
        return [dx, weightGradient(dy, n!)];
      },
    };
  });
}

export function layerNorm(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor, eps: number): tf.Tensor {
  return custom([x, weight, bias], (save) => {
    const centred = tf.sub(x, lastMean(x));
    const rstd = tf.rsqrt(tf.add(lastMean(tf.square(centred)), eps));
    const normalized = tf.mul(centred, rstd);
    save([normalized, rstd, weight]);
    return {
      value: tf.add(tf.mul(normalized, weight), bias),
      gradient: (dy, [n, r, w]) => {
        const g = tf.mul(dy, w!);
        const dx = tf.mul(r!, tf.sub(tf.sub(g, lastMean(g)), tf.mul(n!, lastMean(tf.mul(g, n!)))));
        return [dx, weightGradient(dy, n!), tf.sum(rows(dy), 0)];
      },
    };
  });
}

/** The heads of a group are rows of one product with the group's keys: no key is ever repeated. */
export function attention(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, causal: boolean, scale: number): tf.Tensor {
  const [B, H, T, D] = q.shape as [number, number, number, number];
  const [, G, U] = k.shape as [number, number, number];
  const share = H / G;
  const queries = (x: tf.Tensor): tf.Tensor3D => tf.reshape(x, [B * G, share * T, x.shape[3] ?? D]);
  const keys = (x: tf.Tensor): tf.Tensor3D => tf.reshape(x, [B * G, U, x.shape[3]!]);
  return custom([q, k, v], (save) => {
    const scores = tf.mul(tf.matMul(queries(q), keys(k), false, true), scale); // [B·G, share·T, U]
    const masked = causal && T > 1 ? tf.add(scores, causalMask(T, U, share)) : scores;
    const shares = tf.softmax(masked);
    save([q, k, v, shares]);
    return {
      value: tf.reshape(tf.matMul(shares, keys(v)), [B, H, T, v.shape[3]!]),
      gradient: (dy, [savedQ, savedK, savedV, p]) => {
        const g = queries(dy);
        const dp = tf.matMul(g, keys(savedV!), false, true);
        const weighted = tf.mul(dp, p!);
        const ds = tf.mul(tf.sub(weighted, tf.mul(p!, tf.sum(weighted, -1, true))), scale) as tf.Tensor3D;
        return [
          tf.reshape(tf.matMul(ds, keys(savedK!)), q.shape),
          tf.reshape(tf.matMul(ds, queries(savedQ!), true, false), k.shape),
          tf.reshape(tf.matMul(p! as tf.Tensor3D, g, true, false), v.shape),
        ];
      },
    };
  });
}

/** [share·T, U]: −∞ where key u lies after query t, the last query seeing the last key; 0 elsewhere. */
function causalMask(T: number, U: number, share: number): tf.Tensor2D {
  const mask = new Float32Array(share * T * U);
  for (let row = 0; row < share * T; row++) {
    mask.fill(Number.NEGATIVE_INFINITY, row * U + (row % T) + (U - T) + 1, (row + 1) * U);
  }
  return tf.tensor2d(mask, [share * T, U]);
}

function turn(x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor): tf.Tensor {
  const [half, D] = [cos.shape[1]!, x.shape[3]!];
  const sizes = 2 * half === D ? [half, half] : [half, half, D - 2 * half];
  const [first, second, ...rest] = tf.split(x, sizes, -1) as [tf.Tensor, tf.Tensor, tf.Tensor?];
  const turned = [tf.sub(tf.mul(first, cos), tf.mul(second, sin)), tf.add(tf.mul(second, cos), tf.mul(first, sin))];
  return tf.concat([...turned, ...(rest as tf.Tensor[])], -1);
}

/** The first R of D of x [B, H, T, D] turned by the angles of cos, sin [T, R/2]; its gradient turns back. */
export function rope(x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor): tf.Tensor {
  return custom([x], (save) => {
    save([cos, sin]);
    return { value: turn(x, cos, sin), gradient: (dy, [c, s]) => [turn(dy, c!, tf.neg(s!))] };
  });
}

/** An element-wise function of one argument, given with its derivative. */
function elementwise(
  x: tf.Tensor,
  value: (x: tf.Tensor) => tf.Tensor,
  derivative: (x: tf.Tensor) => tf.Tensor,
): tf.Tensor {
  return custom([x], (save) => {
    save([x]);
    return { value: value(x), gradient: (dy, [saved]) => [tf.mul(dy, derivative(saved!))] };
  });
}

/** x·σ(slope·x), whose derivative is s + slope·x·s·(1 − s) with s = σ(slope·x). */
export function swish(x: tf.Tensor, slope: number): tf.Tensor {
  const gate = (y: tf.Tensor) => tf.sigmoid(slope === 1 ? y : tf.mul(y, slope));
  return elementwise(
    x,
    (y) => tf.mul(y, gate(y)),
    (y) => swishDerivative(y, gate(y), slope),
  );
}

function swishDerivative(x: tf.Tensor, gate: tf.Tensor, slope: number): tf.Tensor {
  return tf.add(gate, tf.mul(tf.mul(tf.mul(x, slope), gate), tf.sub(1, gate)));
}

export function siluMul(gate: tf.Tensor, up: tf.Tensor): tf.Tensor {
  return custom([gate, up], (save) => {
    save([gate, up]);
    return {
      value: tf.mul(tf.mul(gate, tf.sigmoid(gate)), up),
      gradient: (dy, [g, u]) => {
        const s = tf.sigmoid(g!);
        return [tf.mul(tf.mul(dy, u!), swishDerivative(g!, s, 1)), tf.mul(dy, tf.mul(g!, s))];
      },
    };
  });
}

/** x·Φ(x) with Φ the normal distribution; derivative Φ(x) + x·φ(x). */
export function gelu(x: tf.Tensor): tf.Tensor {
  const cumulative = (y: tf.Tensor) => tf.mul(tf.add(tf.erf(tf.mul(y, Math.SQRT1_2)), 1), 0.5);
  const density = (y: tf.Tensor) => tf.mul(tf.exp(tf.mul(tf.square(y), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return elementwise(
    x,
    (y) => tf.mul(y, cumulative(y)),
    (y) => tf.add(cumulative(y), tf.mul(y, density(y))),
  );
}

/** x/2·(1 + tanh u) with u = √(2/π)·(x + 0.044715 x³); derivative (1 + tanh u)/2 + x/2·(1 − tanh² u)·u′. */
export function geluTanh(x: tf.Tensor): tf.Tensor {
  const slope = Math.sqrt(2 / Math.PI);
  const tanh = (y: tf.Tensor) => tf.tanh(tf.mul(tf.add(y, tf.mul(tf.mul(tf.square(y), y), 0.044715)), slope));
  return elementwise(
    x,
    (y) => tf.mul(tf.mul(y, 0.5), tf.add(tanh(y), 1)),
    (y) => {
      const t = tanh(y);
      const inner = tf.mul(tf.add(tf.mul(tf.square(y), 3 * 0.044715), 1), slope); // u′
      return tf.mul(tf.add(tf.add(t, 1), tf.mul(tf.mul(y, tf.sub(1, tf.square(t))), inner)), 0.5);
    },
  );
}

export function relu(x: tf.Tensor): tf.Tensor {
  return elementwise(x, tf.relu, (y) => tf.cast(tf.greater(y, 0), 'float32'));
}

/** logits [M, V], targets [M] → Σ −log softmax(logits)[target]; the gradient is softmax − one-hot. */
export function crossEntropy(logits: tf.Tensor, targets: tf.Tensor): tf.Tensor {
  const [M, V] = logits.shape as [number, number];
  return custom([logits], (save) => {
    const shifted = tf.sub(logits, tf.max(logits, -1, true));
    const logSum = tf.log(tf.sum(tf.exp(shifted), -1, true)); // [M, 1]
    const chosen = tf.gather(tf.reshape(shifted, [-1]), tf.add(tf.range(0, M * V, V, 'int32'), targets));
    save([tf.sub(shifted, logSum), targets]);
    return {
      value: tf.sum(tf.sub(tf.reshape(logSum, [M]), chosen)),
      gradient: (dy, [logShares, at]) => [tf.mul(tf.sub(tf.exp(logShares!), tf.oneHot(at! as tf.Tensor1D, V)), dy)],
    };
  });
}

/** Rows of x [R, …] at indices [M]. The gradient adds up where an index is repeated. */
export function gatherRows(x: tf.Tensor, indices: tf.Tensor): tf.Tensor {
  const { shape } = x;
  return custom([x], (save) => {
    save([indices]);
    return {
      value: tf.gather(x, indices as tf.Tensor1D),
      gradient: (dy, [at]) => [tf.scatterND(column(at!), dy, shape)],
    };
  });
}

/** base [R, C] with `rows` [M, C] at `indices` [M], which are distinct. */
export function scatterRows(base: tf.Tensor, indices: tf.Tensor, given: tf.Tensor): tf.Tensor {
  const { shape } = base;
  const taken = (at: tf.Tensor) =>
    tf.cast(tf.scatterND(column(at), tf.ones([at.shape[0]!, 1]), [shape[0]!, 1]), 'bool');
  return custom([base, given], (save) => {
    save([indices]);
    return {
      value: tf.where(taken(indices), tf.scatterND(column(indices), given, shape), base),
      gradient: (dy, [at]) => [tf.where(taken(at!), tf.zerosLike(dy), dy), tf.gather(dy, at! as tf.Tensor1D)],
    };
  });
}

const column = (indices: tf.Tensor): tf.Tensor2D => tf.reshape(indices, [indices.shape[0]!, 1]);

export function expand(x: tf.Tensor, shape: readonly number[]): tf.Tensor {
  return custom([x], () => ({
    value: tf.broadcastTo(x, [...shape]),
    gradient: (dy) => [reduceTo(dy, x.shape)],
  }));
}

/** `values` in place of x, of which they are a rounding: gradients pass as if nothing had happened. */
export function straightThrough(x: tf.Tensor, values: () => tf.Tensor): tf.Tensor {
  return custom([x], () => ({ value: values(), gradient: (dy) => [tf.clone(dy)] }));
}

/** pixels [N, 3, S, S], weight [C, 3, p, p] → [N, (S/p)², C]: each patch laid flat, and one matrix product. */
export function patchEmbed(pixels: tf.Tensor, weight: tf.Tensor): tf.Tensor {
  const [N, channels, S] = pixels.shape as [number, number, number];
  const [C, , p] = weight.shape as [number, number, number];
  const grid = Math.floor(S / p);
  const whole = grid * p === S ? pixels : tf.slice(pixels, [0, 0, 0, 0], [N, channels, grid * p, grid * p]);
  const cut = tf.transpose(tf.reshape(whole, [N, channels, grid, p, grid, p]), [0, 2, 4, 1, 3, 5]);
  const flat: tf.Tensor2D = tf.reshape(cut, [N * grid * grid, channels * p * p]);
  const matrix: tf.Tensor2D = tf.reshape(weight, [C, channels * p * p]);
  return tf.reshape(tf.matMul(flat, matrix, false, true), [N, grid * grid, C]);
}

/** x [..., I] · weightᵀ [O, I] + bias [O] */
export function linear(x: tf.Tensor, weight: tf.Tensor, bias: tf.Tensor | null): tf.Tensor {
  const product = tf.matMul(rows(x) as tf.Tensor2D, weight as tf.Tensor2D, false, true);
  return tf.reshape(bias ? tf.add(product, bias) : product, [...x.shape.slice(0, -1), weight.shape[0]!]);
}

/** Σ weight·x over all elements of all `xs`: the one output whose gradients are the given `weights`. */
export function weightedSum(xs: readonly tf.Tensor[], weights: readonly tf.Tensor[]): tf.Tensor {
  return custom(xs, () => ({
    value: tf.addN(xs.map((x, i) => tf.sum(tf.mul(x, weights[i]!)))),
    gradient: (dy) => weights.map((weight) => tf.mul(weight, dy)),
  }));
}
