/** Tensors' bytes as numbers, and in another number format. */
import type { DType, HostArray } from '../engine/engine.ts';
import { roundToBfloat16, roundToHalf, widenBfloat16, widenHalf } from '../engine/half.ts';
import { bytesPerElement } from './safetensors.ts';

/** A tensor's bytes as values; 16-bit types as float32, which is exact. */
export function widen(bytes: Uint8Array, dtype: DType): HostArray {
  const size = bytesPerElement(dtype);
  const { buffer, byteOffset } = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  const length = bytes.length / size;
  switch (dtype) {
    case 'float32':
      return new Float32Array(buffer, byteOffset, length);
    case 'float64':
      return new Float64Array(buffer, byteOffset, length);
    case 'int32':
      return new Int32Array(buffer, byteOffset, length);
    case 'int64':
      return new BigInt64Array(buffer, byteOffset, length);
    case 'uint8':
    case 'bool':
      return new Uint8Array(buffer, byteOffset, length);
    case 'bfloat16':
      return widenBfloat16(new Uint16Array(buffer, byteOffset, length));
    case 'float16':
      return widenHalf(new Uint16Array(buffer, byteOffset, length));
  }
}

export type Float = 'float32' | 'bfloat16' | 'float16';

/**
 * Rounds to the nearest, ties to even; float64 goes by way of float32, as in torch.
 * @param room where the result goes: memory that is used again saves much of the time
 */
export function castFloats(bytes: Uint8Array, from: DType, to: Float, room?: Uint8Array): Uint8Array {
  const size = bytesPerElement(to);
  const out = room ?? new Uint8Array((bytes.length / bytesPerElement(from)) * size);
  const target = out.subarray(0, (bytes.length / bytesPerElement(from)) * size);
  if (from === 'bfloat16' || from === 'float16') {
    const codes = halvesOf(bytes);
    if (to !== 'float32') throughTable(tableOf(from, to), codes, halvesOf(target));
    else WIDEN[from](codes, new Float32Array(target.buffer, target.byteOffset, codes.length));
    return target;
  }
  const values = widen(bytes, from);
  const floats = values instanceof Float32Array ? values : Float32Array.from(values as Float64Array);
  if (to === 'float32') target.set(bytesOf(floats));
  else ROUND[to](floats, halvesOf(target));
  return target;
}

type Half = Exclude<Float, 'float32'>;
const WIDEN = { bfloat16: widenBfloat16, float16: widenHalf };
const ROUND = { bfloat16: roundToBfloat16, float16: roundToHalf };
const tables = new Map<string, Uint16Array>();

/** Of 16 bits there are so few that each is rounded once. */
function tableOf(from: Half, to: Half): Uint16Array {
  const known = tables.get(from + to);
  if (known) return known;
  const table = ROUND[to](WIDEN[from](Uint16Array.from({ length: 1 << 16 }, (_, code) => code)));
  tables.set(from + to, table);
  return table;
}

function throughTable(table: Uint16Array, codes: Uint16Array, out: Uint16Array): void {
  const { length } = codes;
  for (let i = 0; i < length; i++) out[i] = table[codes[i]!]!;
}

function halvesOf(bytes: Uint8Array): Uint16Array {
  const { buffer, byteOffset, length } = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  return new Uint16Array(buffer, byteOffset, length / 2);
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array) => new Uint8Array(buffer, byteOffset, byteLength);
