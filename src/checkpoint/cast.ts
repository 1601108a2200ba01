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

/** Rounds to the nearest, ties to even; float64 goes by way of float32, as in torch. */
export function castFloats(bytes: Uint8Array, from: DType, to: Float): Uint8Array {
  if (bytesPerElement(from) === 2 && to !== 'float32') return throughTable(bytes, from as Half, to);
  const values = widen(bytes, from);
  const floats = values instanceof Float32Array ? values : Float32Array.from(values as Float64Array);
  return bytesOf(to === 'float32' ? floats : ROUND[to](floats));
}

type Half = Exclude<Float, 'float32'>;
const ROUND = { bfloat16: roundToBfloat16, float16: roundToHalf };
const tables = new Map<string, Uint16Array>();

/** Of 16 bits there are so few that each is rounded once. */
function throughTable(bytes: Uint8Array, from: Half, to: Half): Uint8Array {
  let table = tables.get(from + to);
  if (!table) {
    const all = Uint16Array.from({ length: 1 << 16 }, (_, code) => code);
    table = ROUND[to](widen(bytesOf(all), from) as Float32Array);
    tables.set(from + to, table);
  }
  const { buffer, byteOffset, length } = bytes.byteOffset % 2 === 0 ? bytes : bytes.slice();
  const codes = new Uint16Array(buffer, byteOffset, length / 2);
  const out = new Uint16Array(codes.length);
  for (let i = 0; i < codes.length; i++) out[i] = table[codes[i]!]!;
  return bytesOf(out);
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Uint16Array) =>
  new Uint8Array(buffer, byteOffset, byteLength);
