/** Where a data set's pictures come from: a folder, or a tar archive. */
import { closeSync, openSync, statSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { basename, dirname, isAbsolute, relative, resolve, sep } from 'node:path';
import { mistake } from '../errors.ts';
import { indexTar, type TarEntry } from '../tar_index.ts';
import { READ, readAt, readLimited } from './files.ts';
import { problem } from './problem.ts';

/** One picture, wherever it lies. */
export interface ImageFile {
  /** For messages: a path, or `archive.tar:member`. */
  readonly name: string;
  /** The encoded picture; a problem where there is none, or one of more than `maxBytes`. */
  read(maxBytes: number): Promise<Uint8Array>;
  /** Size and time of change, by which an earlier verdict is recognized; null where there is no such picture. */
  stamp(): { size: number; time: number } | null;
}

export interface ImageStore {
  /** The picture that a record's image path means. A path that leads out of the store is a problem. */
  locate(image: string, where: string): ImageFile;
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

  locate(image: string, where: string): ImageFile {
    const path = resolve(this.#root, image);
    const inside = relative(this.#root, path);
    if (inside === '' || inside === '..' || inside.startsWith(`..${sep}`) || isAbsolute(inside) || isUrl(image)) {
      throw outside(image, this.#root, where);
    }
    return {
      name: path,
      read: (maxBytes) => readLimited(path, maxBytes),
      stamp() {
        try {
          const { size, mtimeMs } = statSync(path);
          return { size, time: mtimeMs };
        } catch {
          // What is wrong with it is told when it is read.
          return null;
        }
      },
    };
  }
}

class TarStore implements ImageStore {
  readonly #path: string;
  readonly #time: number;
  readonly #entries: Map<string, TarEntry>;

  constructor(path: string, time: number) {
    this.#path = path;
    this.#time = time;
    const file = openSync(path, READ);
    try {
      this.#entries = indexTar(file, path);
    } finally {
      closeSync(file);
    }
  }

  locate(image: string, where: string): ImageFile {
    if (isUrl(image) || isAbsolute(image) || image.split(/[\\/]/).includes('..'))
      throw outside(image, this.#path, where);
    const member = relative('/', resolve('/', image));
    return archived(this.#path, member, this.#entries.get(member), this.#time);
  }
}

/** A member of an uncompressed tar archive that was last changed at `time`; one that is not there is a problem when read. */
export function archived(archive: string, member: string, entry: TarEntry | undefined, time: number): ImageFile {
  const name = `${archive}:${member}`;
  return {
    name,
    async read(maxBytes) {
      if (entry === undefined) {
        throw problem('image_missing', {
          where: name,
          problem: 'no such image in the archive',
          fix: 'check the path in the record',
        });
      }
      if (entry.size > maxBytes) {
        throw problem('image_too_large', {
          where: name,
          problem: 'image file too large',
          expected: `at most ${maxBytes} bytes`,
          found: `${entry.size} bytes`,
        });
      }
      const file = await open(archive, 'r');
      try {
        return await readAt(file, entry.offset, entry.size);
      } finally {
        await file.close();
      }
    },
    stamp: () => (entry === undefined ? null : { size: entry.size, time }),
  };
}
