/** A small seeded generator (sfc32), so that the demo's bytes depend on nothing but the seed. */
export class Random {
  #a = 0;
  #b: number;
  #c: number;
  #counter = 1;

  /** @param stream separates generators that share a seed: pictures, questions, … */
  constructor(seed: number, stream = '') {
    this.#b = seed >>> 0;
    this.#c = hash(stream);
    for (let i = 0; i < 16; i++) this.next();
  }

  /** Uniform over 0 … 2^32 − 1. */
  next(): number {
    const sum = (this.#a + this.#b + this.#counter) >>> 0;
    this.#counter = (this.#counter + 1) >>> 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) >>> 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) >>> 0;
    return sum;
  }

  /** Uniform over 0 … n − 1. */
  below(n: number): number {
    return Math.floor((this.next() / 2 ** 32) * n);
  }

  chance(probability: number): boolean {
    return this.next() < probability * 2 ** 32;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]!;
  }

  /** A shuffled copy (Fisher–Yates). */
  shuffled<T>(items: readonly T[]): T[] {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }
}

/** FNV-1a with a final mix: without it the low bits of similar strings are alike, and a split by remainder would be uneven. */
export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
  h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
  return (h ^ (h >>> 16)) >>> 0;
}
