/** The scopes that free an engine's tensors: one stack an engine. See `Engine.scope`, `Engine.arena` and `Engine.keep`. */
import type { Arena, Held, Tensor } from './engine.ts';

export class Scopes<T extends Tensor> {
  readonly #running: Set<T>[] = [];
  readonly #isOwn: (held: unknown) => held is T;

  constructor(isOwn: (held: unknown) => held is T) {
    this.#isOwn = isOwn;
  }

  /** A tensor that was just made belongs to the innermost running scope. */
  add(tensor: T): void {
    this.#running.at(-1)?.add(tensor);
  }

  /** See `Engine.scope`. */
  scope<R extends Held | void>(body: () => R): R {
    const mine = new Set<T>();
    this.#running.push(mine);
    let result: R | undefined;
    try {
      result = body();
      return result;
    } finally {
      this.#running.pop();
      const kept = new Set<T>();
      this.#collect(result, kept);
      const outer = this.#running.at(-1);
      for (const tensor of mine) {
        if (kept.has(tensor)) outer?.add(tensor);
        else tensor.dispose();
      }
    }
  }

  /** See `Engine.arena`. */
  arena(): Arena {
    const mine = new Set<T>();
    return {
      within: (body) => {
        this.#running.push(mine);
        try {
          return body();
        } finally {
          this.#running.pop();
        }
      },
      free: () => {
        for (const tensor of mine) tensor.dispose();
        mine.clear();
      },
    };
  }

  /** See `Engine.keep`. */
  keep(tensor: T): void {
    for (const made of this.#running) made.delete(tensor);
  }

  #collect(held: Held | void, into: Set<T>): void {
    if (this.#isOwn(held)) into.add(held);
    else if (Array.isArray(held)) for (const item of held) this.#collect(item, into);
    else if (held !== null && typeof held === 'object')
      for (const item of Object.values(held)) this.#collect(item, into);
  }
}
