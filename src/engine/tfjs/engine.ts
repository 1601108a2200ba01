/**
 * The engine over TensorFlow.js: float32, one process, any backend of core (backends.ts). Shapes and meaning are those of
 * engine.ts. Every operation is `made`: its intermediates are gone when it returns.
 */
import * as tf from '@tensorflow/tfjs-core';
import type {
  AdamWOptions,
  AdamWState,
  AttentionOptions,
  Capabilities,
  DType,
  Engine,
  HostArray,
  MemoryFigures,
  Parameter,
  Segment,
  Tensor,
} from '../engine.ts';
import { registerGradients } from './gradients.ts';
import { BYTES, decode, encode, readPart, rounded, type StoredArray, storedAs } from './host.ts';
import * as operations from './operations.ts';
import { Generator } from './random.ts';
import {
  arena,
  floats,
  indices,
  keep,
  made,
  peakMemory,
  resetPeak,
  scope,
  type TfjsTensor,
  tfjsTensor,
} from './tensor.ts';
import { vjp } from './vjp.ts';

const FLOATS: readonly DType[] = ['float32', 'bfloat16', 'float16'];

const countOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/** Dimension `dim` counted from the start. */
const fromStart = (dim: number, rank: number) => (dim < 0 ? dim + rank : dim);

export class TfjsEngine implements Engine {
  readonly name = 'tfjs';
  readonly device: string;
  readonly capabilities: Capabilities = {
    // bfloat16 and float16 are read, written and rounded to, but nothing is computed in them.
    dtypes: ['float32', 'int64', 'int32', 'uint8', 'bool'],
    flashAttention: false,
    processGroups: false,
  };
  readonly #generator = new Generator();

  /** @param device 'cpu', or 'cuda:0' for tfjs-node-gpu; the backend is core's current one. */
  constructor({ device }: { device: string }) {
    this.device = device;
    registerGradients();
  }

  // --- memory -------------------------------------------------------------------------------------------------------

  scope = scope;
  arena = arena;
  keep = keep;

  /** All tensors of TensorFlow.js, those without a handle too; bytes are sampled at every operation. */
  memory(): MemoryFigures {
    const { numTensors, numBytes } = tf.engine().state;
    return { tensors: numTensors, bytes: numBytes, peakBytes: peakMemory() };
  }

  resetPeakMemory(): void {
    resetPeak();
  }

  // --- gradients ----------------------------------------------------------------------------------------------------

  vjp(segment: Segment, inputs: readonly Tensor[], needs: readonly boolean[]) {
    return vjp(segment, inputs.map(tfjsTensor), needs);
  }

  forward(segment: Segment, inputs: readonly Tensor[]): Tensor[] {
    return scope(() => segment.forward(inputs));
  }

  // --- making and reading -------------------------------------------------------------------------------------------

  tensor(data: HostArray, shape: readonly number[], dtype?: DType): Tensor {
    const given = dtypeOf(data);
    if (data.length !== countOf(shape)) {
      throw new RangeError(`${data.length} values do not fill the shape [${shape.join(', ')}]`);
    }
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    const tensor = fromStored(decode(bytes, given), shape, given);
    if (dtype === undefined || dtype === given) return tensor;
    const converted = this.cast(tensor, dtype);
    tensor.dispose();
    return converted;
  }

  zeros(shape: readonly number[], dtype: DType = 'float32'): Tensor {
    return this.full(shape, 0, dtype);
  }

  full(shape: readonly number[], value: number, dtype: DType = 'float32'): Tensor {
    const stored = storedAs(dtype);
    const exact = dtype === 'bfloat16' || dtype === 'float16' ? rounded(Float32Array.of(value), dtype)[0]! : value;
    return made(() => tf.cast(tf.fill([...shape], exact, stored === 'bool' ? 'int32' : stored), stored), dtype);
  }

  uniform(shape: readonly number[], low: number, high: number, dtype: DType = 'float32'): Tensor {
    return this.#drawn(shape, dtype, (values) => this.#generator.fillUniform(values, low, high));
  }

  normal(shape: readonly number[], mean: number, std: number, dtype: DType = 'float32'): Tensor {
    return this.#drawn(shape, dtype, (values) => this.#generator.fillNormal(values, mean, std));
  }

  /** Read whole: TensorFlow.js cannot map a file. bfloat16 and float16 take the room of float32. */
  fromFile(path: string, offset: number, shape: readonly number[], dtype: DType): Tensor {
    storedAs(dtype); // refuses before anything is read
    return fromStored(decode(readPart(path, offset, countOf(shape) * BYTES[dtype]), dtype), shape, dtype);
  }

  read(tensor: Tensor): Float32Array | Float64Array | Int32Array | Uint8Array {
    const { dtype } = tensor;
    const values = stored(tensor);
    if (FLOATS.includes(dtype)) return Float32Array.from(values);
    if (dtype === 'int64') return Float64Array.from(values);
    return dtype === 'int32' ? Int32Array.from(values) : Uint8Array.from(values);
  }

