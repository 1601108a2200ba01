/**
 * LLaMA (Touvron et al. 2023; Hugging Face LlamaForCausalLM): RMSNorm, rotary positions, grouped-query attention,
 * SwiGLU, no biases. Written as the segments that the walk goes through: embedding is joined with the image features in
 * neva.ts, each block is a segment, and final norm, head and loss are the last one.
 */
import type { AttentionOptions, Engine, Parameter, Segment, Tensor } from '../engine/engine.ts';
import { normal, ones, ParameterMaker, type WeightSource } from './parameters.ts';
import type { LlamaShape } from './shapes.ts';

/** Rotary tables for positions 0 … T−1, each [T, D/2] float32. */
export interface RotaryTables {
  cos: Tensor;
  sin: Tensor;
}

/** Keys and values [B, G, U, D] of the positions already seen, one per block. */
export interface BlockCache {
  keys: Tensor | null;
  values: Tensor | null;
}

export interface BlockContext {
  /** For the T positions of the block's input. */
  tables: RotaryTables;
  /** Those positions come after the ones it holds, and it grows by them. */
  cache?: BlockCache | null;
  /**
   * [M] flat positions b·T+t: all that is asked of the block. The last block's output is used at labelled positions
   * only, so its output projection and MLP need not see the others.
   */
  rows?: Tensor | null;
  /** How attention is computed; all positions of a row see each other without it. */
  attention?: Omit<AttentionOptions, 'causal' | 'scale'>;
}

interface BlockParameters {
  inputNorm: Parameter;
  query: Parameter;
  key: Parameter;
  value: Parameter;
  output: Parameter;
  postAttentionNorm: Parameter;
  gate: Parameter;
  up: Parameter;
  down: Parameter;
}

const PREFIX = 'language_model.';

/** Random weights where there is no checkpoint. */
export interface LlamaInit {
  /** NeMo's init_method_std, LLaMA's initializer_range. */
  std: number;
  /** NeMo's use_scaled_init_method: std/√(2·layers) for the matrices that write to the residual stream. */
  scaled: boolean;
}

const LLAMA_INIT: LlamaInit = { std: 0.02, scaled: false };

export class Llama {
  readonly shape: LlamaShape;
  readonly parameters: readonly Parameter[];
  readonly embedding: Parameter;
  readonly blocks: readonly LlamaBlock[];
  readonly finalNorm: Parameter;
  /** The embedding itself when the two are tied. */
  readonly head: Parameter;
  readonly #engine: Engine;
  #tables: (RotaryTables & { length: number }) | null = null;

  constructor(engine: Engine, shape: LlamaShape, source: WeightSource | null = null, init: LlamaInit = LLAMA_INIT) {
    const maker = new ParameterMaker(engine, source);
    this.#engine = engine;
    this.shape = shape;
    this.embedding = maker.make(
      `${PREFIX}model.embed_tokens.weight`,
      [shape.vocabSize, shape.hiddenSize],
      normal(init.std),
    );
    this.blocks = Array.from({ length: shape.numLayers }, (_, i) => new LlamaBlock(shape, i, maker, init));
    this.finalNorm = maker.make(`${PREFIX}model.norm.weight`, [shape.hiddenSize], ones);
    this.head = shape.tiedEmbeddings
      ? this.embedding
      : maker.make(`${PREFIX}lm_head.weight`, [shape.vocabSize, shape.hiddenSize], normal(init.std));
    this.parameters = maker.finish();
  }

