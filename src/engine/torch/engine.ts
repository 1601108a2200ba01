/** The engine over LibTorch: every method is one to a few ATen calls; shapes and meaning are those of engine.ts. */
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
import { foreignRandomState } from '../random_state.ts';
import * as aten from './aten.generated.ts';
import { attention } from './attention.ts';
import { native } from './native.ts';
import { arena, keep, scope, TorchTensor, torchTensor } from './tensor.ts';
import { forward, vjp } from './vjp.ts';

export interface TorchOptions {
  /** 'cpu' or 'cuda:0', … */
  device: string;
  /** Threads inside an operator; LibTorch's own choice (all cores) when null. */
  threads: number | null;
}

const HOST_DTYPES: readonly (readonly [new (...args: never[]) => HostArray, DType])[] = [
  [Float32Array, 'float32'],
  [Float64Array, 'float64'],
  [Int32Array, 'int32'],
  [BigInt64Array, 'int64'],
  [Uint8Array, 'uint8'],
];

const REDUCE_SUM = 2; // at::Reduction::Sum

export class TorchEngine implements Engine {
  readonly name = 'torch';
  readonly device: string;
  readonly capabilities: Capabilities = {
    dtypes: ['float32', 'bfloat16', 'float16', 'float64', 'int64', 'int32', 'uint8', 'bool'],
    flashAttention: true,
    processGroups: false,
  };
  /** AdamW's step count as the fused operator wants it, shared by all parameters. */
  #stepCount: TorchTensor | null = null;

  constructor({ device, threads }: TorchOptions) {
    this.device = device;
    if (threads !== null) native().setThreads(threads);
    native().setGradEnabled(false); // the tape runs inside `vjp` only
  }

  // --- memory -------------------------------------------------------------------------------------------------------

  scope = scope;
  arena = arena;
  keep = keep;

  memory(): MemoryFigures {
    const { bytes, peakBytes } = (this.device === 'cpu' ? null : native().deviceMemory()) ?? native().memory();
    return { tensors: native().liveTensors(), bytes, peakBytes };
  }

  resetPeakMemory(): void {
    native().resetPeakMemory();
  }

  // --- gradients ----------------------------------------------------------------------------------------------------

  vjp(segment: Segment, inputs: readonly Tensor[], needs: readonly boolean[]) {
    return vjp(segment, inputs.map(torchTensor), needs);
  }

  forward(segment: Segment, inputs: readonly Tensor[]): Tensor[] {
    return forward(segment, inputs);
  }

  // --- making and reading -------------------------------------------------------------------------------------------

  tensor(data: HostArray, shape: readonly number[], dtype?: DType): Tensor {
    const given = HOST_DTYPES.find(([type]) => data instanceof type)![1];
    const onHost = new TorchTensor(native().fromBytes(data, shape, given));
    return this.#place(onHost, dtype ?? given);
  }

  zeros(shape: readonly number[], dtype: DType = 'float32'): Tensor {
    return aten.zeros(shape, dtype, null, this.device);
  }

  full(shape: readonly number[], value: number, dtype: DType = 'float32'): Tensor {
    return aten.full(shape, value, dtype, null, this.device);
  }

  uniform(shape: readonly number[], low: number, high: number, dtype: DType = 'float32'): Tensor {
    const tensor = aten.zeros(shape, dtype, null, this.device);
    aten.uniform_(tensor, low, high);
    return tensor;
  }

  normal(shape: readonly number[], mean: number, std: number, dtype: DType = 'float32'): Tensor {
    const tensor = aten.zeros(shape, dtype, null, this.device);
    aten.normal_(tensor, mean, std);
    return tensor;
  }

  fromFile(path: string, offset: number, shape: readonly number[], dtype: DType): Tensor {
    return this.#place(new TorchTensor(native().fromFile(path, offset, shape, dtype)), dtype);
  }

