/** The records of one or several data sets as training sees them: checked, encoded with the template, pictures decoded. */
import { mistake } from '../errors.ts';
import type { Sample } from './collate.ts';
import { type Dataset, openDataset } from './dataset.ts';
import { type EncodingOptions, type Example, encodeRecord, imageBrackets, requireTokens } from './example.ts';
import { FeatureIndex, type FeaturePlace } from './feature_index.ts';
import { type ImageFile, type ImageStore, openImageStore } from './image-store.ts';
import { type Aspect, MAX_BYTES, preprocess } from './images.ts';
import { decodeInTurn } from './large-images.ts';
import type { DataRecord } from './parse-record.ts';
import { isRecordProblem } from './problem.ts';
import type { Picture } from './resample.ts';
import { type Compat, findTemplate, type Template } from './templates.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

/** One of the sets that a blend is made of. */
export interface DataSet {
  dataPath: string;
  /** Root of the records' image paths; the data file's own folder when null. */
  imageFolder: string | null;
  /** Its share of the samples, against the other sets' weights; with null for all, every record comes once an epoch. */
  weight: number | null;
}

export interface SourceOptions extends EncodingOptions {
  dataPath: string;
  /** Root of the records' image paths; the data file's own folder when null. */
  imageFolder: string | null;
  /** Several sets, in place of `dataPath` and `imageFolder`. */
  blend?: readonly DataSet[];
  tokenizerFolder: string;
  /** Special tokens that the tokenizer is given on top of its own. */
  additionalTokens?: readonly string[];
  /** Conversation template by name. */
  template: string;
  /** Whose details the template follows; LLaVA's by default. */
  templateCompat?: Compat;
  imageSize: number;
  aspect: Aspect;
  imageMean?: readonly number[];
  imageStd?: readonly number[];
  /** Where the frozen tower's features of every picture are: no picture is decoded then. */
  featureFolder?: string | null;
  /** Limits of one image file. */
  maxImageBytes?: number;
  maxImagePixels?: number;
}

/** Samples whose pictures are decoded at the same time: enough for libuv's four threads, few enough to bound memory. */
export const DECODING = 8;

/** A set's records and pictures; `first` is the number of its record 0 among those of all sets. */
interface OpenSet {
  dataset: Dataset;
  images: ImageStore;
  first: number;
}

export class SampleSource {
  readonly tokenizer: Tokenizer;
  readonly template: Template;
  readonly options: SourceOptions;
  /** Records of each set. */
  readonly sizes: readonly number[];
  /** Records of all sets, numbered through. */
  readonly size: number;
  readonly #sets: readonly OpenSet[];
  readonly #features: FeatureIndex | null;

  private constructor(options: SourceOptions, datasets: readonly Dataset[]) {
    if (options.aspect === 'keep') {
      throw mistake({
        where: 'model.data.image_aspect_ratio',
        problem: 'keep makes pictures of every size, and the vision tower takes one',
        expected: 'square or pad',
        found: 'keep',
      });
    }
    this.options = options;
    this.template = findTemplate(options.template, options.templateCompat);
    this.tokenizer = loadTokenizer(options.tokenizerFolder, options.additionalTokens);
    requireTokens(this.template, this.tokenizer);
    if (options.useImStartEnd) imageBrackets(this.tokenizer, options);
    this.sizes = datasets.map(({ size }) => size);
    let first = 0;
    this.#sets = datasets.map((dataset, at) => {
      const { dataPath, imageFolder } = options.blend?.[at] ?? options;
      const set = { dataset, images: openImageStore(imageFolder, dataPath), first };
      first += dataset.size;
      return set;
    });
    this.size = first;
    this.#features = options.featureFolder ? new FeatureIndex(options.featureFolder) : null;
  }

  /** Rejects with a user error where a file, the template or the tokenizer does not serve. */
  static async open(options: SourceOptions): Promise<SampleSource> {
    const datasets: Dataset[] = [];
    try {
      for (const { dataPath } of options.blend ?? [options]) datasets.push(await openDataset(dataPath));
      return new SampleSource(options, datasets);
    } catch (error) {
      for (const dataset of datasets) dataset.close();
      throw error;
    }
  }

  /** What messages call the data as a whole. */
  get name(): string {
    return this.#sets.map(({ dataset }) => dataset.path).join(', ');
  }

  /** The record of that number, checked; its own `index` counts within its set. */
  get(number: number): DataRecord {
    const { dataset, first } = this.#setOf(number);
    return dataset.get(number - first);
  }

  /** How messages name a record. */
  nameOf(number: number, { index, id }: DataRecord): string {
    return `${this.#setOf(number).dataset.path}, record ${index} (id ${id})`;
  }

  encode(number: number, record: DataRecord): Example {
    return encodeRecord(record, this.template, this.tokenizer, this.options, this.nameOf(number, record));
  }

  /** The record's pictures, in order. */
  imageFiles(number: number, record: DataRecord): readonly ImageFile[] {
    if (record.files !== undefined) return record.files;
    const { images } = this.#setOf(number);
    return record.images.map((image) => images.locate(image, this.nameOf(number, record)));
  }

  /** A record encoded, with its pictures decoded. */
  async sample(number: number): Promise<Sample> {
    const record = this.get(number);
    return this.illustrate(number, record, this.encode(number, record));
  }

  /** An encoded record with its pictures decoded. */
  async illustrate(number: number, record: DataRecord, example: Example): Promise<Sample> {
    const files = this.imageFiles(number, record);
    try {
      if (this.#features) {
        const features = await Promise.all(files.map((file) => this.#featuresOf(this.#features!, file)));
        return { id: record.id, example, pictures: [], features };
      }
      const pictures = await Promise.all(files.map((file) => this.pixels(file)));
      return { id: record.id, example, pictures };
    } catch (error) {
      if (isRecordProblem(error)) error.message = `${this.nameOf(number, record)}: ${error.message}`;
      throw error;
    }
  }

  async #featuresOf(index: FeatureIndex, file: ImageFile): Promise<FeaturePlace> {
    const place = index.find(file);
    if (place) return place;
    // A picture without features is one that could not be read then, nor now.
    await this.decode(file, () => null);
    throw mistake({
      where: file.name,
      problem: 'the picture has changed since the run began, and the vision cache holds no features of it',
      fix: 'start again: the cache is brought up to date at the start',
    });
  }

  /** What `use` makes of the RGB bytes of an image that `imageFiles` gave; huge pictures take turns. */
  async decode<T>(file: ImageFile, use: (picture: Picture) => T): Promise<T> {
    const bytes = await file.read(this.options.maxImageBytes ?? MAX_BYTES);
    return decodeInTurn(bytes, file.name, this.options.maxImagePixels, use);
  }

  /** The image as the vision tower takes it. */
  pixels(file: ImageFile): Promise<Float32Array> {
    return this.decode(file, (picture) => this.preprocess(picture));
  }

  /** [3, S, S] as the vision tower takes it. */
  preprocess(picture: Picture): Float32Array {
    const { imageSize, aspect, imageMean: mean, imageStd: std } = this.options;
    return preprocess(picture, { imageSize, aspect, mean, std });
  }

  close(): void {
    for (const { dataset } of this.#sets) dataset.close();
  }

  #setOf(number: number): OpenSet {
    const set = this.#sets.findLast(({ first }) => first <= number);
    if (set === undefined || number >= this.size) throw new RangeError(`record ${number} of ${this.size}`);
    return set;
  }
}
