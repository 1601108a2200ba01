/** Between bytes as files hold them and the arrays that TensorFlow.js takes: widening, rounding, 64-bit integers. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import type { DType, HostArray } from '../engine.ts';
import { roundToBfloat16, roundToHalf, widenBfloat16, widenHalf } from '../half.ts';

/** What TensorFlow.js holds a dtype as. */
export type Stored = 'float32' | 'int32' | 'bool';

export const BYTES: { readonly [dtype in DType]: number } = {
  float32: 4,
  bfloat16: 2,
  float16: 2,
  float64: 8,
  int64: 8,
  int32: 4,
  uint8: 1,
  bool: 1,
};

export function storedAs(dtype: DType): Stored {
  switch (dtype) {
    case 'float32':
    case 'bfloat16':
    case 'float16':
      return 'float32';
    case 'int64':
    case 'int32':
    case 'uint8':
      return 'int32';
    case 'bool':
      return 'bool';
    case 'float64':
      throw new TypeError('TensorFlow.js has no float64; set trainer.engine=torch');
  }
}

export type StoredArray = Float32Array | Int32Array | Uint8Array;

/** Values as TensorFlow.js holds them, from little-endian bytes of `dtype`. The result is a copy. */
export function decode(bytes: Uint8Array<ArrayBuffer>, dtype: DType): StoredArray {
  const own = bytes.slice().buffer; // aligned, and of exactly this length
  switch (dtype) {
    case 'float32':
      return new Float32Array(own);
    case 'bfloat16':
      return widenBfloat16(new Uint16Array(own));
    case 'float16':
      return widenHalf(new Uint16Array(own));
    case 'int64':
      return narrowInt64(new BigInt64Array(own));
    case 'int32':
      return new Int32Array(own);
    case 'uint8':
      return Int32Array.from(new Uint8Array(own));
    case 'bool':
      return new Uint8Array(own);
    case 'float64':
      throw new TypeError('TensorFlow.js has no float64; set trainer.engine=torch');
  }
}

/** Little-endian bytes of `dtype`, the inverse of `decode`. */
export function encode(values: StoredArray, dtype: DType): Uint8Array<ArrayBuffer> {
  const bytesOf = (array: HostArray | Uint16Array) =>
    new Uint8Array(array.buffer as ArrayBuffer, array.byteOffset, array.byteLength);
  switch (dtype) {
    case 'float32':
      return bytesOf(Float32Array.from(values));
    case 'bfloat16':
      return bytesOf(roundToBfloat16(Float32Array.from(values)));
    case 'float16':
      return bytesOf(roundToHalf(Float32Array.from(values)));
    case 'int64':
      return bytesOf(BigInt64Array.from(Array.from(values, BigInt)));
    case 'int32':
      return bytesOf(Int32Array.from(values));
    case 'uint8':
    case 'bool':
      return Uint8Array.from(values);
    case 'float64':
      throw new TypeError('TensorFlow.js has no float64; set trainer.engine=torch');
  }
}

/** Values rounded to what `dtype` can hold, still as float32. */
export function rounded(values: Float32Array, dtype: 'bfloat16' | 'float16'): Float32Array {
  return dtype === 'bfloat16' ? widenBfloat16(roundToBfloat16(values)) : widenHalf(roundToHalf(values));
}

function narrowInt64(values: BigInt64Array): Int32Array {
  const narrow = new Int32Array(values.length);
  for (let i = 0; i < values.length; i++) {
    narrow[i] = Number(values[i]);
    if (BigInt(narrow[i]!) !== values[i]) {
      throw new RangeError(
        `TensorFlow.js has no 64-bit integers, and ${values[i]} does not fit 32; set trainer.engine=torch`,
      );
    }
  }
  return narrow;
}

/** Part of a file; `length` in bytes. */
export function readPart(path: string, offset: number, length: number): Uint8Array<ArrayBuffer> {
  const file = openSync(path, 'r');
  try {
    const { size } = fstatSync(file);
    if (offset + length > size) {
      throw new RangeError(`${path}: ${length} bytes at offset ${offset} do not lie within the file's ${size}`);
    }
    const bytes = new Uint8Array(length);
    // One read gives at most 2 GiB.
    for (let done = 0; done < length; ) {
      const got = readSync(file, bytes, done, Math.min(length - done, 2 ** 30), offset + done);
      if (got === 0) throw new Error(`${path}: it became shorter while it was read`);
      done += got;
    }
    return bytes;
  } finally {
    closeSync(file);
  }
}
