/** Reading picture files within limits, and unpacking gzipped data files. */
import { constants, createReadStream, createWriteStream, mkdtempSync, openSync, rmSync, statSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip } from 'node:zlib';
import { mistake } from '../errors.ts';
import { problem } from './problem.ts';

/** How files of users are opened: one that turns out to be a named pipe must not keep us waiting for a writer. */
export const READ = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

/** The whole of a picture file, if it is a file of at most `maxBytes`. */
export async function readLimited(path: string, maxBytes: number): Promise<Buffer> {
  let file: FileHandle;
  try {
    file = await open(path, READ);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw problem('image_missing', {
      where: path,
      problem: code === 'ENOENT' || code === 'ENOTDIR' ? 'no such image file' : `cannot open the image file (${code})`,
      fix: 'check model.data.image_folder and the path in the record',
    });
  }
  try {
    const status = await file.stat();
    if (!status.isFile()) throw problem('image_unreadable', { where: path, problem: 'not a file' });
    if (status.size > maxBytes) {
      throw problem('image_too_large', {
        where: path,
        problem: 'image file too large',
        expected: `at most ${maxBytes} bytes`,
        found: `${status.size} bytes`,
      });
    }
    return await readAt(file, 0, status.size);
  } finally {
    await file.close();
  }
}

export async function readAt(file: FileHandle, offset: number, size: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(size);
  let filled = 0;
  while (filled < size) {
    const { bytesRead } = await file.read(bytes, filled, size - filled, offset + filled);
    if (bytesRead === 0) break;
    filled += bytesRead;
  }
  return bytes.subarray(0, filled);
}

/** JSON text shrinks about tenfold; a file that grows more than this is not data. */
const MAX_GROWTH = 256;

/**
 * Unpacks a gzipped file into a temporary one and returns its descriptor. The file has no name any more: it takes disk space
 * only until the descriptor is closed, however the process ends.
 */
export async function gunzipToDescriptor(path: string): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), 'neva-data-'));
  const unpacked = join(folder, 'data');
  const limit = statSync(path).size * MAX_GROWTH + (1 << 20);
  let written = 0;
  const limited = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      written += chunk.length;
      done(written > limit ? new Error(`it unpacks to more than ${MAX_GROWTH} times its size`) : null, chunk);
    },
  });
  try {
    await pipeline(createReadStream(path), createGunzip(), limited, createWriteStream(unpacked));
    return openSync(unpacked, 'r');
  } catch (error) {
    throw mistake({
      where: path,
      problem: `cannot unpack the data file: ${(error as Error).message}`,
      fix: 'check it with `gzip -t`',
    });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
