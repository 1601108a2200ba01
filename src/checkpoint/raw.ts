/** The tensors of files and folders under the names that the files give them. A file's kind is read from its first bytes. */
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { mistake } from '../errors.ts';
import { readSafetensors, type TensorEntry } from './safetensors.ts';
import { readShardIndex } from './shard_index.ts';
import { readTorchFile } from './torch_zip.ts';

export type FileKind = 'safetensors' | 'torch' | 'torch-legacy' | 'tar' | 'gzip' | 'unknown';

export function fileKind(file: string): FileKind {
  const head = Buffer.alloc(512);
  const handle = openSync(file, 'r');
  let length: number;
  try {
    length = readSync(handle, head, 0, head.length, 0);
  } finally {
    closeSync(handle);
  }
  if (head.readUInt32LE(0) === 0x04034b50) return 'torch';
  if (head[0] === 0x1f && head[1] === 0x8b) return 'gzip';
  if (head.toString('latin1', 257, 262) === 'ustar') return 'tar';
  // torch before 1.6 began with a pickled magic number of ten bytes.
  if (head.readUInt32BE(0) === 0x80028a0a) return 'torch-legacy';
  return length > 8 && head[8] === 0x7b ? 'safetensors' : 'unknown';
}

/** One file of weights. */
export function fileEntries(file: string): ReadonlyMap<string, TensorEntry> {
  switch (fileKind(file)) {
    case 'safetensors':
      return readSafetensors(file).entries;
    case 'torch':
      return readTorchFile(wholeFile(file)).entries;
    case 'torch-legacy':
      throw mistake({
        where: file,
        problem: 'written in the form that torch had before version 1.6',
        expected: 'a zip of torch.save, or safetensors',
        fix: 'load it with weights_only=True in a present-day torch and save it again',
      });
    default:
      // A damaged safetensors file is told as such.
      if (file.endsWith('.safetensors')) return readSafetensors(file).entries;
      throw mistake({
        where: file,
        problem: 'not a file of weights that neva reads',
        expected: '*.safetensors, or a file of torch.save (*.bin, *.pt, *.ckpt)',
        found: basename(file),
      });
  }
}

export const wholeFile = (file: string) => ({ file, offset: 0, nbytes: statSync(file).size });

/** Later ones are for folders that lack the former. */
const WHOLE = [
  'model.safetensors.index.json',
  'model.safetensors',
  'pytorch_model.bin.index.json',
  'pytorch_model.bin',
] as const;
/** LLaVA writes the trained projector beside or instead of the whole. */
const PROJECTOR = 'mm_projector.bin';

/** The tensors of a model's folder. */
export function folderEntries(folder: string): ReadonlyMap<string, TensorEntry> {
  const found = WHOLE.find((name) => existsSync(join(folder, name)));
  const projector = join(folder, PROJECTOR);
  if (!found && existsSync(projector)) return fileEntries(projector);
  if (!found) {
    throw mistake({
      where: folder,
      problem: 'no weights in this folder',
      expected: WHOLE.join(', '),
      fix: 'name the folder of a model, or a file of weights',
    });
  }
  const path = join(folder, found);
  const entries = found.endsWith('.index.json') ? readShardIndex(path, fileEntries) : fileEntries(path);
  const hasOwn = [...entries.keys()].some((name) => /(?:mm|multi_modal)_projector\./.test(name));
  return hasOwn || !existsSync(projector) ? entries : new Map([...entries, ...fileEntries(projector)]);
}