  read(tensor: Tensor): Float32Array | Float64Array | Int32Array | Uint8Array {
    switch (tensor.dtype) {
      case 'float32':
        return new Float32Array(this.#buffer(tensor));
      case 'float64':
        return new Float64Array(this.#buffer(tensor));
      case 'int32':
        return new Int32Array(this.#buffer(tensor));
      case 'uint8':
      case 'bool':
        return new Uint8Array(this.#buffer(tensor));
      case 'bfloat16':
      case 'float16':
        return this.#readWidened(tensor);
      case 'int64':
        return Float64Array.from(new BigInt64Array(this.#buffer(tensor)), Number);
    }
  }

  #readWidened(tensor: Tensor): Float32Array {
    const wide = this.cast(tensor, 'float32');
    const values = new Float32Array(this.#buffer(wide));
    wide.dispose();
    return values;
  }

  item(tensor: Tensor): number {
    return native().item(torchTensor(tensor).handle);
  }

  bytes(tensor: Tensor): Uint8Array {
    return new Uint8Array(this.#buffer(tensor));
  }

  assign(target: Tensor, source: Tensor): void {
    aten.copy_(torchTensor(target), torchTensor(source));
  }

  // --- randomness ---------------------------------------------------------------------------------------------------

  seed(value: number): void {
    native().manualSeed(value);
  }

  rngState(): Uint8Array {
    return new Uint8Array(native().rngState());
  }

  setRngState(state: Uint8Array): void {
    const expected = native().rngState().byteLength;
    if (state.length !== expected) throw foreignRandomState('torch', expected, state.length);
    native().setRngState(state);
  }

  // --- model operations ---------------------------------------------------------------------------------------------

  linear(x: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
    const own = torchTensor(x);
    return aten.linear(own, like(own, weight), bias && like(own, bias));
  }

  embedding(weight: Tensor, ids: Tensor): Tensor {
    return aten.embedding(torchTensor(weight), torchTensor(ids));
  }

  rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor {
    const own = torchTensor(x);
    return aten.rmsNorm(own, like(own, weight), eps);
  }

  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor {
    const own = torchTensor(x);
    return aten.layerNorm(own, weight.shape, like(own, weight), like(own, bias), eps);
  }

  attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor {
    return attention(torchTensor(q), torchTensor(k), torchTensor(v), options, this.device);
  }

  rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor {
    return aten.rope(torchTensor(x), torchTensor(cos), torchTensor(sin));
  }

  patchEmbed(pixels: Tensor, weight: Tensor): Tensor {
    const [outputs, , patch] = weight.shape;
    const own = torchTensor(pixels);
    const grid = aten.conv2d(own, like(own, weight), null, [patch!, patch!]); // [N, C, S/p, S/p]
    return aten.transposeInt(aten.reshape(grid, [pixels.shape[0]!, outputs!, -1]), 1, 2);
  }

  silu(x: Tensor): Tensor {
    return aten.silu(torchTensor(x));
  }

  siluMul(gate: Tensor, up: Tensor): Tensor {
    return aten.siluMul(torchTensor(gate), torchTensor(up));
  }

  relu(x: Tensor): Tensor {
    return aten.relu(torchTensor(x));
  }

  gelu(x: Tensor): Tensor {
    return aten.gelu(torchTensor(x));
  }

  geluTanh(x: Tensor): Tensor {
    return aten.gelu(torchTensor(x), 'tanh');
  }

  quickGelu(x: Tensor): Tensor {
    const own = torchTensor(x);
    return aten.mulTensor(own, aten.sigmoid(aten.mulScalar(own, 1.702)));
  }

  crossEntropy(logits: Tensor, targets: Tensor): Tensor {
    const wide = logits.dtype === 'float32' || logits.dtype === 'float64' ? logits : this.cast(logits, 'float32');
    const indices = targets.dtype === 'int64' ? targets : this.cast(targets, 'int64');
    return aten.crossEntropyLoss(torchTensor(wide), torchTensor(indices), null, REDUCE_SUM);
  }

  add(a: Tensor, b: Tensor): Tensor {
    return aten.addTensor(torchTensor(a), torchTensor(b));
  }

  mul(a: Tensor, b: Tensor): Tensor {
    return aten.mulTensor(torchTensor(a), torchTensor(b));
  }

  scale(x: Tensor, factor: number): Tensor {
    return aten.mulScalar(torchTensor(x), factor);
  }

  cast(x: Tensor, dtype: DType): Tensor {
    return aten._toCopy(torchTensor(x), dtype);
  }

  reshape(x: Tensor, shape: readonly number[]): Tensor {
    return aten.reshape(torchTensor(x), shape);
  }

  transpose(x: Tensor, dimA: number, dimB: number): Tensor {
    return aten.transposeInt(torchTensor(x), dimA, dimB);
  }

  expand(x: Tensor, shape: readonly number[]): Tensor {
    return aten.expand(torchTensor(x), shape);
  }

  slice(x: Tensor, dim: number, start: number, end: number): Tensor {
    return aten.sliceTensor(torchTensor(x), dim, start, end);
  }

  concat(xs: readonly Tensor[], dim: number): Tensor {
    return aten.cat(xs.map(torchTensor), dim);
  }

  gatherRows(x: Tensor, indices: Tensor): Tensor {
    return aten.indexSelect(torchTensor(x), 0, torchTensor(indices));
  }

  scatterRows(base: Tensor, indices: Tensor, rows: Tensor): Tensor {
    const long = indices.dtype === 'int64' ? indices : this.cast(indices, 'int64');
    return aten.indexCopy(torchTensor(base), 0, torchTensor(long), torchTensor(rows));
  }

  argmax(x: Tensor): Tensor {
    return aten.argmax(torchTensor(x), -1);
  }

  // --- updating -----------------------------------------------------------------------------------------------------

  globalNorm(grads: readonly Tensor[]): number {
    const norm = this.scope(() => {
      const norms = aten._foreachNormScalar(grads.map(torchTensor), 2, 'float32');
      return aten.linalgVectorNorm(aten.stack(norms));
    });
    const value = this.item(norm);
    norm.dispose();
    return value;
  }

  adamW(parameters: readonly Parameter[], states: readonly AdamWState[], options: AdamWOptions): void {
    const { step, lr, betas, eps, weightDecay, gradScale } = options;
    this.#stepCount ??= keep(aten.full([], 0, 'float32', null, this.device));
    const count = this.#stepCount;
    this.scope(() => {
      aten.copy_(count, aten.full([], step, 'float32', null, this.device));
      // The operator divides gradients by grad_scale as it reads them: clipping costs no pass of its own.
      const divisor = gradScale === 1 ? null : aten.full([], 1 / gradScale, 'float32', null, this.device);
      const update = (group: readonly number[], weights: readonly Tensor[], decay: boolean) =>
        aten._fusedAdamw_(
          weights.map(torchTensor),
          group.map((i) => torchTensor(parameters[i]!.grad!)),
          group.map((i) => torchTensor(states[i]!.expAvg)),
          group.map((i) => torchTensor(states[i]!.expAvgSq)),
          [],
          group.map(() => count),
          lr,
          betas[0],
          betas[1],
          decay ? weightDecay : 0,
          eps,
          false,
          false,
          divisor,
        );
      const indices = parameters.map((_, i) => i).filter((i) => parameters[i]!.grad);
      for (const decay of [true, false]) {
        const group = indices.filter((i) => parameters[i]!.decay === decay && !parameters[i]!.remainder);
        const weights = group.map((i) => parameters[i]!.main ?? parameters[i]!.value);
        if (group.length > 0) update(group, weights, decay);
      }
      for (const { main, value, grad } of parameters) if (main && grad) this.round(value, main);
      // One at a time: their main weights exist only while they are updated.
      for (const i of indices.filter((each) => parameters[each]!.remainder)) {
        const { value, remainder, decay } = parameters[i]!;
        this.scope(() => {
          const main = this.join(value, remainder!);
          update([i], [main], decay);
          this.round(value, main);
          this.assign(remainder!, this.remainder(main));
        });
      }
    });
  }

  round(value: Tensor, main: Tensor): void {
    if (value.dtype === 'bfloat16') aten.mainPart_(torchTensor(value), torchTensor(main));
    else this.assign(value, main);
  }

  remainder(main: Tensor): Tensor {
    return aten.mainRemainder(torchTensor(main));
  }

  join(value: Tensor, remainder: Tensor): Tensor {
    return aten.mainJoin(torchTensor(value), torchTensor(remainder));
  }

  /** On this engine's device and in `dtype`; the given tensor is freed if it had to be copied. */
  #place(tensor: TorchTensor, dtype: DType): TorchTensor {
    if (this.device === 'cpu' && tensor.dtype === dtype) return tensor;
    const placed = aten._toCopy(tensor, dtype, null, this.device);
    tensor.dispose();
    return placed;
  }

  #buffer(tensor: Tensor): ArrayBuffer {
    return native().readBytes(torchTensor(tensor).handle);
  }
}

/** A weight in the dtype of the activation that it meets. */
function like(x: TorchTensor, weight: Tensor): TorchTensor {
  const own = torchTensor(weight);
  return own.dtype === x.dtype ? own : aten._toCopy(own, x.dtype);
}
