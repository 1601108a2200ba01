/**
 * The language model, a pre-norm decoder. LLaMA (Touvron et al. 2023; Hugging Face LlamaForCausalLM) has RMSNorm, rotary
 * positions, grouped-query attention, SwiGLU and no biases; NVGPT (Nemotron) and GPT-2 are the same blocks with other
 * norms, MLPs, positions and biases (`GptBlock`). Written as the segments that the walk goes through: embedding is joined with the
 * image features in neva.ts, each block is a segment, and final norm, head and loss are the last one.
 */
import type { AttentionOptions, Engine, Parameter, Segment, Tensor } from '../engine/engine.ts';
import { activate, isGated } from './mlp.ts';
import { Norm } from './norm.ts';
import { normal, ParameterMaker, type WeightSource, zeros } from './parameters.ts';
import { packedPositions, type RotaryTables, rotaryTables } from './rotary.ts';
import { blockOf, type LlmShape, positionLimit } from './shapes.ts';

/** Keys and values [B, G, U, D] of the positions already seen, one per block. */
export interface BlockCache {
  keys: Tensor | null;
  values: Tensor | null;
}

export interface BlockContext {
  /** For the T positions of the block's input; null where positions are learned. */
  tables: RotaryTables | null;
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

interface Linear {
  weight: Parameter;
  bias: Parameter | null;
}

interface BlockWeights {
  inputNorm: Norm;
  query: Linear;
  key: Linear;
  value: Linear;
  output: Linear;
  postAttentionNorm: Norm;
  /** Null where the MLP has none. */
  gate: Linear | null;
  up: Linear;
  down: Linear;
}

const PREFIX = 'language_model.';

/** Random weights where there is no checkpoint. */
export interface DecoderInit {
  /** NeMo's init_method_std, LLaMA's initializer_range. */
  std: number;
  /** NeMo's use_scaled_init_method: std/√(2·layers) for the matrices that write to the residual stream. */
  scaled: boolean;
}

const DEFAULT_INIT: DecoderInit = { std: 0.02, scaled: false };

export class Decoder {
  readonly shape: LlmShape;
  readonly parameters: readonly Parameter[];
  readonly embedding: Parameter;
  /** [maxPositions, C] where positions are learned, else null. */
  readonly positions: Parameter | null;
  readonly blocks: readonly DecoderBlock[];
  readonly finalNorm: Norm;
  /** The embedding itself when the two are tied. */
  readonly head: Parameter;
  readonly #engine: Engine;
  #tables: (RotaryTables & { length: number }) | null = null;

  constructor(engine: Engine, shape: LlmShape, source: WeightSource | null = null, init: DecoderInit = DEFAULT_INIT) {
    const maker = new ParameterMaker(engine, source);
    this.#engine = engine;
    this.shape = shape;
    const { hiddenSize: C, maxPositions, vocabSize, paddedVocabSize = vocabSize } = shape;
    const { normalization, positions } = blockOf(shape);
    const vocabulary = (name: string) =>
      maker.makeRows(`${PREFIX}${name}.weight`, [vocabSize, C], paddedVocabSize, normal(init.std));
    this.embedding = vocabulary('model.embed_tokens');
    this.positions =
      positions === 'rope'
        ? null
        : maker.make(`${PREFIX}model.embed_positions.weight`, [maxPositions, C], normal(init.std));
    this.blocks = Array.from({ length: shape.numLayers }, (_, i) => new DecoderBlock(shape, i, maker, init));
    this.finalNorm = new Norm(maker, `${PREFIX}model.norm`, C, normalization, shape.normEpsilon);
    this.head = shape.tiedEmbeddings ? this.embedding : vocabulary('lm_head');
    this.parameters = maker.finish();
  }

