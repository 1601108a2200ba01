/**
 * An engine that knows shapes and has no values: enough to build a model and count its weights, on any machine, at any size.
 * What the model does with weights beyond making them is not here, and throws.
 */
import type { DType, Engine, Tensor } from '../engine/engine.ts';

class ShapeOnly implements Tensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly disposed = false;

  constructor(shape: readonly number[], dtype: DType) {
    this.shape = shape;
    this.dtype = dtype;
  }

  dispose(): void {}
}

const make = (shape: readonly number[], dtype: DType = 'float32'): Tensor => new ShapeOnly(shape, dtype);

const known: Partial<Engine> = {
  scope: (body) => body(),
  keep: (tensor) => tensor,
  zeros: (shape, dtype) => make(shape, dtype),
  full: (shape, _value, dtype) => make(shape, dtype),
  uniform: (shape, _low, _high, dtype) => make(shape, dtype),
  normal: (shape, _mean, _std, dtype) => make(shape, dtype),
  scale: (x) => make(x.shape, x.dtype),
  slice: (x, dim, start, end) =>
    make(
      x.shape.map((size, i) => (i === dim ? end - start : size)),
      x.dtype,
    ),
  concat: (xs, dim) =>
    make(
      xs[0]!.shape.map((size, i) => (i === dim ? xs.reduce((sum, { shape }) => sum + shape[dim]!, 0) : size)),
      xs[0]!.dtype,
    ),
};

export const shapeEngine = new Proxy(known as Engine, {
  get(target, name) {
    if (Reflect.has(target, name)) return Reflect.get(target, name);
    throw new Error(`an engine of shapes cannot ${String(name)}`);
  },
});
