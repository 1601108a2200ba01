/** A model's weights in one safetensors file, or in shards with an index, as Hugging Face's libraries write and read them. */
import { join } from 'node:path';
import { writeFileAtomic } from '../files.ts';
import { byteLength, type TensorToWrite, writeTensors } from './safetensors.ts';

/**
 * Writes `model.safetensors`, or `model-0000x-of-0000y.safetensors` and `model.safetensors.index.json` where the tensors take more than
 * `maxShardBytes`: shards are filled in order, and a tensor that is larger than one has a shard of its own. Returns bytes written.
 */
export function writeModel(folder: string, tensors: readonly TensorToWrite[], maxShardBytes: number): number {
  const shards: { tensors: TensorToWrite[]; bytes: number }[] = [];
  for (const tensor of tensors) {
    const bytes = byteLength(tensor.shape, tensor.dtype);
    const open = shards.at(-1);
    if (open && open.bytes + bytes <= maxShardBytes) {
      open.tensors.push(tensor);
      open.bytes += bytes;
    } else {
      shards.push({ tensors: [tensor], bytes });
    }
  }
  if (shards.length <= 1) return writeTensors(join(folder, 'model.safetensors'), tensors);
  const number = (n: number) => String(n).padStart(5, '0');
  const names = shards.map((_, i) => `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`);
  const written = shards.map((shard, i) => writeTensors(join(folder, names[i]!), shard.tensors));
  const weightMap = Object.fromEntries(
    shards.flatMap((shard, i) => shard.tensors.map(({ name }) => [name, names[i]!])),
  );
  const index = {
    metadata: { total_size: shards.reduce((sum, { bytes }) => sum + bytes, 0) },
    weight_map: Object.fromEntries(Object.entries(weightMap).sort(([a], [b]) => (a < b ? -1 : 1))),
  };
  writeFileAtomic(join(folder, 'model.safetensors.index.json'), `${JSON.stringify(index, null, 2)}\n`);
  return written.reduce((sum, bytes) => sum + bytes, 0);
}

/** `5GB`, `500MB`, `2GiB`: powers of 1000, or of 1024 with an i, as huggingface_hub reads them. Null where it is neither. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?) ?([KMGT])(i?)B$/i.exec(text);
  if (!match) return null;
  const power = 'KMGT'.indexOf(match[2]!.toUpperCase()) + 1;
  const bytes = Number(match[1]) * (match[3] ? 1024 : 1000) ** power;
  return bytes >= 1 ? Math.floor(bytes) : null;
}
