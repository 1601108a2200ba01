/**
 * Where the files of a tar archive lie in it, so that any of them can be read by position. Headers are decoded by the `tar`
 * package; bodies are passed over, so that indexing costs one small read a file.
 */
import { fstatSync, readSync } from 'node:fs';
import { Header, Pax } from 'tar';
import { mistake } from './errors.ts';

export interface TarEntry {
  /** Byte position and length of the content. */
  offset: number;
  size: number;
}

const BLOCK = 512;
/** Extended headers hold names and numbers: more than this is an attack or damage. */
const MAX_EXTENDED = 1 << 20;

/** Of the header types of tar, the plain files. */
export const isPlainFile = (type: string): boolean => ['File', 'OldFile', 'ContiguousFile'].includes(type);

export interface TarExpectations {
  fix?: string;
  /** Called with every entry, files or not; may throw. */
  visit?: (name: string, type: string) => void;
}

/** Entries by name (leading `./` taken off), the last of equal names winning as in extraction. */
export function indexTar(file: number, path: string, expectations: TarExpectations = {}): Map<string, TarEntry> {
  const entries = new Map<string, TarEntry>();
  walkTar(file, path, expectations, (name, entry) => entries.set(name, entry));
  return entries;
}

const isGzip = (file: number): boolean => {
  const magic = Buffer.alloc(2);
  return readSync(file, magic, 0, 2, 0) === 2 && magic.readUInt16BE() === 0x1f8b;
};

/** Nothing in a gzipped archive can be read by position, and pictures hardly get smaller by it. */
export const gzippedTar = (path: string): Error =>
  mistake({
    where: path,
    problem: 'a gzipped tar archive',
    expected: 'an uncompressed .tar file, whose members can be read by position',
    fix: `gunzip ${path}`,
  });

/** Calls `found` with every plain file of an archive, in order; what is no usable archive is the user's mistake. */
export function walkTar(
  file: number,
  path: string,
  { fix, visit }: TarExpectations,
  found: (name: string, entry: TarEntry) => void,
): void {
  const length = fstatSync(file).size;
  const broken = (what: string, at: number) =>
    mistake({
      where: path,
      problem: `not a usable tar archive: ${what} at byte ${at}`,
      expected: 'an uncompressed .tar file',
      fix: fix ?? 'make it anew with `tar -cf`, or point model.data.image_folder at the unpacked folder',
    });
  if (isGzip(file)) throw gzippedTar(path);
  let extended: Pax | undefined;
  let global: Pax | undefined;
  let longName: string | undefined;
  const block = Buffer.alloc(BLOCK);
  let at = 0;
  while (at + BLOCK <= length) {
    readSync(file, block, 0, BLOCK, at);
    let header: Header;
    try {
      header = new Header(block, 0, extended, global);
    } catch (error) {
      throw broken((error as Error).message, at);
    }
    if (header.nullBlock) break;
    if (!header.cksumValid) throw broken('a damaged header', at);
    const size = header.size ?? 0;
    const offset = at + BLOCK;
    if (!Number.isSafeInteger(size) || size < 0 || offset + size > length)
      throw broken('an entry that the file ends in', at);
    at = offset + Math.ceil(size / BLOCK) * BLOCK;
    const { type } = header;
    if (type === 'ExtendedHeader' || type === 'GlobalExtendedHeader' || type === 'NextFileHasLongPath') {
      if (size > MAX_EXTENDED) throw broken('an oversized extended header', offset);
      const body = Buffer.alloc(size);
      readSync(file, body, 0, size, offset);
      const text = body.toString('utf8');
      if (type === 'NextFileHasLongPath') longName = text.replace(/\0[\s\S]*$/, '');
      else if (type === 'ExtendedHeader') extended = Pax.parse(text, extended, false);
      else global = Pax.parse(text, global, true);
      continue;
    }
    // An extended header's path is whole; the header would put its own prefix before it.
    const name = longName ?? extended?.path ?? header.path ?? '';
    visit?.(name, type);
    if (isPlainFile(type)) {
      found(name.replace(/^(\.\/)+/, ''), { offset, size });
    }
    extended = undefined;
    longName = undefined;
  }
}
