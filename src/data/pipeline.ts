/** Everything between a position in the order of samples and a batch. Runs inside the loader's worker thread. */
import { basename, dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { mistake } from '../errors.ts';
import { collate, type Sample } from './collate.ts';
import { type DataRecord, type Dataset, openDataset } from './dataset.ts';
import { encodeRecord } from './example.ts';
import { type Aspect, loadImage } from './images.ts';
import { isRecordProblem, type ProblemKind, problem } from './problem.ts';
import { Sampler, type SamplerKind } from './sampler.ts';
import { findTemplate, type Template } from './templates.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';
import type { GlobalBatch, MicroBatch } from './types.ts';

export interface DataOptions {
  dataPath: string;
  /** Root of the records' image paths; the data file's own folder when null. */
  imageFolder: string | null;
  tokenizerFolder: string;
  template: string;
  /** Longest record in positions, image positions included. */
  maxLength: number;
  imageSize: number;
  featuresPerImage: number;
  aspect: Aspect;
  imageMean?: readonly number[];
  imageStd?: readonly number[];
  useImStartEnd: boolean;
  imStartId?: number;
  imEndId?: number;
  microBatchSize: number;
  /** Over all ranks. */
  globalBatchSize: number;
  dataParallelRank: number;
  dataParallelSize: number;
  seed: number;
  dataloaderType: SamplerKind;
  /** Global batches kept ready ahead of training. */
  prefetchBatches: number;
  /**
   * A record that cannot be used: `error` ends the run, `skip` leaves it out of its micro batch,
   * `replace` takes the next usable record of the file.
   */
  onError: 'error' | 'skip' | 'replace';
  /** Limits of one image file. */
  maxImageBytes?: number;
  maxImagePixels?: number;
}

/** One record that was not usable, as it was met. */
export interface MetProblem {
  kind: ProblemKind;
  message: string;
}

/** Pictures decoded at the same time: enough for libuv's four threads, few enough to bound memory. */
const DECODING = 8;

export class Pipeline {
  readonly dataset: Dataset;
  readonly tokenizer: Tokenizer;
  readonly template: Template;
  readonly #options: DataOptions;
  readonly #sampler: Sampler;
  #problems: MetProblem[] = [];

  constructor(options: DataOptions) {
    const { globalBatchSize, microBatchSize, dataParallelSize } = options;
    if (globalBatchSize % (microBatchSize * dataParallelSize) !== 0) {
      throw mistake({
        where: 'model.global_batch_size',
        problem: 'not a multiple of micro batch size times data-parallel ranks',
        expected: `a multiple of ${microBatchSize} × ${dataParallelSize}`,
        found: String(globalBatchSize),
      });
    }
    this.#options = options;
    this.template = findTemplate(options.template);
    this.tokenizer = loadTokenizer(options.tokenizerFolder);
    this.dataset = openDataset(options.dataPath);
    const { size } = this.dataset;
    if (size < globalBatchSize && options.dataloaderType === 'cyclic') {
      this.dataset.close();
      throw mistake({
        where: options.dataPath,
        problem: 'fewer records than one global batch takes',
        expected: `at least model.global_batch_size = ${globalBatchSize} records`,
        found: `${size}`,
        fix: 'lower model.global_batch_size, or set model.data.dataloader_type=single',
      });
    }
    this.#sampler = new Sampler({ kind: options.dataloaderType, size, globalBatchSize, seed: options.seed });
  }

  /** This rank's share of the global batch that begins after `position` consumed samples. */
  async batch(position: number): Promise<GlobalBatch> {
    const { globalBatchSize, microBatchSize, dataParallelRank, dataParallelSize } = this.#options;
    const { indices, epoch } = this.#sampler.batch(position);
    const microBatches: MicroBatch[] = [];
    // Dealt out micro batch by micro batch: the global batch is the same whatever the number of ranks.
    for (
      let from = dataParallelRank * microBatchSize;
      from < indices.length;
      from += microBatchSize * dataParallelSize
    ) {
      microBatches.push(await this.#microBatch([...indices.subarray(from, from + microBatchSize)]));
    }
    return {
      microBatches,
      labelTokens: microBatches.reduce((sum, { labelRows }) => sum + labelRows.length, 0),
      epoch,
      consumedSamples: position + globalBatchSize,
    };
  }

  /** Problems met since the last call. */
  takeProblems(): MetProblem[] {
    const taken = this.#problems;
    this.#problems = [];
    return taken;
  }

  close(): void {
    this.dataset.close();
  }

  async #microBatch(indices: readonly number[]): Promise<MicroBatch> {
    const { imageSize, featuresPerImage, onError } = this.#options;
    const found = await mapLimited(indices, DECODING, (index) => this.#usable(index, onError === 'replace'));
    const samples = found.filter((sample) => sample !== null);
    if (samples.length === 0) {
      // A micro batch cannot be empty: where all of its records are bad, the next good one stands in.
      const stand = await this.#usable(indices[0] as number, true);
      if (stand) samples.push(stand);
    }
    return collate(samples, { imageSize, featuresPerImage, padId: this.tokenizer.padId ?? 0 });
  }

  /** The sample, or null where it is to be skipped; with `replace`, the next usable one in file order. */
  async #usable(index: number, replace: boolean): Promise<Sample | null> {
    const { size } = this.dataset;
    for (let tried = 0; tried < size; tried++) {
      try {
        return await this.sample((index + tried) % size);
      } catch (error) {
        if (this.#options.onError === 'error' || !isRecordProblem(error)) throw error;
        this.#problems.push({ kind: error.kind, message: error.message });
        if (!replace) return null;
      }
    }
    throw mistake({
      where: this.#options.dataPath,
      problem: 'not one of its records is usable',
      fix: 'run `neva data check`',
    });
  }

  /** Record `index` encoded, with its pictures decoded. */
  async sample(index: number): Promise<Sample> {
    const record = this.dataset.get(index);
    const where = `${this.#options.dataPath}, record ${index} (id ${record.id})`;
    const example = encodeRecord(record, this.template, this.tokenizer, this.#options, where);
    const pictures = await Promise.all(record.images.map((image) => this.#picture(image, record, where)));
    return { id: record.id, example, pictures };
  }

  async #picture(image: string, _record: DataRecord, where: string): Promise<Float32Array> {
    const { imageSize, aspect, imageMean, imageStd, maxImageBytes, maxImagePixels } = this.#options;
    const path = imagePath(image, this.#options, where);
    try {
      return await loadImage(path, {
        imageSize,
        aspect,
        mean: imageMean,
        std: imageStd,
        maxBytes: maxImageBytes,
        maxPixels: maxImagePixels,
      });
    } catch (error) {
      if (isRecordProblem(error)) error.message = `${where}: ${error.message}`;
      throw error;
    }
  }
}

/** Where a record's image lies. A path that leads out of the image folder is refused. */
export function imagePath(
  image: string,
  options: { dataPath: string; imageFolder: string | null },
  where: string,
): string {
  const root = resolve(options.imageFolder ?? dirname(options.dataPath));
  const path = resolve(root, image);
  const inside = relative(root, path);
  if (
    inside === '' ||
    inside === '..' ||
    inside.startsWith(`..${sep}`) ||
    isAbsolute(inside) ||
    /^[a-z]+:\/\//i.test(image)
  ) {
    throw problem('image_outside', {
      where: `${where}: image`,
      problem: 'the path leads out of the image folder',
      expected: `a file below ${root}`,
      found: image,
      fix: `give paths relative to model.data.image_folder, e.g. ${basename(image)}`,
    });
  }
  return path;
}

/** `Promise.all` over a bounded number of tasks, results in order; the first failure wins. */
async function mapLimited<T, R>(items: readonly T[], limit: number, task: (item: T) => Promise<R>): Promise<R[]> {
  const results = new Array<R>(items.length);
  let next = 0;
  const run = async () => {
    while (next < items.length) {
      const at = next++;
      results[at] = await task(items[at] as T);
    }
  };
  await Promise.all(Array.from({ length: Math.min(limit, items.length) }, run));
  return results;
}
