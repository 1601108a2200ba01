import assert from 'node:assert/strict';

export interface Tolerance {
  /** Largest |actual − expected|, relative to the largest |expected| of the whole tensor. */
  relative: number;
}

/** Compares two tensors as wholes and names the worst element when they differ. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  { relative }: Tolerance,
  name: string,
): void {
  assert.equal(actual.length, expected.length, `${name}: number of elements`);
  let size = 0;
  let worst = 0;
  let at = 0;
  for (let i = 0; i < expected.length; i++) {
    size = Math.max(size, Math.abs(expected[i]!));
    const difference = Math.abs(actual[i]! - expected[i]!);
    if (!(difference <= worst)) [worst, at] = [difference, i];
  }
  const bound = relative * size;
  assert.ok(
    worst <= bound,
    `${name}: element ${at} is ${actual[at]}, expected ${expected[at]}; off by ${worst}, allowed ${bound}`,
  );
}
