/**
 * What a tensor engine owes the model: the operations of the LLaVA family at the level a model author thinks in,
 * plus memory (`scope`), gradients (`vjp`), transfer and randomness. Model code is written once against this file.
 *
 * Shape letters used all over neva: B records, T positions, C hidden size, H heads, D head size, F MLP width,
 * V vocabulary, N images, P patches an image, S side of a picture, M labelled positions.
 */

export type DType = 'float32' | 'bfloat16' | 'float16' | 'float64' | 'int64' | 'int32' | 'uint8' | 'bool';

/** A handle; the data lives in the engine. Using one after `dispose` (or after its scope ended) throws. */
export interface Tensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly disposed: boolean;
  dispose(): void;
}

/** Everything that `scope` can see tensors in: what it returns is kept alive. */
export type Held = Tensor | null | undefined | number | boolean | string | readonly Held[] | { [key: string]: Held };

export type HostArray = Float32Array | Float64Array | Int32Array | BigInt64Array | Uint8Array;

/** The stretch of a whole weight that one process holds: start … end−1 of the `of` along dimension `dim`. */
export interface Shard {
  readonly dim: number;
  readonly start: number;
  readonly end: number;
  readonly of: number;
}

/** A weight of the model: its name in the checkpoint (Hugging Face LLaVA names), its value, its gradient. */
export interface Parameter {
  readonly name: string;
  value: Tensor;
  /** The float32 weight that the optimizer updates where `value` has fewer bits (NeMo's megatron_amp_O2); null elsewhere. */
  main: Tensor | null;
  /**
   * In place of `main`: the 16 bits that a bfloat16 `value` leaves of it (NeMo's store_param_remainders); an int16 tensor
   * that only the engine reads.
   */
  remainder?: Tensor | null;
  /** Sum of gradients since the last optimizer step, in float32; null before the first. */
  grad: Tensor | null;
  trainable: boolean;
  /** Leading rows that are saved, where the rest is padding; absent: all. */
  rows?: number;
  /** Weight decay applies: false for norms and biases (NeMo's parameter groups). */
  readonly decay: boolean;
  /** Which part of the weight `value` is; null or absent where it is all of it. */
  shard?: Shard | null;
  /** `grad` is one of several summands: each rank of a tensor-parallel group adds its own pictures' or positions'. */
  readonly summand?: boolean;
  /**
   * An embedding that serves as head too, where it is on the first and on the last pipeline stage: equal weights, and each
   * has a summand of the gradient.
   */
  twin?: 'first' | 'last';
}

/** A piece of the model that the walk goes through in one go: its parameters, and a pure function of its inputs. */
export interface Segment {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  forward(inputs: readonly Tensor[]): Tensor[];
}

/** A segment's outputs, and the way back: call `backward` or `drop` once. */
export interface Vjp {
  readonly outputs: readonly Tensor[];
  /**
   * Adds this segment's parameter gradients to `Parameter.grad` and returns the gradients of its inputs
   * (null for an input that needs none). Frees what the forward pass had saved.
   */
  backward(gradOutputs: readonly (Tensor | null)[]): (Tensor | null)[];
  drop(): void;
}

export interface AttentionOptions {
  /** Position t sees positions ≤ t (aligned to the end when the keys are longer than the queries: KV cache). */
  causal: boolean;
  /** Softmax scale; 1/√D by default. */
  scale?: number;
  /**
   * Records that lie one after the other along T (B is 1, U = T): each sees itself alone. They add up to T. Memory is
   * linear in T, whatever the lengths.
   */
  lengths?: readonly number[] | null;
  /** Never write out the scores [B, H, T, U] (the default); false computes them, in the activation's dtype. */
  flash?: boolean;
  /** Without flash: keep q, k and v only, and compute scores and softmax again in the backward pass. */
  recompute?: boolean;
}

