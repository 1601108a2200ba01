/** Everything between a position in the order of samples and a batch. Runs inside the loader's worker thread. */
import { mistake } from '../errors.ts';
import { collate } from './collate.ts';
import { mapLimited } from './concurrent.ts';
import { type Part, selectPart } from './held-out.ts';
import { groupingLengths, recordCounts } from './lengths.ts';
import { type Pack, readPacks } from './pack_index.ts';
import { Packer } from './packer.ts';
import { isRecordProblem, type ProblemKind } from './problem.ts';
import { Sampler, type SamplerKind } from './sampler.ts';
import { DECODING, SampleSource, type SourceOptions } from './source.ts';
import type { GlobalBatch, MicroBatch } from './types.ts';
import { type MetProblem, type UsableOptions, UsableRecords } from './usable.ts';

export type { MetProblem };

export interface DataOptions extends SourceOptions, UsableOptions {
  microBatchSize: number;
  /** Over all ranks. */
  globalBatchSize: number;
  dataParallelRank: number;
  dataParallelSize: number;
  seed: number;
  dataloaderType: SamplerKind;
  /** For `group_by_modality_length`: global batches that are sorted by length together. */
  poolBatches?: number;
  /** Where what was counted of the data is kept for the next start; nowhere by default. */
  cacheFolder?: string | null;
  /** Share of the records that is held out for validation; 0 by default. */
  validationFraction?: number;
  /** Which side of that division is read; all records by default. */
  part?: Part;
  /** Global batches kept ready ahead of training. */
  prefetchBatches: number;
  /**
   * Records lie one after the other in rows of at most `maxLength` positions; a micro batch is `microBatchSize` such packs.
   * They are made from the records of one global batch, so that packing changes no result.
   */
  packed?: boolean;
  /** Packs made beforehand (pack_index.ts), where the global batch is counted in packs, as NeMo counts. */
  packPrefix?: string | null;
  /** Records, spread over the data, that are tried before the first batch; none by default. */
  checkAtStart?: number;
}

export class Pipeline {
  readonly source: SampleSource;
  readonly #options: DataOptions;
  /** Numbers of the records that this pipeline reads: those of its part. */
  readonly #members: Int32Array;
  readonly #sampler: Sampler;
  readonly #usable: UsableRecords;
  readonly #packs: readonly Pack[] | null;
  readonly #packer: Packer | null;

  private constructor(options: DataOptions, source: SampleSource) {
    const { dataloaderType: kind, globalBatchSize, seed, blend, poolBatches } = options;
    this.#options = options;
    this.source = source;
    const { members, sizes } = selectPart(source.sizes, options.part ?? 'all', options.validationFraction ?? 0);
    this.#members = members;
    this.#usable = new UsableRecords(options, source.name, members);
    this.#packs = options.packed && options.packPrefix ? readPacks(options.packPrefix, options, members.length) : null;
    this.#packer = options.packed ? new Packer(source, options, this.#usable, this.#packs) : null;
    const weights = this.#packs ? [] : blend?.map(({ weight }) => weight).filter((weight) => weight !== null);
    this.#sampler = new Sampler({
      kind,
      sizes: this.#packs ? [this.#packs.length] : sizes,
      // A validation goes through every record once, whatever its share in training.
      ...(weights && weights.length > 0 && kind !== 'once' ? { weights } : {}),
      globalBatchSize,
      seed,
      ...(kind === 'group_by_modality_length' ? { lengths: lengthsOf(source, members, options), poolBatches } : {}),
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
          problem: `fewer ${pipeline.unit} than one global batch takes`,
          expected: `at least model.global_batch_size = ${globalBatchSize} ${pipeline.unit}`,
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

  /** What the sampler counts. */
  get unit(): 'records' | 'packs' {
    return this.#packs ? 'packs' : 'records';
  }

  /** Records that this pipeline reads, or packs that were made beforehand. */
  get size(): number {
    return this.#packs?.length ?? this.#members.length;
  }

  /** This rank's share of the global batch that begins after `position` consumed samples. */
  async batch(position: number): Promise<GlobalBatch> {
    const { indices, epoch } = this.#sampler.batch(position);
    const microBatches = await (this.#packer?.microBatches([...indices]) ?? this.#padded(indices));
    return {
      microBatches,
      labelTokens: microBatches.reduce((sum, { labelRows }) => sum + labelRows.length, 0),
      epoch,
      consumedSamples: position + indices.length,
    };
  }

  /** Problems met since the last call. */
  takeProblems(): MetProblem[] {
    return this.#usable.takeProblems();
  }

  close(): void {
    this.source.close();
  }

  async #padded(indices: Int32Array): Promise<MicroBatch[]> {
    const { microBatchSize, dataParallelRank, dataParallelSize } = this.#options;
    const microBatches: MicroBatch[] = [];
    // Dealt out micro batch by micro batch: the global batch is the same whatever the number of ranks.
    for (
      let from = dataParallelRank * microBatchSize;
      from < indices.length;
      from += microBatchSize * dataParallelSize
    ) {
      microBatches.push(await this.#microBatch([...indices.subarray(from, from + microBatchSize)]));
    }
    return microBatches;
  }

  async #microBatch(indices: readonly number[]): Promise<MicroBatch> {
    const { imageSize, featuresPerImage } = this.#options;
    const sample = (number: number) => this.source.sample(number);
    const found = await mapLimited(indices, DECODING, (index) =>
      this.#usable.take(index, this.#usable.replaces, sample),
    );
    const samples = found.filter((each) => each !== null);
    if (samples.length === 0) {
      // A micro batch cannot be empty: where all of its records are bad, the next good one stands in.
      const stand = await this.#usable.take(indices[0] as number, true, sample);
      if (stand) samples.push(stand);
    }
    return collate(samples, { imageSize, featuresPerImage, padId: this.source.tokenizer.padId ?? 0 });
  }

  /** Tries some records before training has cost anything: with `error` none may be bad, otherwise not too large a share. */
  async #checkAtStart(): Promise<void> {
    const { checkAtStart = 0, dataParallelRank, onError } = this.#options;
    // One rank is enough: its refusal ends all.
    if (dataParallelRank !== 0 || checkAtStart === 0) return;
    const { length: size } = this.#members;
    const count = Math.min(checkAtStart, size);
    const tried = Array.from({ length: count }, (_, i) => this.#members[Math.floor((i * size) / count)]!);
    const bad = new Map<number, ProblemKind>();
    await mapLimited(tried, DECODING, async (number) => {
      try {
        await this.source.sample(number);
      } catch (error) {
        if (onError === 'error' || !isRecordProblem(error)) throw error;
        bad.set(number, error.kind);
      }
    });
    this.#usable.refuseAbove(bad, count);
  }
}

function lengthsOf(source: SampleSource, members: Int32Array, options: DataOptions): Int32Array {
  const paths = (options.blend ?? [options]).map(({ dataPath }) => dataPath);
  const counts = recordCounts(source, paths, options.cacheFolder ?? null);
  return groupingLengths(counts, members, options.featuresPerImage);
}
