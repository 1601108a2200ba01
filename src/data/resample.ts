/**
 * Bicubic (a = −0.5) antialiased resampling of 8-bit RGB, in the fixed-point arithmetic of Pillow's `Image.resize`:
 * horizontal pass, rounding to bytes, vertical pass. Bit for bit the same bytes, which sharp's own resize does not give
 * (libvips shrinks by whole factors first).
 */

/** RGB bytes, row by row. */
export interface Picture {
  data: Uint8Array | Uint8ClampedArray;
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
const PRECISION = 22;
const SUPPORT = 2;
/** One half, in fixed point: rounding. */
const HALF = 1 << (PRECISION - 1);

interface Coefficients {
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

function coefficients(input: number, output: number, from: number, size: number): Coefficients {
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

/** `picture` resized to width × height, of which only `crop` is computed. */
export function resample(picture: Picture, width: number, height: number, crop: Rectangle): Picture {
  const across = coefficients(picture.width, width, crop.left, crop.width);
  const down = coefficients(picture.height, height, crop.top, crop.height);
  const sameHeight = height === picture.height;
  const firstRow = sameHeight ? crop.top : (down.first[0] as number);
  const lastRow = sameHeight
    ? crop.top + crop.height
    : (down.first[crop.height - 1] as number) + (down.count[crop.height - 1] as number);
  const rows = horizontal(picture, firstRow, lastRow, width === picture.width ? crop : null, across, crop.width);
  if (sameHeight) return { data: rows, width: crop.width, height: crop.height };
  return { data: vertical(rows, firstRow, down, crop.width, crop.height), width: crop.width, height: crop.height };
}

function horizontal(
  { data, width: stride }: Picture,
  firstRow: number,
  lastRow: number,
  copy: Rectangle | null,
  { taps, first, count, weights }: Coefficients,
  width: number,
): Uint8ClampedArray {
  // Stores clamp to 0 … 255 by themselves, as Pillow's clip8 does.
  const out = new Uint8ClampedArray((lastRow - firstRow) * width * 3);
  let to = 0;
  for (let y = firstRow; y < lastRow; y++) {
    const row = y * stride * 3;
    if (copy) {
      const from = row + copy.left * 3;
      out.set(data.subarray(from, from + width * 3), to);
      to += width * 3;
      continue;
    }
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
