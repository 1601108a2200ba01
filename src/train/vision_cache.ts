/**
 * Features of a frozen vision tower, computed once (model.data.vision_cache): every picture that training and validation show
 * goes through the tower before the first step, in large batches, and its features are read from the disk from then on, in
 * later epochs, runs and stages too. What they depend on names the folder, so another tower or another preprocessing finds none.
 */
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { readSafetensors, writeTensors } from '../checkpoint/safetensors.ts';
import { mapLimited } from '../data/concurrent.ts';
import { type CachedPicture, FeatureIndex } from '../data/feature_index.ts';
import type { ImageFile } from '../data/image-store.ts';
import type { DataOptions } from '../data/loader.ts';
import { isRecordProblem } from '../data/problem.ts';
import { DECODING, SampleSource } from '../data/source.ts';
import type { Engine } from '../engine/engine.ts';
import { writeFileAtomic } from '../files.ts';
import type { NevaModel } from '../model/neva.ts';
import type { Ranks } from '../parallel/ranks.ts';

/** Pictures that go through the tower together. */
const BATCH = 32;
/** A file of features has about so many bytes. */
const SHARD_BYTES = 2 ** 28;
/** To be raised when preprocessing or the order of features changes. */
const VERSION = 1;

export interface VisionCache {
  /** Where the features of this tower and preprocessing are. */
  folder: string;
  /** Pictures that the data show, and how many of them were encoded now, over all ranks. */
  pictures: number;
  encoded: number;
}

/**
 * Encodes what is missing, shared out over the ranks that have the tower; the disk of all ranks is the same. A picture that cannot be read ends the run
 * (`on_error=error`), or has no features: its records are dealt with when their turn comes.
 */
export async function fillVisionCache(
  engine: Engine,
  model: NevaModel,
  data: readonly DataOptions[],
  root: string,
  { world, stage, at }: Ranks,
  onProgress: (done: number, total: number) => void = () => {},
): Promise<VisionCache> {
  const own = world.rank === 0 ? fingerprint(engine, model, data[0]!) : null;
  const folder = join(root, world.share(own, "rank 0's digest of the vision tower"));
  mkdirSync(folder, { recursive: true });
  const sources = [];
  try {
    for (const options of data) sources.push(await SampleSource.open(options));
    const pictures = new Map(sources.flatMap((source) => [...picturesOf(source)]));
    const index = new FeatureIndex(folder);
    const missing = [...pictures].filter(([, { file }]) => !index.find(file)).map(([, picture]) => picture);
    // Every rank has looked before one of them writes.
    world.sum([0], 'the others to look into the vision cache');
    // Later pipeline stages have no tower.
    const share = at.pipeline === 0 ? missing.filter((_, i) => i % stage.size === stage.rank) : [];
    const { featuresPerImage: P } = data[0]!;
    const perShard = Math.max(1, Math.floor(SHARD_BYTES / (P * model.shape.vision.hiddenSize * 4)));
    const rounds = Math.ceil(Math.ceil(missing.length / stage.size) / perShard);
    let encoded = 0;
    for (let round = 0; round < rounds; round++) {
      const part = share.slice(round * perShard, (round + 1) * perShard);
      encoded += await writeShard(engine, model, part, folder, data[0]!);
      // Ranks stay together, or a slow one would run into the others' time limit at the end.
      world.sum([0], 'the others to encode pictures');
      onProgress(Math.min(missing.length, (round + 1) * perShard * stage.size), missing.length);
    }
    const [all] = world.sum([encoded], 'the others to encode pictures') as [number];
    return { folder, pictures: pictures.size, encoded: all };
  } finally {
    for (const source of sources) source.close();
  }
}

/** A SHA-256 over the weights that are used, the tower's shape, number format, and what happens to a picture before it. */
function fingerprint(engine: Engine, model: NevaModel, data: DataOptions): string {
  const digest = createHash('sha256');
  const { aspect, imageSize, imageMean, imageStd } = data;
  const dtype = model.computeDtype;
  digest.update(JSON.stringify([VERSION, model.shape.vision, dtype, aspect, imageSize, imageMean, imageStd]));
  for (const { name, value } of model.vision.parameters) digest.update(name).update(engine.bytes(value));
  return digest.digest('hex').slice(0, 32);
}

interface Picture {
  file: ImageFile;
  source: SampleSource;
}

/** Every picture once, by name. Records that cannot be read have none: they are reported when their turn comes. */
function* picturesOf(source: SampleSource): Generator<[string, Picture]> {
  for (let number = 0; number < source.size; number++) {
    try {
      for (const file of source.imageFiles(number, source.get(number))) yield [file.name, { file, source }];
    } catch (error) {
      if (!isRecordProblem(error)) throw error;
    }
  }
}

/** One file of features [N, P, C] and, once it is whole, the list of what it holds. Returns N. */
async function writeShard(
  engine: Engine,
  model: NevaModel,
  pictures: readonly Picture[],
  folder: string,
  { imageSize, onError }: DataOptions,
): Promise<number> {
  const listed: Omit<CachedPicture, 'offset' | 'file'>[] = [];
  const batches: { shape: readonly number[]; bytes: Uint8Array }[] = [];
  for (let from = 0; from < pictures.length; from += BATCH) {
    const decoded = await mapLimited(pictures.slice(from, from + BATCH), DECODING, async ({ file, source }) => {
      try {
        const stamp = file.stamp();
        return { name: file.name, stamp, pixels: await source.pixels(file) };
      } catch (error) {
        if (onError === 'error' || !isRecordProblem(error)) throw error;
        return null;
      }
    });
    const good = decoded.filter((each) => each?.stamp).map((each) => each!);
    if (good.length === 0) continue;
    const size = 3 * imageSize * imageSize;
    const pixels = new Float32Array(good.length * size);
    good.forEach((each, i) => {
      pixels.set(each.pixels, i * size);
    });
    const features = model.features(pixels, good.length);
    batches.push({ shape: features.shape, bytes: engine.bytes(features) });
    features.dispose();
    for (const { name, stamp } of good) listed.push({ name, ...stamp! });
  }
  if (listed.length === 0) return 0;
  // Named by content: a run that was killed and started again makes the same files, and others do not collide.
  const label = createHash('sha256').update(JSON.stringify(listed)).digest('hex').slice(0, 16);
  const path = join(folder, `${label}.safetensors`);
  const shape = [listed.length, ...batches[0]!.shape.slice(1)];
  const stream = (take: (part: Uint8Array) => void) => {
    for (const { bytes } of batches) take(bytes);
  };
  const data = () => Buffer.concat(batches.map(({ bytes }) => bytes));
  writeTensors(path, [{ name: 'features', dtype: model.computeDtype, shape, data, stream }]);
  const { offset, nbytes } = readSafetensors(path).entries.get('features')!;
  const each = nbytes / listed.length;
  const lines = listed.map((picture, i) =>
    JSON.stringify({ ...picture, file: basename(path), offset: offset + i * each } satisfies CachedPicture),
  );
  writeFileAtomic(join(folder, `${label}.jsonl`), `${lines.join('\n')}\n`);
  return listed.length;
}
