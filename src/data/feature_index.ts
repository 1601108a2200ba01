/**
 * Where a frozen vision tower's features of pictures lie on the disk (model.data.vision_cache). Training writes them
 * (src/train/vision_cache.ts); here they are found again, by a picture's name, size and time of change.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageFile } from './image-store.ts';

/** Features [P, C] of one picture, in the cache's dtype. */
export interface FeaturePlace {
  file: string;
  /** In bytes. */
  offset: number;
}

/** A line of the lists that stand beside the features. */
export interface CachedPicture extends FeaturePlace {
  name: string;
  size: number;
  /** Of its last change, in milliseconds. */
  time: number;
}

export class FeatureIndex {
  readonly #pictures = new Map<string, CachedPicture>();

  /** `folder` may not be there yet. A list is there when its features are. */
  constructor(folder: string) {
    const lists = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.jsonl')) : [];
    for (const list of lists.sort()) {
      for (const line of readFileSync(join(folder, list), 'utf8').trimEnd().split('\n')) {
        const picture = JSON.parse(line) as CachedPicture;
        this.#pictures.set(picture.name, { ...picture, file: join(folder, picture.file) });
      }
    }
  }

  /** Null where the picture is not there, or has changed since. */
  find(image: ImageFile): FeaturePlace | null {
    const known = this.#pictures.get(image.name);
    const stamp = known ? image.stamp() : null;
    return known && stamp && stamp.size === known.size && stamp.time === known.time
      ? { file: known.file, offset: known.offset }
      : null;
  }
}