  item(tensor: Tensor): number {
    const values = stored(tensor);
    if (values.length !== 1) throw new RangeError(`item() of a tensor with ${values.length} elements`);
    return values[0]!;
  }

  bytes(tensor: Tensor): Uint8Array {
    return encode(stored(tensor), tensor.dtype);
  }

  assign(target: Tensor, source: Tensor): void {
    const own = tfjsTensor(target);
    if (source.shape.join() !== target.shape.join()) {
      throw new RangeError(`[${source.shape.join(', ')}] cannot be assigned to [${target.shape.join(', ')}]`);
    }
    scope(() => own.replace(tf.clone(tfjsTensor(this.cast(source, target.dtype)).data)));
  }

  // --- randomness ---------------------------------------------------------------------------------------------------

  seed(value: number): void {
    this.#generator.seed(value);
  }

  rngState(): Uint8Array {
    return this.#generator.state();
  }

  setRngState(state: Uint8Array): void {
    this.#generator.setState(state);
  }

  // --- model operations ---------------------------------------------------------------------------------------------

  linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
    return made(() => operations.linear(floats(x), floats(weight), bias && floats(bias)));
  }

  embedding(weight: Tensor, ids: Tensor): Tensor {
    const flat = () => tf.reshape(indices(ids), [-1]);
    return made(() =>
      tf.reshape(operations.gatherRows(floats(weight), flat()), [...ids.shape, ...weight.shape.slice(1)]),
    );
  }

  rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
    return made(() => operations.rmsNorm(floats(x), floats(weight), eps));
  }

  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
    return made(() => operations.layerNorm(floats(x), floats(weight), floats(bias), eps));
  }

  attention(q: Tensor, k: Tensor, v: Tensor, { causal, scale, lengths }: AttentionOptions): Tensor {
    const factor = scale ?? 1 / Math.sqrt(q.shape[3]!);
    if (lengths && lengths.length > 1) return this.#byRecord(q, k, v, lengths, { causal, scale: factor });
    return made(() => operations.attention(floats(q), floats(k), floats(v), causal, factor));
  }

  /** Records that lie one after the other in the row, each by itself. */
  #byRecord(q: Tensor, k: Tensor, v: Tensor, lengths: readonly number[], options: AttentionOptions): Tensor {
    let start = 0;
    const mixed = lengths.map((length) => {
      const own = (x: Tensor) => this.slice(x, 2, start, start + length);
      const each = this.attention(own(q), own(k), own(v), options);
      start += length;
      return each;
    });
    return this.concat(mixed, 2);
  }

  rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
    return made(() => operations.rope(floats(x), floats(cos), floats(sin)));
  }

  patchEmbed(pixels: Tensor, weight: Tensor): Tensor {
    return made(() => operations.patchEmbed(floats(pixels), floats(weight)));
  }

  silu(x: Tensor): Tensor {
    return made(() => operations.swish(floats(x), 1));
  }

  siluMul(gate: Tensor, up: Tensor): Tensor {
    return made(() => operations.siluMul(floats(gate), floats(up)));
  }

  relu(x: Tensor): Tensor {
    return made(() => operations.relu(floats(x)));
  }

  gelu(x: Tensor): Tensor {
    return made(() => operations.gelu(floats(x)));
  }

  geluTanh(x: Tensor): Tensor {
    return made(() => operations.geluTanh(floats(x)));
  }

  quickGelu(x: Tensor): Tensor {
    return made(() => operations.swish(floats(x), 1.702));
  }

  crossEntropy(logits: Tensor, targets: Tensor): Tensor {
    return made(() => operations.crossEntropy(floats(logits), indices(targets)));
  }

  add(a: Tensor, b: Tensor): Tensor {
    return made(() => tf.add(floats(a), floats(b)));
  }

  mul(a: Tensor, b: Tensor): Tensor {
    return made(() => tf.mul(floats(a), floats(b)));
  }

  scale(x: Tensor, factor: number): Tensor {
    return made(() => tf.mul(floats(x), factor));
  }

  cast(x: Tensor, dtype: DType): Tensor {
    const { data, dtype: from } = tfjsTensor(x);
    const narrower = dtype === 'bfloat16' || dtype === 'float16';
    if (from === dtype || !narrower) return made(() => narrowed(tf.cast(data, storedAs(dtype)), from, dtype), dtype);
    return made(() => {
      const wide = tf.cast(data, 'float32');
      const values = () => tf.tensor(rounded(wide.dataSync() as Float32Array, dtype), wide.shape, 'float32');
      return operations.straightThrough(wide, values);
    }, dtype);
  }

  reshape(x: Tensor, shape: readonly number[]): Tensor {
    return made(() => tf.reshape(tfjsTensor(x).data, [...shape]), x.dtype);
  }

  transpose(x: Tensor, dimA: number, dimB: number): Tensor {
    const order = x.shape.map((_, i) => i);
    const [a, b] = [fromStart(dimA, order.length), fromStart(dimB, order.length)];
    [order[a], order[b]] = [b, a];
    return made(() => tf.transpose(tfjsTensor(x).data, order), x.dtype);
  }

  expand(x: Tensor, shape: readonly number[]): Tensor {
    return made(() => operations.expand(floats(x), shape));
  }

  slice(x: Tensor, dim: number, start: number, end: number): Tensor {
    const axis = fromStart(dim, x.shape.length);
    const size = x.shape[axis]!;
    const [first, last] = [fromStart(start, size), Math.min(fromStart(end, size), size)];
    const begin = x.shape.map((_, i) => (i === axis ? first : 0));
    const extent = x.shape.map((whole, i) => (i === axis ? Math.max(0, last - first) : whole));
    return made(() => tf.slice(tfjsTensor(x).data, begin, extent), x.dtype);
  }

  concat(xs: readonly Tensor[], dim: number): Tensor {
    return made(
      () =>
        tf.concat(
          xs.map((x) => tfjsTensor(x).data),
          fromStart(dim, xs[0]!.shape.length),
        ),
      xs[0]!.dtype,
    );
  }

  gatherRows(x: Tensor, at: Tensor): Tensor {
    return made(() => operations.gatherRows(floats(x), indices(at)));
  }

  scatterRows(base: Tensor, at: Tensor, rows: Tensor): Tensor {
    return made(() => operations.scatterRows(floats(base), indices(at), floats(rows)));
  }

  /** int32 */
  argmax(x: Tensor): Tensor {
    return made(() => tf.argMax(floats(x), -1), 'int32');
  }

  // --- updating -----------------------------------------------------------------------------------------------------

  globalNorm(grads: readonly Tensor[]): number {
    const squares = made(() => tf.stack(grads.map((grad) => tf.sum(tf.square(floats(grad))))));
    const sum = Array.from(this.read(squares)).reduce((total, square) => total + square, 0);
    squares.dispose();
    return Math.sqrt(sum);
  }

  round(value: Tensor, main: Tensor): void {
    this.assign(value, main);
  }

  remainder(): Tensor {
    throw new Error('the tfjs engine has no bfloat16 weights');
  }

  join(): Tensor {
    throw new Error('the tfjs engine has no bfloat16 weights');
  }

  adamW(parameters: readonly Parameter[], states: readonly AdamWState[], options: AdamWOptions): void {
    const { step, lr, betas, eps, weightDecay, gradScale } = options;
    const [beta1, beta2] = betas;
    const rate = lr / (1 - beta1 ** step);
    const root = Math.sqrt(1 - beta2 ** step);
    for (const [i, { value, grad, decay }] of parameters.entries()) {
      if (!grad) continue;
      const { expAvg, expAvgSq } = states[i]!;
      const [weight, first, second] = tf.tidy(() => {
        const g = gradScale === 1 ? floats(grad) : tf.mul(floats(grad), gradScale);
        const m = tf.add(tf.mul(floats(expAvg), beta1), tf.mul(g, 1 - beta1));
        const v = tf.add(tf.mul(floats(expAvgSq), beta2), tf.mul(tf.square(g), 1 - beta2));
        const kept = decay && weightDecay !== 0 ? tf.mul(floats(value), 1 - lr * weightDecay) : floats(value);
        return [tf.sub(kept, tf.div(tf.mul(m, rate), tf.add(tf.div(tf.sqrt(v), root), eps))), m, v] as const;
      }) as unknown as [tf.Tensor, tf.Tensor, tf.Tensor];
      tfjsTensor(value).replace(weight);
      tfjsTensor(expAvg).replace(first);
      tfjsTensor(expAvgSq).replace(second);
    }
  }

  #drawn(shape: readonly number[], dtype: DType, fill: (values: Float32Array) => void): Tensor {
    const values = new Float32Array(countOf(shape));
    fill(values);
    return this.tensor(values, shape, dtype);
  }
}

function dtypeOf(data: HostArray): DType {
  if (data instanceof Float32Array) return 'float32';
  if (data instanceof Int32Array) return 'int32';
  if (data instanceof BigInt64Array) return 'int64';
  return data instanceof Uint8Array ? 'uint8' : 'float64';
}

/** `values` must not be used by anyone else: the plain JavaScript backend takes them as they are. */
function fromStored(values: StoredArray, shape: readonly number[], dtype: DType): TfjsTensor {
  return made(() => tf.tensor(values, [...shape], storedAs(dtype)), dtype);
}

/** The values as TensorFlow.js holds them; not to be written to. Waits for the device. */
const stored = (tensor: Tensor): StoredArray => tfjsTensor(tensor).data.dataSync() as StoredArray;

/** uint8 wraps around, as C's and torch's conversion does; the others fit what they are stored in. */
function narrowed(data: tf.Tensor, from: DType, dtype: DType): tf.Tensor {
  return dtype === 'uint8' && from !== 'uint8' && from !== 'bool' ? tf.mod(tf.add(tf.mod(data, 256), 256), 256) : data;
}
