import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import type { TensorEntry } from './safetensors.ts';

/** Bytes looked at in each of three places of a tensor. */
const SAMPLE = 4096;

/**
 * Tells one set of weights from another without reading all of it: a SHA-256 over every tensor's name, type, shape and its
 * first, middle and last 4 KiB. Training moves nearly every value, so other weights of the same shapes give another one. It
 * guards against mistakes, not against forgery. The layout of the files does not matter.
 *
 * @param entries own name → where the tensor lies
 */
export function fingerprintOf(entries: ReadonlyMap<string, TensorEntry>): string {
  const digest = createHash('sha256');
  const handles = new Map<string, number>();
  const chunk = Buffer.alloc(SAMPLE);
  try {
    for (const name of [...entries.keys()].sort()) {
      const { file, dtype, shape, offset, nbytes } = entries.get(name)!;
      digest.update(`${JSON.stringify([name, dtype, shape])}\n`);
      const handle = handles.get(file) ?? openSync(file, 'r');
      handles.set(file, handle);
      const length = Math.min(SAMPLE, nbytes);
      for (const start of [0, Math.floor((nbytes - length) / 2), nbytes - length]) {
        digest.update(chunk.subarray(0, readSync(handle, chunk, 0, length, offset + start)));
      }
    }
  } finally {
    for (const handle of handles.values()) closeSync(handle);
  }
  return digest.digest('hex');
}
