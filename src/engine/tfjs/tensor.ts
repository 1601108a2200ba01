/** Handles over TensorFlow.js tensors, which are immutable: what is changed in place is the handle. */
import * as tf from '@tensorflow/tfjs-core';
import type { Arena, DType, Held, Tensor } from '../engine.ts';
import { Scopes } from '../scopes.ts';

export class TfjsTensor implements Tensor {
  /**
   * What the values stand for. TensorFlow.js holds them as float32, int32 or bool, so that a bfloat16 or float16 tensor
   * is float32 numbers which have an exact counterpart there, and an int64 tensor is int32.
   */
  readonly dtype: DType;
  #data: tf.Tensor | null;

  /** Takes `data` over: it is disposed with this handle. */
  constructor(data: tf.Tensor, dtype: DType) {
    this.#data = data;
    this.dtype = dtype;
    scopes.add(this);
  }

  get data(): tf.Tensor {
    if (this.disposed) throw new Error('a tensor was used after it was freed');
    return this.#data!;
  }

  get shape(): readonly number[] {
    return this.data.shape;
  }

  get disposed(): boolean {
    return this.#data === null || this.#data.isDisposed;
  }

  /** Other values of the same shape: what `assign` and the optimizer do in place. Takes `data` over. */
  replace(data: tf.Tensor): void {
    this.data.dispose();
    this.#data = data;
  }

  dispose(): void {
    if (!this.disposed) this.#data!.dispose();
    this.#data = null;
  }
}

const scopes = new Scopes<TfjsTensor>((held): held is TfjsTensor => held instanceof TfjsTensor);

/** See `Engine.scope`. */
export const scope = <R extends Held | void>(body: () => R): R => scopes.scope(body);

/** See `Engine.arena`. */
export const arena = (): Arena => scopes.arena();

/** See `Engine.keep`. */
export function keep<T extends Tensor>(tensor: T): T {
  const own = tfjsTensor(tensor);
  scopes.keep(own);
  tf.keep(own.data); // out of the scopes of tf.tidy too, which a running gradient has open
  return tensor;
}

/** The engine's own tensors and no other's. */
export function tfjsTensor(tensor: Tensor): TfjsTensor {
  if (tensor instanceof TfjsTensor) return tensor;
  throw new TypeError('this tensor belongs to another engine');
}

/** The data of a tensor that can be computed with: TensorFlow.js knows float32 alone. */
export function floats(tensor: Tensor): tf.Tensor {
  const own = tfjsTensor(tensor);
  if (own.dtype === 'float32') return own.data;
  throw new TypeError(`the tfjs engine computes in float32, and this tensor is ${own.dtype}; cast it first`);
}

/** The data of a tensor of indices. */
export function indices(tensor: Tensor): tf.Tensor {
  const own = tfjsTensor(tensor);
  if (own.dtype === 'int32' || own.dtype === 'int64') return own.data;
  throw new TypeError(`indices must be int32 or int64, and this tensor is ${own.dtype}`);
}

let peakBytes = 0;

/** Runs TensorFlow.js operations and keeps their result alone. */
export function made(body: () => tf.Tensor, dtype: DType = 'float32'): TfjsTensor {
  const data = tf.tidy(() => {
    const result = body();
    sampleMemory();
    return result;
  });
  return new TfjsTensor(data, dtype);
}

/** Notes the bytes that are held now, if they are more than ever: called where an operation's intermediates still live. */
export function sampleMemory(): void {
  peakBytes = Math.max(peakBytes, tf.engine().state.numBytes);
}

export const peakMemory = (): number => Math.max(peakBytes, tf.engine().state.numBytes);

export function resetPeak(): void {
  peakBytes = 0;
}
