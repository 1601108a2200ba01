/**
 * Bicubic (a = −0.5) antialiased resampling of 8-bit RGB, in the fixed-point arithmetic of Pillow's `Image.resize`:
 * horizontal pass, rounding to bytes, vertical pass. Bit for bit the same bytes, which sharp's own resize does not give
 * (libvips shrinks by whole factors first).
 */

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
const PRECISION = 22;
const SUPPORT = 2;

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

const clip8 = (sum: number) => {
  const value = sum >> PRECISION;
  return Math.max(0, Math.min(value, 255));
};

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
): Uint8Array {
  const out = new Uint8Array((lastRow - firstRow) * width * 3);
  let to = 0;
  for (let y = firstRow; y < lastRow; y++) {
    if (copy) {
      const from = (y * stride + copy.left) * 3;
      out.set(data.subarray(from, from + width * 3), to);
      to += width * 3;
      continue;
    }
    for (let x = 0; x < width; x++) {
      let r = 1 << (PRECISION - 1);
      let g = r;
      let b = r;
      let from = (y * stride + (first[x] as number)) * 3;
      const start = x * taps;
      const end = start + (count[x] as number);
      for (let k = start; k < end; k++) {
        const weight = weights[k] as number;
        r = (r + Math.imul(data[from] as number, weight)) | 0;
        g = (g + Math.imul(data[from + 1] as number, weight)) | 0;
        b = (b + Math.imul(data[from + 2] as number, weight)) | 0;
        from += 3;
      }
      out[to] = clip8(r);
      out[to + 1] = clip8(g);
      out[to + 2] = clip8(b);
      to += 3;
    }
  }
  return out;
}

function vertical(
  rows: Uint8Array,
  firstRow: number,
  { taps, first, count, weights }: Coefficients,
  width: number,
  height: number,
): Uint8Array {
  const stride = width * 3;
  const out = new Uint8Array(stride * height);
  const sums = new Int32Array(stride);
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (PRECISION - 1));
    for (let k = 0; k < (count[y] as number); k++) {
      const weight = weights[y * taps + k] as number;
      const from = ((first[y] as number) + k - firstRow) * stride;
      for (let x = 0; x < stride; x++) {
        sums[x] = (sums[x] as number) + Math.imul(rows[from + x] as number, weight);
      }
    }
    const to = y * stride;
    for (let x = 0; x < stride; x++) out[to + x] = clip8(sums[x] as number);
  }
  return out;
}
