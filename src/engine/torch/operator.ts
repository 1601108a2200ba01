/** What the generated operator functions (aten.generated.ts) call: looks an operator up once, converts results. */
import { type Handle, native } from './native.ts';
import { TorchTensor } from './tensor.ts';

export type Scalar = number | bigint | boolean;

export type Operator = (...args: unknown[]) => unknown;

/** The operator named as PyTorch names it (`aten::add.Tensor`), found at its first call. */
export function operator(name: string): Operator {
  let index = -1;
  return (...args) => {
    const addon = native();
    if (index < 0) index = addon.findOperator(name);
    return addon.call(index, ...args);
  };
}

export const wrap = (result: unknown): TorchTensor => new TorchTensor(result as Handle);

export const wrapAll = (result: unknown): TorchTensor[] =>
  (result as Handle[]).map((handle) => new TorchTensor(handle));

export const handles = (tensors: readonly TorchTensor[]): Handle[] => tensors.map((tensor) => tensor.handle);
