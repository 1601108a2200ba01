/** The two passes in plain JavaScript: for pictures too large for the vector memory, and as its check. */
import { type Affine, type Coefficients, type Job, type Picture, PRECISION } from './resample-weights.ts';

/** One half, in fixed point: rounding. */
const HALF = 1 << (PRECISION - 1);

/** RGB bytes [height, width, 3]. */
export function resampleScalar({ picture, firstRow, lastRow, across, down, width, height }: Job): Uint8Array {
  const rows = horizontal(picture, firstRow, lastRow, across, width);
  return new Uint8Array(vertical(rows, firstRow, down, width, height).buffer);
}

function horizontal(
  { data, width: stride }: Picture,
  firstRow: number,
  lastRow: number,
  { taps, first, count, weights }: Coefficients,
  width: number,
): Uint8ClampedArray {
  // Stores clamp to 0 … 255 by themselves, as Pillow's clip8 does.
  const out = new Uint8ClampedArray((lastRow - firstRow) * width * 3);
  let to = 0;
  for (let y = firstRow; y < lastRow; y++) {
    const row = y * stride * 3;
    for (let x = 0; x < width; x++) {
      let r = HALF;
      let g = HALF;
      let b = HALF;
      let from = row + first[x]! * 3;
      const start = x * taps;
      const end = start + count[x]!;
      for (let k = start; k < end; k++) {
        const weight = weights[k]!;
        r = (r + Math.imul(data[from]!, weight)) | 0;
        g = (g + Math.imul(data[from + 1]!, weight)) | 0;
        b = (b + Math.imul(data[from + 2]!, weight)) | 0;
        from += 3;
      }
      out[to] = r >> PRECISION;
      out[to + 1] = g >> PRECISION;
      out[to + 2] = b >> PRECISION;
      to += 3;
    }
  }
  return out;
}

function vertical(
  rows: Uint8ClampedArray,
  firstRow: number,
  { taps, first, count, weights }: Coefficients,
  width: number,
  height: number,
): Uint8ClampedArray {
  const stride = width * 3;
  const out = new Uint8ClampedArray(stride * height);
  const sums = new Int32Array(stride);
  for (let y = 0; y < height; y++) {
    const to = y * stride;
    const end = count[y]!;
    let from = (first[y]! - firstRow) * stride;
    let k = y * taps;
    sums.fill(HALF);
    // Two rows at a time: half the traffic with the sums.
    let left = end;
    for (; left >= 2; left -= 2, k += 2, from += 2 * stride) {
      const weightA = weights[k]!;
      const weightB = weights[k + 1]!;
      const next = from + stride;
      for (let x = 0; x < stride; x++) {
        sums[x] = (sums[x]! + Math.imul(rows[from + x]!, weightA) + Math.imul(rows[next + x]!, weightB)) | 0;
      }
    }
    if (left === 1) {
      const weight = weights[k]!;
      for (let x = 0; x < stride; x++) sums[x] = (sums[x]! + Math.imul(rows[from + x]!, weight)) | 0;
    }
    for (let x = 0; x < stride; x++) out[to + x] = sums[x]! >> PRECISION;
  }
  return out;
}

/** RGB bytes → [3, pixels] float32. */
export function normalizeScalar(data: Uint8Array, { mul, add }: Affine): Float32Array {
  const pixels = data.length / 3;
  const out = new Float32Array(3 * pixels);
  for (let channel = 0; channel < 3; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte * mul[channel]!) + add[channel]!);
    const plane = channel * pixels;
    for (let i = 0; i < pixels; i++) out[plane + i] = table[data[i * 3 + channel]!]!;
  }
  return out;
}
