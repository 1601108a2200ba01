/**
 * JPEGs through the machine's libjpeg-turbo, where its headers are installed: Pillow's own decoder, in a third of the time that
 * sharp takes. Optional: without it, and for every file that it does not take, sharp decodes and gives the same bytes.
 */
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { packageRoot } from '../root.ts';
import { findCompiler, makeFile } from './torch/compiler.ts';
import type { Environment } from './torch/tools.ts';

export interface JpegDecoder {
  /** Of libjpeg-turbo. */
  readonly version: string;
  /**
   * RGB [height, width, 3] into `pixels`; false where the file is damaged, cut, of another size or not of three components.
   * Neither array may be changed before the promise is settled.
   */
  decode(bytes: Uint8Array, pixels: Uint8Array, width: number, height: number): Promise<boolean>;
}

const SOURCE = join(packageRoot, 'native', 'jpeg', 'jpeg.cpp');

export function jpegPath(buildDir: string = join(packageRoot, 'build')): string {
  return join(buildDir, `jpeg-${process.platform}-${process.arch}.node`);
}

const modifiedAt = (path: string) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? -1;

/**
 * Builds the decoder unless it is current, in about a second. Where that fails, a file beside says why, and it is tried again
 * only with `again`: what is missing is optional, and starts must not pay for it each time.
 */
export async function buildJpeg(
  say: (line: string) => void,
  { buildDir, env = process.env, again = false }: { buildDir?: string; env?: Environment; again?: boolean } = {},
): Promise<void> {
  const path = jpegPath(buildDir);
  const changed = modifiedAt(SOURCE);
  if (modifiedAt(path) >= changed || (!again && modifiedAt(absence(path)) >= changed)) return;
  const headers = (createRequire(import.meta.url)('node-api-headers') as { include_dir: string }).include_dir;
  const shared = process.platform === 'darwin' ? ['-bundle', '-undefined', 'dynamic_lookup'] : ['-shared'];
  mkdirSync(dirname(path), { recursive: true });
  try {
    const compiler = findCompiler(env);
    if (!compiler) throw new Error('there is no C++ compiler');
    const flags = ['-O2', '-std=c++20', '-fPIC', '-Wall', '-isystem', headers, ...shared];
    await makeFile(compiler, path, [...flags, SOURCE, '-ljpeg'], basename(path));
    say('JPEGs are decoded by libjpeg-turbo');
  } catch (error) {
    writeFileAtomic(absence(path), `${(error as Error).message}\n`);
  }
}

/** Text file beside the decoder: why it could not be built. */
const absence = (path: string) => `${path}.absent`;

let loaded: JpegDecoder | null | undefined;

/** Null where it was not built, or no longer loads. */
export function loadJpeg(): JpegDecoder | null {
  if (loaded !== undefined) return loaded;
  const path = jpegPath();
  try {
    loaded = existsSync(path) ? (createRequire(import.meta.url)(path) as JpegDecoder) : null;
  } catch {
    // libjpeg was removed since. sharp gives the same pictures, only later.
    loaded = null;
  }
  return loaded;
}
