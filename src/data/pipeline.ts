/** Everything between a position in the order of samples and a batch. Runs inside the loader's worker thread. */
import { mistake } from '../errors.ts';
import { collate, type Sample } from './collate.ts';
import { mapLimited } from './concurrent.ts';
import { type Part, selectPart } from './held-out.ts';
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
  /** Share of the records that is held out for validation; 0 by default. */
  validationFraction?: number;
  /** Which side of that division is read; all records by default. */
  part?: Part;
  /** Global batches kept ready ahead of training. */
  prefetchBatches: number;
  /**
   * A record that cannot be used: `error` ends the run, `skip` leaves it out of its micro batch,
   * `replace` takes the next usable record of the file.
   */
  onError: 'error' | 'skip' | 'replace';
  /** With `skip` and `replace`: stop all the same when more than this share of the file's records is bad. Default 1. */
  maxBadFraction?: number;
  /** Records, spread over the data, that are tried before the first batch; none by default. */
  checkAtStart?: number;
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
  /** Numbers of the records that this pipeline reads: those of its part. */
  readonly #members: Int32Array;
  readonly #sampler: Sampler;
  #problems: MetProblem[] = [];
  /** Bad records met so far, each once however often it came up. */
  readonly #bad = new Map<number, ProblemKind>();

  private constructor(options: DataOptions, source: SampleSource) {
    const { dataloaderType: kind, globalBatchSize, seed, blend, poolBatches } = options;
    this.#options = options;
    this.source = source;
    const { members, sizes } = selectPart(source.sizes, options.part ?? 'all', options.validationFraction ?? 0);
    this.#members = members;
    const weights = blend?.map(({ weight }) => weight).filter((weight) => weight !== null);
    this.#sampler = new Sampler({
      kind,
      sizes,
      // A validation goes through every record once, whatever its share in training.
      ...(weights && weights.length > 0 && kind !== 'once' ? { weights } : {}),
      globalBatchSize,
      seed,
      ...(kind === 'group_by_modality_length'
        ? { lengths: recordLengths(source, members, options.featuresPerImage), poolBatches }
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
    try {
      const pipeline = new Pipeline(options, source);
      if (pipeline.size < globalBatchSize && !['single', 'once'].includes(options.dataloaderType)) {
        throw mistake({
          where: source.name,
          problem: 'fewer records than one global batch takes',
          expected: `at least model.global_batch_size = ${globalBatchSize} records`,
          found: `${pipeline.size}`,
          fix: 'lower model.global_batch_size, or set model.data.dataloader_type=single',
        });
      }
      await pipeline.#checkAtStart();
      return pipeline;
    } catch (error) {
      source.close();
      throw error;
    }
  }

  /** Records that this pipeline reads. */
  get size(): number {
    return this.#members.length;
  }

  /** This rank's share of the global batch that begins after `position` consumed samples. */
  async batch(position: number): Promise<GlobalBatch> {
    const { microBatchSize, dataParallelRank, dataParallelSize } = this.#options;
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
      consumedSamples: position + indices.length,
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

  /** The sample of that member, or null where it is to be skipped; with `replace`, the next usable one in file order. */
  async #usable(member: number, replace: boolean): Promise<Sample | null> {
    for (let tried = 0; tried < this.size; tried++) {
      const number = this.#members[(member + tried) % this.size]!;
      try {
        return await this.source.sample(number);
      } catch (error) {
        if (this.#options.onError === 'error' || !isRecordProblem(error)) throw error;
        this.#problems.push({ kind: error.kind, message: error.message });
        this.#bad.set(number, error.kind);
        this.#refuseAbove(this.#bad, this.size);
        if (!replace) return null;
      }
    }
    throw mistake({
      where: this.source.name,
      problem: 'not one of its records is usable',
      fix: 'run `neva data check`',
    });
  }

  /** Tries some records before training has cost anything: with `error` none may be bad, otherwise not too large a share. */
  async #checkAtStart(): Promise<void> {
    const { checkAtStart = 0, dataParallelRank, onError } = this.#options;
    // One rank is enough: its refusal ends all.
    if (dataParallelRank !== 0 || checkAtStart === 0) return;
    const count = Math.min(checkAtStart, this.size);
    const tried = Array.from({ length: count }, (_, i) => this.#members[Math.floor((i * this.size) / count)]!);
    const bad = new Map<number, ProblemKind>();
    await mapLimited(tried, DECODING, async (number) => {
      try {
        await this.source.sample(number);
      } catch (error) {
        if (onError === 'error' || !isRecordProblem(error)) throw error;
        bad.set(number, error.kind);
      }
    });
    this.#refuseAbove(bad, count);
  }

  #refuseAbove(bad: ReadonlyMap<number, ProblemKind>, records: number): void {
    const { maxBadFraction = 1 } = this.#options;
    if (bad.size <= maxBadFraction * records) return;
    const counts = new Map<ProblemKind, number>();
    for (const kind of bad.values()) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    throw mistake({
      where: this.source.name,
      problem: 'too many records cannot be used',
      expected: `at most model.data.max_bad_fraction = ${maxBadFraction} of ${records} records`,
      found: `${bad.size} so far: ${[...counts].map(([kind, count]) => `${kind} ${count}`).join(', ')}`,
      fix: 'run `neva data check`, mend the data, or raise model.data.max_bad_fraction',
    });
  }
}

/** Words and image positions of every record, negative without a picture: near enough to positions, and no tokenizing. */
function recordLengths(source: SampleSource, members: Int32Array, featuresPerImage: number): Int32Array {
  return members.map((number) => {
    try {
      const { turns, images } = source.get(number);
      const words = turns.reduce((sum, { text }) => sum + text.split(/\s+/).length, 0);
      return images.length > 0 ? words + images.length * featuresPerImage : -words;
    } catch (error) {
      // Such a record is reported when its turn comes.
      if (isRecordProblem(error)) return 0;
      throw error;
    }
  });
}
