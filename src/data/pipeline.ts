/** Everything between a position in the order of samples and a batch. Runs inside the loader's worker thread. */
import { mistake } from '../errors.ts';
import { collate, type Sample } from './collate.ts';
import { mapLimited } from './concurrent.ts';
import { isRecordProblem, type ProblemKind } from './problem.ts';
import { Sampler, type SamplerKind } from './sampler.ts';
import { SampleSource, type SourceOptions } from './source.ts';
import type { GlobalBatch, MicroBatch } from './types.ts';

export interface DataOptions extends SourceOptions {
  microBatchSize: number;
  /** Over all ranks. */
  globalBatchSize: number;
  dataParallelRank: number;
  dataParallelSize: number;
  seed: number;
  dataloaderType: SamplerKind;
  /** For `group_by_modality_length`: global batches that are sorted by length together. */
  poolBatches?: number;
  /** Global batches kept ready ahead of training. */
  prefetchBatches: number;
  /**
   * A record that cannot be used: `error` ends the run, `skip` leaves it out of its micro batch,
   * `replace` takes the next usable record of the file.
   */
  onError: 'error' | 'skip' | 'replace';
  /** With `skip` and `replace`: stop all the same when more than this share of the file's records is bad. Default 1. */
  maxBadFraction?: number;
}

/** One record that was not usable, as it was met. */
export interface MetProblem {
  kind: ProblemKind;
  message: string;
}

/** Pictures decoded at the same time: enough for libuv's four threads, few enough to bound memory. */
const DECODING = 8;

export class Pipeline {
  readonly source: SampleSource;
  readonly #options: DataOptions;
  readonly #sampler: Sampler;
  #problems: MetProblem[] = [];
  /** Bad records met so far, each once however often it came up. */
  readonly #bad = new Map<number, ProblemKind>();

  private constructor(options: DataOptions, source: SampleSource) {
    this.#options = options;
    this.source = source;
    this.#sampler = new Sampler({
      kind: options.dataloaderType,
      size: source.size,
      globalBatchSize: options.globalBatchSize,
      seed: options.seed,
      ...(options.dataloaderType === 'group_by_modality_length'
        ? { lengths: recordLengths(source, options.featuresPerImage), poolBatches: options.poolBatches }
        : {}),
    });
  }

  /** Rejects with a user error where data, tokenizer or options do not serve. */
  static async open(options: DataOptions): Promise<Pipeline> {
    const { globalBatchSize, microBatchSize, dataParallelSize } = options;
    if (globalBatchSize % (microBatchSize * dataParallelSize) !== 0) {
      throw mistake({
        where: 'model.global_batch_size',
        problem: 'not a multiple of micro batch size times data-parallel ranks',
        expected: `a multiple of ${microBatchSize} × ${dataParallelSize}`,
        found: String(globalBatchSize),
      });
    }
    const source = await SampleSource.open(options);
    if (source.size < globalBatchSize && options.dataloaderType !== 'single') {
      source.close();
      throw mistake({
        where: options.dataPath,
        problem: 'fewer records than one global batch takes',
        expected: `at least model.global_batch_size = ${globalBatchSize} records`,
        found: `${source.size}`,
        fix: 'lower model.global_batch_size, or set model.data.dataloader_type=single',
      });
    }
    return new Pipeline(options, source);
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
    this.source.close();
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
    return collate(samples, { imageSize, featuresPerImage, padId: this.source.tokenizer.padId ?? 0 });
  }

  /** The sample, or null where it is to be skipped; with `replace`, the next usable one in file order. */
  async #usable(index: number, replace: boolean): Promise<Sample | null> {
    const { size } = this.source;
    for (let tried = 0; tried < size; tried++) {
      try {
        return await this.source.sample((index + tried) % size);
      } catch (error) {
        if (this.#options.onError === 'error' || !isRecordProblem(error)) throw error;
        this.#problems.push({ kind: error.kind, message: error.message });
        this.#countBad((index + tried) % size, error.kind);
        if (!replace) return null;
      }
    }
    throw mistake({
      where: this.#options.dataPath,
      problem: 'not one of its records is usable',
      fix: 'run `neva data check`',
    });
  }

  #countBad(index: number, kind: ProblemKind): void {
    this.#bad.set(index, kind);
    const allowed = (this.#options.maxBadFraction ?? 1) * this.source.size;
    if (this.#bad.size <= allowed) return;
    const counts = new Map<ProblemKind, number>();
    for (const each of this.#bad.values()) counts.set(each, (counts.get(each) ?? 0) + 1);
    throw mistake({
      where: this.#options.dataPath,
      problem: 'too many records cannot be used',
      expected: `at most model.data.max_bad_fraction = ${this.#options.maxBadFraction} of ${this.source.size} records`,
      found: `${this.#bad.size} so far: ${[...counts].map(([each, count]) => `${each} ${count}`).join(', ')}`,
      fix: 'run `neva data check`, mend the data, or raise model.data.max_bad_fraction',
    });
  }
}

/** Words and image positions of every record, negative without a picture: near enough to positions, and no tokenizing. */
function recordLengths(source: SampleSource, featuresPerImage: number): Int32Array {
  return Int32Array.from({ length: source.size }, (_, index) => {
    try {
      const { turns, images } = source.dataset.get(index);
      const words = turns.reduce((sum, { text }) => sum + text.split(/\s+/).length, 0);
      return images.length > 0 ? words + images.length * featuresPerImage : -words;
    } catch (error) {
      // Such a record is reported when its turn comes.
      if (isRecordProblem(error)) return 0;
      throw error;
    }
  });
}
