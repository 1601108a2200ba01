/** xoshiro128** (Blackman and Vigna 2018), seeded by splitmix32: TensorFlow.js has no generator whose state can be saved. */
import { foreignRandomState } from '../random_state.ts';

const STATE_BYTES = 16;

export class Generator {
  #state: Uint32Array<ArrayBuffer> = seeded(0);

  seed(value: number): void {
    this.#state = seeded(value);
  }

  state(): Uint8Array {
    return new Uint8Array(this.#state.buffer.slice(0));
  }

  /** Throws a user error for a state of another engine: a run that resumes with it would draw other numbers. */
  setState(state: Uint8Array): void {
    if (state.length !== STATE_BYTES) throw foreignRandomState('tfjs', STATE_BYTES, state.length);
    this.#state = new Uint32Array(Uint8Array.from(state).buffer);
  }

  /** Uniform in [0, 1), 53 bits. */
  uniform(): number {
    const high = this.#next() >>> 5;
    const low = this.#next() >>> 6;
    return (high * 2 ** 26 + low) / 2 ** 53;
  }

  fillUniform(values: Float32Array, low: number, high: number): void {
    for (let i = 0; i < values.length; i++) values[i] = low + (high - low) * this.uniform();
  }

  /** Box-Muller, a pair at a time; the second of the last pair is lost where the count is odd. */
  fillNormal(values: Float32Array, mean: number, std: number): void {
    for (let i = 0; i < values.length; i += 2) {
      const radius = std * Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      values[i] = mean + radius * Math.cos(angle);
      if (i + 1 < values.length) values[i + 1] = mean + radius * Math.sin(angle);
    }
  }

  #next(): number {
    const s = this.#state as unknown as [number, number, number, number];
    const result = Math.imul(rotate(Math.imul(s[1], 5), 7), 9) >>> 0;
    const shifted = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= shifted;
    s[3] = rotate(s[3], 11);
    return result;
  }
}

const rotate = (x: number, by: number) => (x << by) | (x >>> (32 - by));

function seeded(seed: number): Uint32Array<ArrayBuffer> {
  const state = new Uint32Array(STATE_BYTES / 4);
  // Both halves of a seed above 2^32 count.
  let x = (seed | 0) ^ Math.imul(Math.floor(seed / 2 ** 32) | 0, 0x85ebca6b);
  for (let i = 0; i < state.length; i++) {
    x = (x + 0x9e3779b9) | 0;
    let z = x;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    state[i] = z ^ (z >>> 15);
  }
  return state;
}
