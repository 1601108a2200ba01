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
  /** By name: a picture that has changed stands in a list of its own, and its old features stay in theirs. */
  readonly #pictures = new Map<string, CachedPicture[]>();

  /** `folder` may not be there yet. A list is there when its features are. */
  constructor(folder: string) {
    const lists = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith('.jsonl')) : [];
    for (const list of lists) {
      for (const line of readFileSync(join(folder, list), 'utf8').trimEnd().split('\n')) {
        const picture = JSON.parse(line) as CachedPicture;
        const known = { ...picture, file: join(folder, picture.file) };
        const others = this.#pictures.get(picture.name);
        if (others) others.push(known);
        else this.#pictures.set(picture.name, [known]);
      }
    }
  }

  /** Null where the picture is not there, or has changed since. */
  find(image: ImageFile): FeaturePlace | null {
    const known = this.#pictures.get(image.name);
    const stamp = known ? image.stamp() : null;
    const same = known?.find(({ size, time }) => size === stamp?.size && time === stamp.time);
    return same ? { file: same.file, offset: same.offset } : null;
  }
}