  /** Rotary tables for positions start … end−1, kept and grown as longer sequences come; null where positions are learned. */
  rotary(start: number, end: number): RotaryTables | null {
    if (this.positions) return null;
    if (!this.#tables || this.#tables.length < end) {
      const length = Math.max(end, Math.min(2 * end, positionLimit(this.shape)));
      this.#tables?.cos.dispose();
      this.#tables?.sin.dispose();
      this.#tables = { ...rotaryTables(this.#engine, this.shape, length), length };
    }
    const { cos, sin } = this.#tables;
    return { cos: this.#engine.slice(cos, 0, start, end), sin: this.#engine.slice(sin, 0, start, end) };
  }

  /** Tables for records that lie one after the other, each from position 0 on: [Σ lengths, R/2]. */
  packedRotary(lengths: Int32Array): RotaryTables | null {
    const tables = this.rotary(0, Math.max(...lengths));
    if (!tables) return null;
    const positions = packedPositions(lengths);
    const rows = this.#engine.tensor(positions, [positions.length]);
    return { cos: this.#engine.gatherRows(tables.cos, rows), sin: this.#engine.gatherRows(tables.sin, rows) };
  }

  /** Hidden states [M, C] → logits [M, V]. The head's padding is left out. */
  logits(hidden: Tensor): Tensor {
    const engine = this.#engine;
    const { vocabSize, paddedVocabSize = vocabSize } = this.shape;
    const head = paddedVocabSize === vocabSize ? this.head.value : engine.slice(this.head.value, 0, 0, vocabSize);
    return engine.linear(this.finalNorm.apply(engine, hidden), head);
  }
}

export class DecoderBlock {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  readonly #shape: LlmShape;
  readonly #weights: BlockWeights;

  constructor(shape: LlmShape, index: number, maker: ParameterMaker, init: DecoderInit) {
    const { hiddenSize: C, ffnHiddenSize: F, headDim: D, numAttentionHeads: H, numQueryGroups: G } = shape;
    const { normalization, activation, bias } = blockOf(shape);
    const prefix = `${PREFIX}model.layers.${index}.`;
    const linear = (name: string, rows: number, columns: number, std = init.std): Linear => ({
      weight: maker.make(`${prefix}${name}.weight`, [rows, columns], normal(std)),
      bias: bias ? maker.make(`${prefix}${name}.bias`, [rows], zeros) : null,
    });
    const norm = (name: string) => new Norm(maker, prefix + name, C, normalization, shape.normEpsilon);
    const writing = init.scaled ? init.std / Math.sqrt(2 * shape.numLayers) : init.std;
    const first = maker.made.length;
    this.name = `llm block ${index}`;
    this.#shape = shape;
    this.#weights = {
      inputNorm: norm('input_layernorm'),
      query: linear('self_attn.q_proj', H * D, C),
      key: linear('self_attn.k_proj', G * D, C),
      value: linear('self_attn.v_proj', G * D, C),
      output: linear('self_attn.o_proj', C, H * D, writing),
      postAttentionNorm: norm('post_attention_layernorm'),
      gate: isGated(activation) ? linear('mlp.gate_proj', F, C) : null,
      up: linear('mlp.up_proj', F, C),
      down: linear('mlp.down_proj', C, F, writing),
    };
    this.parameters = maker.made.slice(first);
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
    let mixed = this.#attention(engine, w.inputNorm.apply(engine, hidden), context);
    let residual = hidden;
    if (rows) {
      mixed = engine.gatherRows(engine.reshape(mixed, [-1, mixed.shape[2]!]), rows);
      residual = engine.gatherRows(engine.reshape(hidden, [-1, hidden.shape[2]!]), rows);
    }
    const middle = engine.add(residual, linear(engine, mixed, w.output));
    const x = w.postAttentionNorm.apply(engine, middle);
    const gate = w.gate && linear(engine, x, w.gate);
    const inside = activate(engine, blockOf(this.#shape).activation, linear(engine, x, w.up), gate); // [B, T, F]
    return engine.add(middle, linear(engine, inside, w.down));
  }

  /** What the heads gathered, before the output projection: [B, T, H·D]. */
  #attention(engine: Engine, x: Tensor, { tables, cache, attention }: BlockContext): Tensor {
    const { numAttentionHeads: H, numQueryGroups: G, headDim: D } = this.#shape;
    const [B, T] = x.shape as [number, number, number];
    const w = this.#weights;
    const split = (weights: Linear, heads: number) =>
      engine.transpose(engine.reshape(linear(engine, x, weights), [B, T, heads, D]), 1, 2);
    const turned = (y: Tensor) => (tables ? engine.rope(y, tables.cos, tables.sin) : y);
    const q = turned(split(w.query, H)); // [B, H, T, D]
    let k = turned(split(w.key, G)); // [B, G, T, D]
    let v = split(w.value, G);
    if (cache) [k, v] = append(engine, cache, k, v);
    const mixed = engine.attention(q, k, v, { causal: true, ...attention }); // [B, H, T, D]
    return engine.reshape(engine.transpose(mixed, 1, 2), [B, T, H * D]);
  }
}

const linear = (engine: Engine, x: Tensor, { weight, bias }: Linear): Tensor =>
  engine.linear(x, weight.value, bias?.value);

function append(engine: Engine, cache: BlockCache, k: Tensor, v: Tensor): [Tensor, Tensor] {
  const keys = engine.keep(cache.keys ? engine.concat([cache.keys, k], 2) : engine.concat([k], 2));
  const values = engine.keep(cache.values ? engine.concat([cache.values, v], 2) : engine.concat([v], 2));
  cache.keys?.dispose();
  cache.values?.dispose();
  Object.assign(cache, { keys, values });
  return [keys, values];
}
