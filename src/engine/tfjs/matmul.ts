/**
 * Matrix product for the plain JavaScript backend. Its own kernel reads both factors through three strides for every single
 * multiplication; this one lays the factors out once, as float64 rows along the summed dimension, and computes 4 × 2 results at
 * a time in registers. Same arguments, same sums in float64 (rounded once, where the other rounds after every 48 terms).
 */
import * as tf from '@tensorflow/tfjs-core';

/** As much of `MathBackendCPU` as a kernel uses. */
interface CpuBackend {
  data: { get(id: object): { values: Float32Array } };
  makeTensorInfo(shape: number[], dtype: tf.DataType, values: Float32Array): tf.TensorInfo;
}

/** In place of the backend's own; once a process. */
export function registerMatMul(): void {
  tf.unregisterKernel(tf.BatchMatMul, 'cpu');
  tf.registerKernel({ kernelName: tf.BatchMatMul, backendName: 'cpu', kernelFunc: batchMatMul as tf.KernelFunc });
}

function batchMatMul({
  inputs,
  backend,
  attrs,
}: {
  inputs: { a: tf.TensorInfo; b: tf.TensorInfo };
  backend: CpuBackend;
  attrs: { transposeA: boolean; transposeB: boolean };
}): tf.TensorInfo {
  const { a, b } = inputs;
  const [rowsA, columnsA] = a.shape.slice(-2) as [number, number];
  const [rowsB, columnsB] = b.shape.slice(-2) as [number, number];
  const [M, K] = attrs.transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const [innerB, N] = attrs.transposeB ? [columnsB, rowsB] : [rowsB, columnsB];
  if (K !== innerB) throw new RangeError(`matMul of inner dimensions ${K} and ${innerB}`);
  const batchShape = tf.broadcast_util.assertAndGetBroadcastShape(a.shape.slice(0, -2), b.shape.slice(0, -2));
  const [batch, batchA, batchB] = [batchShape, a.shape.slice(0, -2), b.shape.slice(0, -2)].map(
    tf.util.sizeFromShape,
  ) as [number, number, number];
  const valuesA = backend.data.get(a.dataId).values;
  const valuesB = backend.data.get(b.dataId).values;
  const out = new Float32Array(batch * M * N);
  // Padded to whole tiles with rows of zeros.
  const left = new Float64Array(Math.ceil(M / 4) * 4 * K);
  const right = new Float64Array(Math.ceil(N / 2) * 2 * K);
  for (let i = 0; i < batch; i++) {
    layOut(left, valuesA, (i % batchA) * M * K, M, K, attrs.transposeA);
    layOut(right, valuesB, (i % batchB) * N * K, N, K, !attrs.transposeB);
    multiply(out, i * M * N, left, right, M, N, K);
  }
  return backend.makeTensorInfo([...batchShape, M, N], 'float32', out);
}

/** `rows` rows of K values each; in `values` they are columns if `turned`. */
function layOut(
  into: Float64Array,
  values: Float32Array,
  offset: number,
  rows: number,
  K: number,
  turned: boolean,
): void {
  if (!turned) {
    for (let i = 0; i < rows * K; i++) into[i] = values[offset + i]!;
    return;
  }
  for (let k = 0; k < K; k++) {
    for (let row = 0; row < rows; row++) into[row * K + k] = values[offset + k * rows + row]!;
  }
}

/** out[M, N] = left[M, K] · right[N, K]ᵀ */
function multiply(
  out: Float32Array,
  offset: number,
  left: Float64Array,
  right: Float64Array,
  M: number,
  N: number,
  K: number,
): void {
  for (let i = 0; i < M; i += 4) {
    const rows = Math.min(4, M - i);
    for (let j = 0; j < N; j += 2) {
      let [c00, c01, c10, c11, c20, c21, c30, c31] = [0, 0, 0, 0, 0, 0, 0, 0];
      let a = i * K;
      let b = j * K;
      for (const end = a + K; a < end; a++, b++) {
        const b0 = right[b]!;
        const b1 = right[b + K]!;
        const a0 = left[a]!;
        c00 += a0 * b0;
        c01 += a0 * b1;
        const a1 = left[a + K]!;
        c10 += a1 * b0;
        c11 += a1 * b1;
        const a2 = left[a + 2 * K]!;
        c20 += a2 * b0;
        c21 += a2 * b1;
        const a3 = left[a + 3 * K]!;
        c30 += a3 * b0;
        c31 += a3 * b1;
      }
      const at = offset + i * N + j;
      out[at] = c00;
      if (rows > 1) out[at + N] = c10;
      if (rows > 2) out[at + 2 * N] = c20;
      if (rows > 3) out[at + 3 * N] = c30;
      if (j + 1 === N) continue;
      out[at + 1] = c01;
      if (rows > 1) out[at + N + 1] = c11;
      if (rows > 2) out[at + 2 * N + 1] = c21;
      if (rows > 3) out[at + 3 * N + 1] = c31;
    }
  }
}