export interface AdamWOptions {
  /** 1-based number of this update, for bias correction. */
  step: number;
  lr: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
  /** Gradients are multiplied by this first (clipping); 1 leaves them as they are. */
  gradScale: number;
}

/** First and second moments of one parameter. */
export interface AdamWState {
  expAvg: Tensor;
  expAvgSq: Tensor;
}

export interface Capabilities {
  readonly dtypes: readonly DType[];
  readonly flashAttention: boolean;
  readonly processGroups: boolean;
}

export interface MemoryFigures {
  /** Live tensor handles: must return to its baseline after a step. */
  tensors: number;
  /** Bytes the engine holds on its device now, and at most since `resetPeakMemory`. */
  bytes: number;
  peakBytes: number;
}

/** A scope that is entered several times, with other work between, and left once. */
export interface Arena {
  /** Tensors made inside, and by scopes inside, belong to the arena. */
  within<R>(body: () => R): R;
  /** Frees them. */
  free(): void;
}

export interface Engine {
  readonly name: 'torch' | 'tfjs';
  /** 'cpu', 'cuda:0', … */
  readonly device: string;
  readonly capabilities: Capabilities;

  // --- memory -------------------------------------------------------------------------------------------------------
  /** Runs `body` and frees every tensor made inside except those in its return value. Not for async functions. */
  scope<R extends Held | void>(body: () => R): R;
  /** For work that is interleaved with other work, which `scope` cannot nest. */
  arena(): Arena;
  /** Takes a tensor out of the running scopes: it lives until disposed. */
  keep<T extends Tensor>(tensor: T): T;
  memory(): MemoryFigures;
  resetPeakMemory(): void;

  // --- gradients ----------------------------------------------------------------------------------------------------
  /** Runs a segment so that `backward` can be called later. `needs[i]`: a gradient of input i is wanted. */
  vjp(segment: Segment, inputs: readonly Tensor[], needs: readonly boolean[]): Vjp;
  /** Runs a segment without recording anything. */
  forward(segment: Segment, inputs: readonly Tensor[]): Tensor[];

  // --- making and reading -------------------------------------------------------------------------------------------
  tensor(data: HostArray, shape: readonly number[], dtype?: DType): Tensor;
  zeros(shape: readonly number[], dtype?: DType): Tensor;
  full(shape: readonly number[], value: number, dtype?: DType): Tensor;
  /** Draws from the engine's generator (see `seed`). */
  uniform(shape: readonly number[], low: number, high: number, dtype?: DType): Tensor;
  normal(shape: readonly number[], mean: number, std: number, dtype?: DType): Tensor;
  /** A tensor over part of a file, memory-mapped where the engine can. Little-endian, contiguous; `offset` in bytes. */
  fromFile(path: string, offset: number, shape: readonly number[], dtype: DType): Tensor;
  /** Copy of the values; synchronizes with the device. int64 and bool are widened/narrowed to number arrays. */
  read(tensor: Tensor): Float32Array | Float64Array | Int32Array | Uint8Array;
  /** The single value of a one-element tensor. */
  item(tensor: Tensor): number;
  /** The raw little-endian bytes in the tensor's own dtype: what a safetensors file holds. */
  bytes(tensor: Tensor): Uint8Array;
  /** Overwrites `target` in place with `source` (same shape; dtype is converted). */
  assign(target: Tensor, source: Tensor): void;

  // --- randomness ---------------------------------------------------------------------------------------------------
  seed(value: number): void;
  rngState(): Uint8Array;
  setRngState(state: Uint8Array): void;

  // --- model operations ---------------------------------------------------------------------------------------------
  // Weights in another dtype than the activation are cast to it (mixed precision without O2).

