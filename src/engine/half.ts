/** bfloat16 and float16 (IEEE 754 binary16) to and from float32, as bits. Rounding is to the nearest, ties to even; NaN stays NaN. */

/** Exact. */
export function widenBfloat16(halves: Uint16Array, out: Float32Array = new Float32Array(halves.length)): Float32Array {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  const { length } = halves;
  for (let i = 0; i < length; i++) bits[i] = halves[i]! << 16;
  return out;
}

export function roundToBfloat16(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const { length } = bits;
  for (let i = 0; i < length; i++) {
    const value = bits[i]!;
    const notANumber = (value & 0x7fffffff) > 0x7f800000;
    out[i] = notANumber ? 0x7fc0 : (value + 0x7fff + ((value >>> 16) & 1)) >>> 16;
  }
  return out;
}

let halfValues: Float32Array | null = null;

/** Exact. */
export function widenHalf(halves: Uint16Array, out: Float32Array = new Float32Array(halves.length)): Float32Array {
  halfValues ??= Float32Array.from({ length: 1 << 16 }, (_, half) => halfToNumber(half));
  const table = halfValues;
  const { length } = halves;
  for (let i = 0; i < length; i++) out[i] = table[halves[i]!]!;
  return out;
}

/** Beyond 65504, half way to the next power of two, values become infinite. */
export function roundToHalf(values: Float32Array, out: Uint16Array = new Uint16Array(values.length)): Uint16Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const { length } = bits;
  for (let i = 0; i < length; i++) {
    const sign = (bits[i]! >>> 16) & 0x8000;
    const size = bits[i]! & 0x7fffffff;
    if (size >= 0x47800000) out[i] = sign | (size > 0x7f800000 ? 0x7e00 : 0x7c00);
    else if (size < 0x38800000) out[i] = sign | subnormalHalf(size);
    // The exponents' biases are 127 and 15; a carry into the exponent is the right next number.
    else out[i] = sign | ((size - 0x38000000 + 0xfff + ((size >>> 13) & 1)) >>> 13);
  }
  return out;
}

/** Bits of a float32 in [0, 2^-14) → steps of 2^-24. */
function subnormalHalf(bits: number): number {
  const shift = 126 - (bits >>> 23);
  if (shift > 24) return 0;
  const mantissa = (bits & 0x7fffff) | 0x800000;
  const steps = mantissa >>> shift;
  const [rest, middle] = [mantissa & ((1 << shift) - 1), 1 << (shift - 1)];
  return rest > middle || (rest === middle && steps & 1) ? steps + 1 : steps;
}

/** 1 sign bit, 5 of exponent (bias 15), 10 of mantissa. */
function halfToNumber(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 31;
  const mantissa = half & 1023;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}