  /** Rotary tables for positions start … end−1; kept and grown as longer sequences come. */
  rotary(start: number, end: number): RotaryTables {
    if (!this.#tables || this.#tables.length < end) {
      const length = Math.max(end, Math.min(2 * end, this.shape.maxPositions));
      this.#tables?.cos.dispose();
      this.#tables?.sin.dispose();
      this.#tables = { ...rotaryTables(this.#engine, this.shape, length), length };
    }
    const { cos, sin } = this.#tables;
    return { cos: this.#engine.slice(cos, 0, start, end), sin: this.#engine.slice(sin, 0, start, end) };
  }

  /** Tables for records that lie one after the other, each from position 0 on: [Σ lengths, D/2]. */
  packedRotary(lengths: Int32Array): RotaryTables {
    const { cos, sin } = this.rotary(0, Math.max(...lengths));
    const positions = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
    let at = 0;
    for (const length of lengths) for (let t = 0; t < length; t++) positions[at++] = t;
    const rows = this.#engine.tensor(positions, [positions.length]);
    return { cos: this.#engine.gatherRows(cos, rows), sin: this.#engine.gatherRows(sin, rows) };
  }
}

/** Angle of pair i at position t: t · base^(−2i/D). Computed in float64, stored in float32 as Hugging Face does. */
function rotaryTables(engine: Engine, { headDim, rotaryBase }: LlamaShape, length: number): RotaryTables {
  const half = headDim / 2;
  const cos = new Float32Array(length * half);
  const sin = new Float32Array(length * half);
  for (let i = 0; i < half; i++) {
    const frequency = Math.fround(1 / rotaryBase ** ((2 * i) / headDim));
    for (let t = 0; t < length; t++) {
      const angle = Math.fround(t * frequency);
      cos[t * half + i] = Math.cos(angle);
      sin[t * half + i] = Math.sin(angle);
    }
  }
  return {
    cos: engine.keep(engine.tensor(cos, [length, half])),
    sin: engine.keep(engine.tensor(sin, [length, half])),
  };
}

export class LlamaBlock {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  readonly #shape: LlamaShape;
  readonly #weights: BlockParameters;

  constructor(shape: LlamaShape, index: number, maker: ParameterMaker, init: LlamaInit) {
    const { hiddenSize: C, ffnHiddenSize: F, headDim: D, numAttentionHeads: H, numQueryGroups: G } = shape;
    const prefix = `${PREFIX}model.layers.${index}.`;
    const matrix = (name: string, rows: number, columns: number, std = init.std) =>
      maker.make(`${prefix}${name}.weight`, [rows, columns], normal(std));
    const writing = init.scaled ? init.std / Math.sqrt(2 * shape.numLayers) : init.std;
    this.name = `llm block ${index}`;
    this.#shape = shape;
    this.#weights = {
      inputNorm: maker.make(`${prefix}input_layernorm.weight`, [C], ones),
      query: matrix('self_attn.q_proj', H * D, C),
      key: matrix('self_attn.k_proj', G * D, C),
      value: matrix('self_attn.v_proj', G * D, C),
      output: matrix('self_attn.o_proj', C, H * D, writing),
      postAttentionNorm: maker.make(`${prefix}post_attention_layernorm.weight`, [C], ones),
      gate: matrix('mlp.gate_proj', F, C),
      up: matrix('mlp.up_proj', F, C),
      down: matrix('mlp.down_proj', C, F, writing),
    };
    this.parameters = Object.values(this.#weights);
  }

  /** The block as a segment of the walk: [B, T, C] → [B, T, C], or → [M, C] with `rows`. */
  segment(engine: Engine, context: BlockContext): Segment {
    return {
      name: this.name,
      parameters: this.parameters,
      forward: ([hidden]) => [this.#forward(engine, hidden!, context)],
    };
  }

  #forward(engine: Engine, hidden: Tensor, context: BlockContext): Tensor {
    const { rows } = context;
    const w = this.#weights;
    const eps = this.#shape.normEpsilon;
    let mixed = this.#attention(engine, engine.rmsNorm(hidden, w.inputNorm.value, eps), context);
    let residual = hidden;
    if (rows) {
      mixed = engine.gatherRows(engine.reshape(mixed, [-1, mixed.shape[2]!]), rows);
      residual = engine.gatherRows(engine.reshape(hidden, [-1, hidden.shape[2]!]), rows);
    }
    const middle = engine.add(residual, engine.linear(mixed, w.output.value));
    const x = engine.rmsNorm(middle, w.postAttentionNorm.value, eps);
    const gated = engine.siluMul(engine.linear(x, w.gate.value), engine.linear(x, w.up.value)); // [B, T, F]
    return engine.add(middle, engine.linear(gated, w.down.value));
  }

  /** What the heads gathered, before the output projection: [B, T, H·D]. */
  #attention(engine: Engine, x: Tensor, { tables: { cos, sin }, cache, attention }: BlockContext): Tensor {
    const { numAttentionHeads: H, numQueryGroups: G, headDim: D } = this.#shape;
    const [B, T] = x.shape as [number, number, number];
    const w = this.#weights;
    const split = (weight: Parameter, heads: number) =>
      engine.transpose(engine.reshape(engine.linear(x, weight.value), [B, T, heads, D]), 1, 2);
    const q = engine.rope(split(w.query, H), cos, sin); // [B, H, T, D]
    let k = engine.rope(split(w.key, G), cos, sin); // [B, G, T, D]
    let v = split(w.value, G);
    if (cache) [k, v] = append(engine, cache, k, v);
    const mixed = engine.attention(q, k, v, { causal: true, ...attention }); // [B, H, T, D]
    return engine.reshape(engine.transpose(mixed, 1, 2), [B, T, H * D]);
  }
}

function append(engine: Engine, cache: BlockCache, k: Tensor, v: Tensor): [Tensor, Tensor] {
  const keys = engine.keep(cache.keys ? engine.concat([cache.keys, k], 2) : engine.concat([k], 2));
  const values = engine.keep(cache.values ? engine.concat([cache.values, v], 2) : engine.concat([v], 2));
  cache.keys?.dispose();
  cache.values?.dispose();
  Object.assign(cache, { keys, values });
  return [keys, values];
}
