/** Where a data set's pictures come from: a folder, or a tar archive. */
import { closeSync, openSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { mistake } from '../errors.ts';
import { indexTar, type TarEntry } from '../tar_index.ts';
import { readAt, readLimited } from './files.ts';
import { problem } from './problem.ts';

export interface ImageStore {
  /** The file that a record's image path means, for messages. A path that leads out of the store is a problem. */
  locate(image: string, where: string): string;
  /** The encoded picture. */
  read(located: string, maxBytes: number): Promise<Uint8Array>;
  /** Size and time of change, by which an earlier verdict is recognized; null where there is no such picture. */
  stamp(located: string): { size: number; time: number } | null;
  close(): void;
}

/** Opens `imageFolder`, a folder or an uncompressed .tar file; the data file's own folder when null. */
export function openImageStore(imageFolder: string | null, dataPath: string): ImageStore {
  const root = resolve(imageFolder ?? dirname(dataPath));
  const status = statSync(root, { throwIfNoEntry: false });
  if (status === undefined) {
    throw mistake({
      where: 'model.data.image_folder',
      problem: 'no such folder',
      expected: 'a folder, or a .tar file',
      found: root,
    });
  }
  return status.isDirectory() ? new FolderStore(root) : new TarStore(root, status.mtimeMs);
}

function outside(image: string, root: string, where: string): Error {
  return problem('image_outside', {
    where: `${where}: image`,
    problem: 'the path leads out of the image folder',
    expected: `a file below ${root}`,
    found: image,
    fix: `give paths relative to model.data.image_folder, e.g. ${basename(image)}`,
  });
}

const isUrl = (image: string) => /^[a-z][a-z0-9+.-]*:\/\//i.test(image);

class FolderStore implements ImageStore {
  readonly #root: string;
  constructor(root: string) {
    this.#root = root;
  }

  locate(image: string, where: string): string {
    const path = resolve(this.#root, image);
    const inside = relative(this.#root, path);
    if (inside === '' || inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside) || isUrl(image)) {
      throw outside(image, this.#root, where);
    }
    return path;
  }

  async read(path: string, maxBytes: number): Promise<Uint8Array> {
    return await readLimited(path, maxBytes);
  }

  stamp(path: string) {
    const status = statSync(path, { throwIfNoEntry: false });
    return status === undefined ? null : { size: status.size, time: status.mtimeMs };
  }

  close(): void {}
}

class TarStore implements ImageStore {
  readonly #path: string;
  readonly #time: number;
  readonly #entries: Map<string, TarEntry>;

  constructor(path: string, time: number) {
    this.#path = path;
    this.#time = time;
    const file = openSync(path, 'r');
    try {
      this.#entries = indexTar(file, path);
    } finally {
      closeSync(file);
    }
  }

  locate(image: string, where: string): string {
    const name = relative('/', resolve('/', image));
    if (isUrl(image) || isAbsolute(image) || image.split(/[\\/]/).includes('..'))
      throw outside(image, this.#path, where);
    return `${this.#path}:${name}`;
  }

  #entry(located: string): TarEntry | undefined {
    return this.#entries.get(located.slice(this.#path.length + 1));
  }

  async read(located: string, maxBytes: number): Promise<Uint8Array> {
    const entry = this.#entry(located);
    if (entry === undefined) {
      throw problem('image_missing', {
        where: located,
        problem: 'no such image in the archive',
        fix: 'check the path in the record',
      });
    }
    if (entry.size > maxBytes) {
      throw problem('image_too_large', {
        where: located,
        problem: 'image file too large',
        expected: `at most ${maxBytes} bytes`,
        found: `${entry.size} bytes`,
      });
    }
    const file = await open(this.#path, 'r');
    try {
      return await readAt(file, entry.offset, entry.size);
    } finally {
      await file.close();
    }
  }

  stamp(located: string) {
    const entry = this.#entry(located);
    return entry === undefined ? null : { size: entry.size, time: this.#time };
  }

  close(): void {}
}
