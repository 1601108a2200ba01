/**
 * Bicubic (a = −0.5) antialiased resampling of 8-bit RGB, in the fixed-point arithmetic of Pillow's `Image.resize`:
 * horizontal pass, rounding to bytes, vertical pass. Bit for bit the same bytes, which sharp's own resize does not give.
 */
import { normalizeScalar, resampleScalar } from './resample-scalar.ts';
import { resampleVector } from './resample-vector.ts';
import {
  type Affine,
  type Coefficients,
  coefficients,
  type Job,
  type Picture,
  type Rectangle,
} from './resample-weights.ts';

export type { Picture, Rectangle } from './resample-weights.ts';

/**
 * `picture` resized to width × height, of which only `crop` is computed, then normalised: (byte/255 − mean)/std by channel →
 * [3, crop height, crop width].
 */
export function resampleNormalized(
  picture: Picture,
  width: number,
  height: number,
  crop: Rectangle,
  { mean, std }: { mean: readonly number[]; std: readonly number[] },
): Float32Array {
  const affine: Affine = {
    mul: std.map((deviation) => Math.fround(1 / (255 * deviation))),
    add: mean.map((value, channel) => Math.fround(-value / std[channel]!)),
  };
  const job = resampleJob(picture, width, height, crop);
  return resampleVector(job, affine) ?? normalizeScalar(resampleScalar(job), affine);
}

export function resampleJob(picture: Picture, width: number, height: number, crop: Rectangle): Job {
  // Where a side keeps its length the weights are 0, 1, 0: the pass copies, as Pillow's leaving it out does.
  const across = remembered(picture.width, width, crop.left, crop.width);
  const down = remembered(picture.height, height, crop.top, crop.height);
  const firstRow = down.first[0]!;
  const lastRow = down.first[crop.height - 1]! + down.count[crop.height - 1]!;
  return { picture, firstRow, lastRow, across, down, width: crop.width, height: crop.height };
}

/** Pictures of one size are frequent, and their weights are a tenth of the work. */
const tables = new Map<string, Coefficients>();
const MAX_TABLES = 64;

function remembered(...sides: [input: number, output: number, from: number, size: number]): Coefficients {
  const key = sides.join();
  let table = tables.get(key);
  if (table === undefined) {
    table = coefficients(...sides);
    if (tables.size === MAX_TABLES) tables.clear();
    tables.set(key, table);
  }
  return table;
}
