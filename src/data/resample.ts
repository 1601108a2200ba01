/**
 * Bicubic (a = −0.5) antialiased resampling of 8-bit RGB, in the fixed-point arithmetic of Pillow's `Image.resize`:
 * horizontal pass, rounding to bytes, vertical pass. Bit for bit the same bytes, which sharp's own resize does not give.
 */
import { resampleScalar } from './resample-scalar.ts';
import { resampleVector } from './resample-vector.ts';
import { coefficients, type Job, type Picture, type Rectangle } from './resample-weights.ts';

export type { Picture, Rectangle } from './resample-weights.ts';

/** `picture` resized to width × height, of which only `crop` is computed. */
export function resample(picture: Picture, width: number, height: number, crop: Rectangle): Picture {
  // Where a side keeps its length the weights are 0, 1, 0: the pass copies, as Pillow's leaving it out does.
  const across = coefficients(picture.width, width, crop.left, crop.width);
  const down = coefficients(picture.height, height, crop.top, crop.height);
  const firstRow = down.first[0]!;
  const lastRow = down.first[crop.height - 1]! + down.count[crop.height - 1]!;
  const job: Job = { picture, firstRow, lastRow, across, down, width: crop.width, height: crop.height };
  return { data: resampleVector(job) ?? resampleScalar(job), width: crop.width, height: crop.height };
}
