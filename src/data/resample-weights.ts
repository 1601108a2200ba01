/** Pillow's bicubic filter (a = −0.5, widened when shrinking) as integer weights, and what the two passes share. */

/** RGB bytes, row by row. */
export interface Picture {
  data: Uint8Array;
  width: number;
  height: number;
}

export interface Rectangle {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Pillow's PRECISION_BITS for 8-bit channels: 32 − 8 − 2. */
export const PRECISION = 22;
const SUPPORT = 2;

export interface Coefficients {
  taps: number;
  /** First input position of each output position, and how many it draws on. */
  first: Int32Array;
  count: Int32Array;
  /** [output, taps] weights · 2²². */
  weights: Int32Array;
}

function bicubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

/**
 * Weights of `size` output positions from `from` on, where `input` positions become `output`.
 */
export function coefficients(input: number, output: number, from: number, size: number): Coefficients {
  const scale = input / output;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT * filterScale;
  const taps = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(size);
  const count = new Int32Array(size);
  const weights = new Int32Array(size * taps);
  const row = new Float64Array(taps);
  for (let i = 0; i < size; i++) {
    const center = (from + i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const high = Math.min(input, Math.trunc(center + support + 0.5));
    let sum = 0;
    for (let x = low; x < high; x++) {
      const weight = bicubic((x - center + 0.5) * (1 / filterScale));
      row[x - low] = weight;
      sum += weight;
    }
    for (let x = 0; x < high - low; x++) {
      const scaled = ((row[x] as number) / sum) * 2 ** PRECISION;
      weights[i * taps + x] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    }
    first[i] = low;
    count[i] = high - low;
  }
  return { taps, first, count, weights };
}

/** What both passes need: the rows of the source that matter, and the weights across and down. */
export interface Job {
  picture: Picture;
  /** Source rows [firstRow, lastRow) that the vertical pass draws on. */
  firstRow: number;
  lastRow: number;
  across: Coefficients;
  down: Coefficients;
  width: number;
  height: number;
}

/** byte · mul + add by channel, in float32. */
export interface Affine {
  mul: number[];
  add: number[];
}
