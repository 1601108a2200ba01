/** The records of a data set as training sees them: checked, encoded with the template, pictures decoded. */
import { basename, dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import type { Sample } from './collate.ts';
import { type DataRecord, type Dataset, openDataset } from './dataset.ts';
import { type EncodingOptions, type Example, encodeRecord, requireTokens } from './example.ts';
import { type Aspect, loadImage } from './images.ts';
import { isRecordProblem, problem } from './problem.ts';
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
  readonly tokenizer: Tokenizer;
  readonly template: Template;
  readonly options: SourceOptions;

  constructor(options: SourceOptions) {
    this.options = options;
    this.template = findTemplate(options.template, options.templateCompat);
    this.tokenizer = loadTokenizer(options.tokenizerFolder, options.additionalTokens);
    requireTokens(this.template, this.tokenizer);
    this.dataset = openDataset(options.dataPath);
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
    return record.images.map((image) => imagePath(image, this.options, this.name(record)));
  }

  /** Record `index` encoded, with its pictures decoded. */
  async sample(index: number): Promise<Sample> {
    const record = this.dataset.get(index);
    const example = this.encode(record);
    const pictures = await Promise.all(this.imagePaths(record).map((path) => this.#picture(path, record)));
    return { id: record.id, example, pictures };
  }

  async #picture(path: string, record: DataRecord): Promise<Float32Array> {
    const { imageSize, aspect, imageMean, imageStd, maxImageBytes, maxImagePixels } = this.options;
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
      if (isRecordProblem(error)) error.message = `${this.name(record)}: ${error.message}`;
      throw error;
    }
  }

  close(): void {
    this.dataset.close();
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
