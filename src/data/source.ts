/** The records of a data set as training sees them: checked, encoded with the template, pictures decoded. */
import { mistake } from '../errors.ts';
import type { Sample } from './collate.ts';
import { type DataRecord, type Dataset, openDataset } from './dataset.ts';
import { type EncodingOptions, type Example, encodeRecord, imageBrackets, requireTokens } from './example.ts';
import { type ImageStore, openImageStore } from './image-store.ts';
import { type Aspect, decode, MAX_BYTES, preprocess } from './images.ts';
import { isRecordProblem } from './problem.ts';
import type { Picture } from './resample.ts';
import { type Compat, findTemplate, type Template } from './templates.ts';
import { loadTokenizer, type Tokenizer } from './tokenizer.ts';

export interface SourceOptions extends EncodingOptions {
  dataPath: string;
  /** Root of the records' image paths; the data file's own folder when null. */
  imageFolder: string | null;
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
  /** Limits of one image file. */
  maxImageBytes?: number;
  maxImagePixels?: number;
}

export class SampleSource {
  readonly dataset: Dataset;
  readonly images: ImageStore;
  readonly tokenizer: Tokenizer;
  readonly template: Template;
  readonly options: SourceOptions;

  private constructor(options: SourceOptions, dataset: Dataset) {
    if (options.aspect === 'keep') {
      throw mistake({
        where: 'model.data.image_aspect_ratio',
        problem: 'keep makes pictures of every size, and the vision tower takes one',
        expected: 'square or pad',
        found: 'keep',
      });
    }
    this.options = options;
    this.dataset = dataset;
    this.template = findTemplate(options.template, options.templateCompat);
    this.tokenizer = loadTokenizer(options.tokenizerFolder, options.additionalTokens);
    requireTokens(this.template, this.tokenizer);
    if (options.useImStartEnd) imageBrackets(this.tokenizer, options);
    this.images = openImageStore(options.imageFolder, options.dataPath);
  }

  /** Rejects with a user error where a file, the template or the tokenizer does not serve. */
  static async open(options: SourceOptions): Promise<SampleSource> {
    const dataset = await openDataset(options.dataPath);
    try {
      return new SampleSource(options, dataset);
    } catch (error) {
      dataset.close();
      throw error;
    }
  }

  get size(): number {
    return this.dataset.size;
  }

  /** How messages name a record. */
  name({ index, id }: { index: number; id: string }): string {
    return `${this.options.dataPath}, record ${index} (id ${id})`;
  }

  encode(record: DataRecord): Example {
    return encodeRecord(record, this.template, this.tokenizer, this.options, this.name(record));
  }

  /** Files of the record's images, in order. */
  imagePaths(record: DataRecord): string[] {
    return record.images.map((image) => this.images.locate(image, this.name(record)));
  }

  /** Record `index` encoded, with its pictures decoded. */
  async sample(index: number): Promise<Sample> {
    const record = this.dataset.get(index);
    const example = this.encode(record);
    const pictures = await Promise.all(this.imagePaths(record).map((path) => this.#picture(path, record)));
    return { id: record.id, example, pictures };
  }

  /** RGB bytes of an image that `imagePaths` gave. */
  async decode(path: string): Promise<Picture> {
    return decode(
      await this.images.read(path, this.options.maxImageBytes ?? MAX_BYTES),
      path,
      this.options.maxImagePixels,
    );
  }

  /** [3, S, S] as the vision tower takes it. */
  preprocess(picture: Picture): Float32Array {
    const { imageSize, aspect, imageMean: mean, imageStd: std } = this.options;
    return preprocess(picture, { imageSize, aspect, mean, std });
  }

  async #picture(path: string, record: DataRecord): Promise<Float32Array> {
    try {
      return this.preprocess(await this.decode(path));
    } catch (error) {
      if (isRecordProblem(error)) error.message = `${this.name(record)}: ${error.message}`;
      throw error;
    }
  }

  close(): void {
    this.dataset.close();
    this.images.close();
  }
}