  /** x [..., I] · weightᵀ [O, I] + bias [O]. */
  linear(x: Tensor, weight: Tensor, bias?: Tensor | null): Tensor;
  /** Rows of weight [V, C] at ids [...] (int32 or int64) → [..., C]. */
  embedding(weight: Tensor, ids: Tensor): Tensor;
  /** x · rsqrt(mean(x²) + eps) · weight over the last dimension, statistics in float32 (LlamaRMSNorm). */
  rmsNorm(x: Tensor, weight: Tensor, eps: number): Tensor;
  layerNorm(x: Tensor, weight: Tensor, bias: Tensor, eps: number): Tensor;
  /** q [B, H, T, D]; k, v [B, G, U, D] with H a multiple of G (grouped queries) → [B, H, T, D]. */
  attention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions): Tensor;
  /**
   * Half-rotation (NeoX, Hugging Face): x [B, H, T, D]; cos, sin [T, R/2] float32. The first R of D are turned, the rest stays
   * as it is (NeMo's rotary_percentage).
   */
  rope(x: Tensor, cos: Tensor, sin: Tensor): Tensor;
  /** Square patches of pixels [N, 3, S, S] projected by weight [C, 3, p, p] → [N, (S/p)², C], row by row. */
  patchEmbed(pixels: Tensor, weight: Tensor): Tensor;
  silu(x: Tensor): Tensor;
  /** silu(gate) · up: the inside of SwiGLU. */
  siluMul(gate: Tensor, up: Tensor): Tensor;
  relu(x: Tensor): Tensor;
  /** Exact (erf) GELU. */
  gelu(x: Tensor): Tensor;
  /** GELU by tanh, as GPT-2 has it: x/2 · (1 + tanh(√(2/π)·(x + 0.044715 x³))). */
  geluTanh(x: Tensor): Tensor;
  /** x · σ(1.702 x). */
  quickGelu(x: Tensor): Tensor;
  /** Sum over rows of −log softmax(logits)[target]: logits [M, V], targets [M] → scalar float32. */
  crossEntropy(logits: Tensor, targets: Tensor): Tensor;
  /** Element-wise, broadcasting like NumPy. */
  add(a: Tensor, b: Tensor): Tensor;
  mul(a: Tensor, b: Tensor): Tensor;
  scale(x: Tensor, factor: number): Tensor;
  cast(x: Tensor, dtype: DType): Tensor;
  /** One dimension may be −1. */
  reshape(x: Tensor, shape: readonly number[]): Tensor;
  transpose(x: Tensor, dimA: number, dimB: number): Tensor;
  expand(x: Tensor, shape: readonly number[]): Tensor;
  /** x[start:end] along `dim`. */
  slice(x: Tensor, dim: number, start: number, end: number): Tensor;
  concat(xs: readonly Tensor[], dim: number): Tensor;
  /** Rows of x [R, ...] at indices [M] → [M, ...]. */
  gatherRows(x: Tensor, indices: Tensor): Tensor;
  /** Copy of base [R, C] whose rows at `indices` [M] are `rows` [M, C]. Indices must be distinct. */
  scatterRows(base: Tensor, indices: Tensor, rows: Tensor): Tensor;
  /** Index of the largest value along the last dimension. */
  argmax(x: Tensor): Tensor;

  // --- updating -----------------------------------------------------------------------------------------------------
  /** √Σ‖g‖² over all tensors, in float32. */
  globalNorm(grads: readonly Tensor[]): number;
  /**
   * One AdamW update (decoupled decay) of every parameter from its `grad`, in place, fused where the engine can: of `main`
   * where there is one, given or as a remainder, which is then rounded to `value`.
   */
  adamW(parameters: readonly Parameter[], states: readonly AdamWState[], options: AdamWOptions): void;
  /** Overwrites a weight with its float32 main weight, rounded; to bfloat16, ties go away from zero. */
  round(value: Tensor, main: Tensor): void;
  /** What `round` of a main weight to bfloat16 leaves: together with the rounded weight, all its bits. */
  remainder(main: Tensor): Tensor;
  /** The float32 main weight out of a bfloat16 weight and its remainder. */
  join(value: Tensor, remainder: Tensor): Tensor;
}
