/** Batches for THE loop out of the reference's three records, and a report that keeps its figures. */
import type { GlobalBatch, MicroBatch } from '../../src/data/types.ts';
import type { Engine } from '../../src/engine/engine.ts';
import type { StepMetrics } from '../../src/report/metrics.ts';
import type { Report } from '../../src/report/report.ts';
import { tensorFile } from './fixtures.ts';
import { reference } from './llava.ts';

const T = 44;
const PICTURE = 3 * 28 * 28;
const PATCHES = 16;

export interface Records {
  /** The record without a picture. */
  textOnly: number;
  /** Records of the reference as one micro batch; `shift` makes other text of them. */
  micro(records: readonly number[], shift?: number): MicroBatch;
}

export function referenceRecords(engine: Engine): Records {
  const file = tensorFile(engine, 'llava/reference.safetensors');
  const pixels = Float32Array.from(file.values('pixel_values'));
  const ids = Int32Array.from(file.values('input_ids'));
  const labels = Int32Array.from(file.values('labels'));
  const lengths = Int32Array.from(file.values('lengths'));
  /** Pictures of each record (two of the three have some), counted from its image positions. */
  const picturesOf = [0, 1, 2].map(
    (record) =>
      ids.subarray(record * T, (record + 1) * T).filter((id) => id === reference.image_token).length / PATCHES,
  );
  const firstPicture = (record: number) => picturesOf.slice(0, record).reduce((sum, count) => sum + count, 0);

  const micro = (records: readonly number[], shift = 0): MicroBatch => {
    const rows: number[] = [];
    const targets: number[] = [];
    const imageRows: number[] = [];
    const pictures: number[] = [];
    const own = new Int32Array(records.length * T);
    records.forEach((record, b) => {
      for (let t = 0; t < T; t++) {
        const id = ids[record * T + t]!;
        const isImage = id === reference.image_token;
        if (isImage) imageRows.push(b * T + t);
        own[b * T + t] = isImage ? 0 : (id + shift) % 90;
        const label = labels[record * T + t]!;
        if (t > 0 && label !== -100) {
          rows.push(b * T + t - 1);
          targets.push((label + shift) % 90);
        }
      }
      for (let i = 0; i < picturesOf[record]!; i++) pictures.push(firstPicture(record) + i);
    });
    return {
      batch: records.length,
      length: T,
      ids: own,
      lengths: Int32Array.from(records, (record) => lengths[record]!),
      packed: null,
      room: records.length * T,
      labelRows: Int32Array.from(rows),
      labelTargets: Int32Array.from(targets),
      pixels: Float32Array.from(pictures.flatMap((r) => [...pixels.subarray(r * PICTURE, (r + 1) * PICTURE)])),
      imageCount: pictures.length,
      imageSize: 28,
      imageRows: Int32Array.from(imageRows),
      records: records.map(String),
    };
  };
  return { textOnly: picturesOf.indexOf(0), micro };
}

/** The same records one after the other in one row, without padding. */
export function packedOf(micro: MicroBatch): MicroBatch {
  const starts = [0];
  for (const length of micro.lengths) starts.push(starts.at(-1)! + length);
  const move = (row: number) => starts[Math.floor(row / micro.length)]! + (row % micro.length);
  const rows = [...micro.lengths].map((length, b) => micro.ids.subarray(b * micro.length, b * micro.length + length));
  return {
    ...micro,
    batch: 1,
    length: starts.at(-1)!,
    ids: Int32Array.from(rows.flatMap((row) => [...row])),
    packed: micro.lengths,
    labelRows: micro.labelRows.map(move),
    imageRows: micro.imageRows.map(move),
  };
}

/** The same micro batch with nothing to learn from. */
export const unlabelled = (micro: MicroBatch): MicroBatch => ({
  ...micro,
  labelRows: new Int32Array(0),
  labelTargets: new Int32Array(0),
});

/**
 * Four micro batches for up to four ranks: with pictures, mixed, text alone, and nothing labelled; every fifth step is text
 * alone on all ranks, and they take turns.
 */
export function microBatchesOf({ micro, textOnly }: Records, step: number): MicroBatch[] {
  const all =
    step % 5 === 4
      ? [0, 1, 2, 3].map((i) => micro([textOnly], step + i))
      : [micro([0, 1], step), micro([2, 0], step + 1), micro([textOnly], step + 2), unlabelled(micro([1], step + 3))];
  return all.map((_, i) => all[(i + step) % 4]!);
}

export const batchOf = (microBatches: MicroBatch[], consumedSamples: number): GlobalBatch => ({
  microBatches,
  labelTokens: microBatches.reduce((sum, { labelRows }) => sum + labelRows.length, 0),
  epoch: 0,
  consumedSamples,
});

export function reportInto(lines: StepMetrics[], stop: Report['stop'] = new AbortController().signal): Report {
  const nothing = () => {};
  return {
    log: { debug: nothing, info: nothing, warn: nothing, error: nothing },
    progress: { start: nothing, step: nothing, print: nothing, stop: nothing },
    metrics: { step: (line: StepMetrics) => lines.push(line), validation: nothing },
    stop,
  } as unknown as Report;
}
