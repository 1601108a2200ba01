import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import { touched } from './pieces.ts';
import type { TensorEntry } from './safetensors.ts';

/** Bytes looked at in each of three places of a tensor. */
const SAMPLE = 4096;

/**
 * Tells one set of weights from another without reading all of it: a SHA-256 over every tensor's name, type, shape and its
 * first, middle and last 4 KiB. Training moves nearly every value, so other weights of the same shapes give another one. It
 * guards against mistakes, not against forgery. Names and order in the files do not matter; NeMo's fused weights give another one
 * than the same model in Hugging Face's layouts.
 *
 * @param entries own name → where the tensor lies
 */
export function fingerprintOf(entries: ReadonlyMap<string, TensorEntry>): string {
  const digest = createHash('sha256');
  const handles = new Map<string, number>();
  const chunk = Buffer.alloc(SAMPLE);
  try {
    for (const name of [...entries.keys()].sort()) {
      const entry = entries.get(name)!;
      digest.update(`${JSON.stringify([name, entry.dtype, entry.shape])}\n`);
      for (const { file, offset, nbytes } of entry.pieces ? entry.pieces.map(({ view }) => touched(view)) : [entry]) {
        const handle = handles.get(file) ?? openSync(file, 'r');
        handles.set(file, handle);
        const length = Math.min(SAMPLE, nbytes);
        for (const start of [0, Math.floor((nbytes - length) / 2), nbytes - length]) {
          digest.update(chunk.subarray(0, readSync(handle, chunk, 0, length, offset + start)));
        }
      }
    }
  } finally {
    for (const handle of handles.values()) closeSync(handle);
  }
  return digest.digest('hex');
}
