/** Handles with a shape. */
import type { Arena, DType, Held, Tensor } from '../engine.ts';
import { Scopes } from '../scopes.ts';
import { type Handle, native } from './native.ts';

export class TorchTensor implements Tensor {
  #handle: Handle;
  #shape: readonly number[] | null = null;
  #dtype: DType | null = null;

  constructor(handle: Handle) {
    this.#handle = handle;
    scopes.add(this);
  }

  /** −1 once disposed: the addon refuses it. */
  get handle(): Handle {
    return this.#handle;
  }

  get shape(): readonly number[] {
    this.#shape ??= native().shape(this.#handle);
    return this.#shape;
  }

  get dtype(): DType {
    this.#dtype ??= native().dtype(this.#handle) as DType;
    return this.#dtype;
  }

  get disposed(): boolean {
    return this.#handle < 0;
  }

  /** Frees the data unless something else (a view, the tape) still holds it. Twice is once. */
  dispose(): void {
    if (this.#handle < 0) return;
    native().free(this.#handle);
    this.#handle = -1;
    this.#shape = null;
    this.#dtype = null;
  }
}

const scopes = new Scopes<TorchTensor>((held): held is TorchTensor => held instanceof TorchTensor);

/** See `Engine.scope`. */
export const scope = <R extends Held | void>(body: () => R): R => scopes.scope(body);

/** See `Engine.arena`. */
export const arena = (): Arena => scopes.arena();

/** See `Engine.keep`. */
export function keep<T extends Tensor>(tensor: T): T {
  scopes.keep(tensor as unknown as TorchTensor);
  return tensor;
}

/** The engine's own tensors and no other's. */
export function torchTensor(tensor: Tensor): TorchTensor {
  if (tensor instanceof TorchTensor) return tensor;
  throw new TypeError('this tensor belongs to another engine');
}
