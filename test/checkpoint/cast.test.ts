/** Number formats against LibTorch's conversions. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { castFloats, type Float, widen } from '../../src/checkpoint/cast.ts';
import type { HostArray } from '../../src/engine/engine.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const bytesOf = (values: HostArray | Uint16Array | Uint32Array) =>
  new Uint8Array(values.buffer, values.byteOffset, values.byteLength);

const codes = Uint16Array.from({ length: 1 << 16 }, (_, code) => code);

/** Every half, its neighbours among the float32, what lies half way to the next one, and bits at random. */
function floats(): Float32Array {
  const bits: number[] = [];
  for (const kind of ['float16', 'bfloat16'] as const) {
    const values = new Uint32Array((widen(bytesOf(codes), kind) as Float32Array).buffer);
    const half = kind === 'float16' ? 1 << 12 : 1 << 15;
    for (const value of values) bits.push(value, value + half, value + half - 1, value + half + 1, value + 1);
  }
  let state = 1;
  for (let i = 0; i < 300_000; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bits.push(state);
  }
  return new Float32Array(Uint32Array.from(bits).buffer);
}

/** Equal bits, or NaN in both: which NaN, differs between processors. */
function assertSame(ours: Uint8Array, theirs: Uint8Array, dtype: Float): void {
  assert.equal(ours.length, theirs.length);
  const width = dtype === 'float32' ? 4 : 2;
  const words = (bytes: Uint8Array) => {
    const own = bytes.slice().buffer;
    return width === 4 ? new Uint32Array(own) : new Uint16Array(own);
  };
  const [a, b] = [words(ours), words(theirs)];
  const [x, y] = [widen(ours, dtype), widen(theirs, dtype)];
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i] && !(Number.isNaN(x[i]) && Number.isNaN(y[i]))) {
      assert.fail(`value ${i}: ${a[i]!.toString(16)} ${x[i]} instead of ${b[i]!.toString(16)} ${y[i]}`);
    }
  }
}

function throughTorch(values: HostArray, from: Float | 'float64', to: Float): Uint8Array {
  const tensor = engine.tensor(values, [values.length], from);
  const cast = engine.cast(tensor, to);
  const bytes = engine.bytes(cast);
  for (const each of [tensor, cast]) each.dispose();
  return bytes;
}

for (const to of ['bfloat16', 'float16', 'float32'] as const) {
  test(`to ${to}, from every type, as torch rounds`, () => {
    const values = floats();
    assertSame(castFloats(bytesOf(values), 'float32', to), throughTorch(values, 'float32', to), to);
    const doubles = Float64Array.from(values, (value) => value * 1.000000123);
    assertSame(castFloats(bytesOf(doubles), 'float64', to), throughTorch(doubles, 'float64', to), to);
    for (const from of ['bfloat16', 'float16'] as const) {
      // All values of the type; torch gets them widened, by shifts and by its own conversion alike.
      const all = castFloats(bytesOf(codes), from, 'float32');
      const wide = new Float32Array(all.buffer as ArrayBuffer, all.byteOffset, codes.length);
      assertSame(castFloats(bytesOf(codes), from, to), throughTorch(wide, 'float32', to), to);
      assertSame(throughTorch(wide, 'float32', from), bytesOf(codes), from);
    }
  });
}

test('bytes may begin anywhere in memory', () => {
  const values = Float32Array.of(1, -2.5, 3e-7, 65504);
  const shifted = new Uint8Array(17);
  shifted.set(bytesOf(values), 1);
  for (const to of ['bfloat16', 'float16'] as const) {
    assert.deepEqual(castFloats(shifted.subarray(1), 'float32', to), castFloats(bytesOf(values), 'float32', to));
  }
  const halves = castFloats(bytesOf(values), 'float32', 'float16');
  shifted.set(halves, 1);
  const moved = castFloats(shifted.subarray(1, 9), 'float16', 'bfloat16');
  assert.deepEqual(moved, castFloats(halves, 'float16', 'bfloat16'));
});
