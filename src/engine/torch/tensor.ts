/** Handles with a shape, and the scopes that free them. */
import type { DType, Held, Tensor } from '../engine.ts';
import { type Handle, native } from './native.ts';

export class TorchTensor implements Tensor {
  #handle: Handle;
  #shape: readonly number[] | null = null;
  #dtype: DType | null = null;

  constructor(handle: Handle) {
    this.#handle = handle;
    scopes.at(-1)?.add(this);
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

const scopes: Set<TorchTensor>[] = [];

function collect(held: Held | void, into: Set<Tensor>): void {
  if (held instanceof TorchTensor) into.add(held);
  else if (Array.isArray(held)) for (const item of held) collect(item, into);
  else if (held !== null && typeof held === 'object') for (const item of Object.values(held)) collect(item, into);
}

/** See `Engine.scope`. */
export function scope<R extends Held | void>(body: () => R): R {
  const mine = new Set<TorchTensor>();
  scopes.push(mine);
  let result: R | undefined;
  try {
    result = body();
    return result;
  } finally {
    scopes.pop();
    const kept = new Set<Tensor>();
    collect(result, kept);
    const outer = scopes.at(-1);
    for (const tensor of mine) {
      if (kept.has(tensor)) outer?.add(tensor);
      else tensor.dispose();
    }
  }
}

/** See `Engine.keep`. */
export function keep<T extends Tensor>(tensor: T): T {
  for (const made of scopes) made.delete(tensor as unknown as TorchTensor);
  return tensor;
}

/** The engine's own tensors and no other's. */
export function torchTensor(tensor: Tensor): TorchTensor {
  if (tensor instanceof TorchTensor) return tensor;
  throw new TypeError('this tensor belongs to another engine');
}
