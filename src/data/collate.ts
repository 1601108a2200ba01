/** Examples → the padded typed arrays that training takes. */
import type { Example } from './example.ts';
import type { FeaturePlace } from './feature_index.ts';
import { IGNORE, type MicroBatch } from './types.ts';

export interface Sample {
  id: string;
  example: Example;
  /** One [3, S, S] picture for each of the example's images. */
  pictures: readonly Float32Array[];
  /** In place of pictures, where their features are on the disk. */
  features?: readonly FeaturePlace[];
}

export interface CollateOptions {
  imageSize: number;
  featuresPerImage: number;
  padId: number;
}

export function collate(
  samples: readonly Sample[],
  { imageSize, featuresPerImage, padId }: CollateOptions,
): MicroBatch {
  const batch = samples.length;
  const length = Math.max(...samples.map(({ example }) => example.ids.length));
  const ids = new Int32Array(batch * length).fill(padId);
  const lengths = Int32Array.from(samples, ({ example }) => example.ids.length);
  const labelRows: number[] = [];
  const labelTargets: number[] = [];
  const cached = samples.some(({ features }) => features !== undefined);
  const features = cached ? samples.flatMap((sample) => sample.features ?? []) : null;
  const imageCount = features?.length ?? samples.reduce((sum, { pictures }) => sum + pictures.length, 0);
  const pictureSize = 3 * imageSize * imageSize;
  const pixels = new Float32Array(cached ? 0 : imageCount * pictureSize);
  const imageRows = new Int32Array(imageCount * featuresPerImage);
  let image = 0;
  samples.forEach(({ example, pictures }, b) => {
    ids.set(example.ids, b * length);
    for (let t = 1; t < example.labels.length; t++) {
      const label = example.labels[t] as number;
      if (label === IGNORE) continue;
      labelRows.push(b * length + t - 1);
      labelTargets.push(label);
    }
    for (const [i, picture] of pictures.entries()) pixels.set(picture, (image + i) * pictureSize);
    for (let i = 0; i < example.imageStarts.length; i++) {
      const start = b * length + (example.imageStarts[i] as number);
      for (let p = 0; p < featuresPerImage; p++) imageRows[image * featuresPerImage + p] = start + p;
      image++;
    }
  });
  return {
    batch,
    length,
    ids,
    lengths,
    packed: null,
    room: batch * length,
    labelRows: Int32Array.from(labelRows),
    labelTargets: Int32Array.from(labelTargets),
    pixels,
    features,
    imageCount,
    imageSize,
    imageRows,
    records: samples.map(({ id }) => id),
    cut: countCut(samples),
  };
}

const countCut = (samples: readonly Sample[]): number => samples.filter(({ example }) => example.cut > 0).length;

/** Samples that lie one after the other in one row: no position is padding. `room`: see MicroBatch. */
export function collatePacked(samples: readonly Sample[], room: number, options: CollateOptions): MicroBatch {
  const lengths = Int32Array.from(samples, ({ example }) => example.ids.length);
  const starts: number[] = [];
  let length = 0;
  for (const each of lengths) {
    starts.push(length);
    length += each;
  }
  const joined: Int32Array = new Int32Array(length);
  const labels = new Int32Array(length);
  samples.forEach(({ example }, i) => {
    joined.set(example.ids, starts[i]!);
    labels.set(example.labels, starts[i]!);
    labels[starts[i]!] = IGNORE; // the first position has no predecessor: the one before belongs to another record
  });
  const imageStarts = samples.flatMap(({ example }, i) => example.imageStarts.map((start) => start + starts[i]!));
  const pictures = samples.flatMap((sample) => sample.pictures);
  const cached = samples.some(({ features }) => features !== undefined);
  const features = cached ? { features: samples.flatMap((sample) => sample.features ?? []) } : {};
  const one = { id: '', example: { ids: joined, labels, imageStarts, cut: 0 }, pictures, ...features };
  const records = samples.map(({ id }) => id);
  return { ...collate([one], options), lengths, packed: lengths, room, records, cut: countCut(samples) };
}
