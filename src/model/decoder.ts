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
import { blockOf, hasBias, type LlmShape, positionLimit } from './shapes.ts';
import { hiddenStream, type Stream, type TensorSplit, WHOLE } from './split.ts';
import { isFirst, isLast, type Stage, stageOf } from './stage.ts';

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
  rows?: Int32Array | null;
  /** How attention is computed; all positions of a row see each other without it. */
  attention?: Omit<AttentionOptions, 'causal' | 'scale'>;
  /** How the block's input and output are held. */
  stream: Stream;
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

/** Each rank of a tensor-parallel group has a part of the gradient. */
const SUMMAND = { summand: true } as const;

const DEFAULT_INIT: DecoderInit = { std: 0.02, scaled: false };

export class Decoder {
  readonly shape: LlmShape;
  readonly parameters: readonly Parameter[];
  readonly embedding: Parameter;
  /** [maxPositions, C] where positions are learned, else null. */
  readonly positions: Parameter | null;
  /** All of them; those of other pipeline stages have no weights. */
  readonly blocks: readonly DecoderBlock[];
  readonly finalNorm: Norm;
  /** The embedding itself when the two are tied. */
  readonly head: Parameter;
  readonly split: TensorSplit;
  readonly stage: Stage;
  readonly #engine: Engine;
  #tables: (RotaryTables & { length: number }) | null = null;

  /**
   * @param split the ranks that share every layer: heads, MLP width and vocabulary are divided among them
   * @param stage the run of layers that is here
   */
  constructor(
    engine: Engine,
    shape: LlmShape,
    source: WeightSource | null = null,
    init: DecoderInit = DEFAULT_INIT,
    split: TensorSplit = WHOLE,
    stage: Stage = stageOf([shape.numLayers], 0),
  ) {
    const maker = new ParameterMaker(engine, source, split);
    this.#engine = engine;
    this.shape = shape;
    this.split = split;
    this.stage = stage;
    const { hiddenSize: C, maxPositions, vocabSize, paddedVocabSize = vocabSize } = shape;
    const { normalization, positions } = blockOf(shape);
    const vocabulary = (name: string) =>
      maker.makeRows(`${PREFIX}${name}.weight`, [vocabSize, C], paddedVocabSize, normal(init.std));
    // An embedding that serves as head too is on both ends of a pipeline.
    const twice = shape.tiedEmbeddings && stage.count > 1;
    maker.here = isFirst(stage) || (twice && isLast(stage));
    this.embedding = vocabulary('model.embed_tokens');
    if (twice) this.embedding.twin = isFirst(stage) ? 'first' : 'last';
    maker.here = isFirst(stage);
    this.positions =
      positions === 'rope'
        ? null
        : maker.make(`${PREFIX}model.embed_positions.weight`, [maxPositions, C], normal(init.std), SUMMAND);
    this.blocks = Array.from({ length: shape.numLayers }, (_, i) => {
      maker.here = i >= stage.from && i < stage.to;
      return new DecoderBlock(shape, i, maker, init, split);
    });
    maker.here = isLast(stage);
    this.finalNorm = new Norm(maker, `${PREFIX}model.norm`, C, normalization, shape.normEpsilon);
    this.head = shape.tiedEmbeddings ? this.embedding : vocabulary('lm_head');
    this.parameters = maker.finish();
  }

  /** How hidden states of B records of T positions are held between the blocks. */
  stream(batch: number, length: number): Stream {
    return hiddenStream(this.#engine, this.split, batch, length);
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

  /** Hidden states [M, C] → logits [M, V] of this rank's tokens. The head's padding is left out. */
  logits(hidden: Tensor): Tensor {
    const engine = this.#engine;
    const { rows, value } = this.head;
    const head = rows === undefined ? value : engine.slice(value, 0, 0, rows);
    return engine.linear(this.split.enter(this.finalNorm.apply(engine, hidden)), head);
  }
}

export class DecoderBlock {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  readonly #shape: LlmShape;
  readonly #split: TensorSplit;
  readonly #weights: BlockWeights;

  constructor(shape: LlmShape, index: number, maker: ParameterMaker, init: DecoderInit, split: TensorSplit) {
    const { hiddenSize: C, ffnHiddenSize: F, headDim: D, numAttentionHeads: H, numQueryGroups: G } = shape;
    const block = blockOf(shape);
    const { normalization, activation } = block;
    const isBiased = (name: string) => hasBias(block, name.startsWith('mlp.') ? 'mlp' : 'attention');
    const outStd = init.scaled ? init.std / Math.sqrt(2 * shape.numLayers) : init.std;
    const prefix = `${PREFIX}model.layers.${index}.`;
    /** Shared out by its rows: each rank computes some of the outputs. */
    const reading = (name: string, rows: number): Linear => ({
      weight: maker.make(`${prefix}${name}.weight`, [rows, C], normal(init.std), { split: 0 }),
      bias: isBiased(name) ? maker.make(`${prefix}${name}.bias`, [rows], zeros, { split: 0 }) : null,
    });
    /** Shared out by its columns: each rank computes a summand of all outputs, the first one's with the bias. */
    const writing = (name: string, columns: number): Linear => ({
      weight: maker.make(`${prefix}${name}.weight`, [C, columns], normal(outStd), { split: 1 }),
      bias: isBiased(name) ? maker.make(`${prefix}${name}.bias`, [C], zeros, SUMMAND) : null,
    });
    const norm = (name: string, ownRows: boolean) =>
      new Norm(maker, prefix + name, C, normalization, shape.normEpsilon, ownRows ? SUMMAND : {});
    // With own rows, gradients of norms are summands; but the last block's MLP sees the labelled positions, on every rank all.
    const { sequence } = split;
    const last = index === shape.numLayers - 1;
    const first = maker.made.length;
    this.name = `llm block ${index}`;
    this.#shape = shape;
    this.#split = split;
    this.#weights = {
      inputNorm: norm('input_layernorm', sequence),
      query: reading('self_attn.q_proj', H * D),
      key: reading('self_attn.k_proj', G * D),
      value: reading('self_attn.v_proj', G * D),
      output: writing('self_attn.o_proj', H * D),
      postAttentionNorm: norm('post_attention_layernorm', sequence && !last),
      gate: isGated(activation) ? reading('mlp.gate_proj', F) : null,
      up: reading('mlp.up_proj', F),
      down: writing('mlp.down_proj', F),
    };
    this.parameters = maker.made.slice(first);
  }

  /** The block as a segment of the walk: [B, T, C], as `stream` holds it, → the same, or → [M, C] with `rows`. */
  segment(engine: Engine, context: BlockContext): Segment {
    return {
      name: this.name,
      parameters: this.parameters,
      forward: ([hidden]) => [this.#forward(engine, hidden!, context)],
    };
  }

  #forward(engine: Engine, hidden: Tensor, context: BlockContext): Tensor {
    const { rows, stream } = context;
    const split = this.#split;
    const w = this.#weights;
    const mixed = this.#attention(engine, stream.open(w.inputNorm.apply(engine, hidden)), context);
    const write = (x: Tensor, { weight, bias }: Linear) =>
      engine.linear(x, weight.value, split.rank === 0 ? bias?.value : null);
    let middle: Tensor;
    if (rows) {
      const wanted = engine.tensor(rows, [rows.length]);
      const asked = engine.gatherRows(engine.reshape(mixed, [-1, mixed.shape[2]!]), wanted);
      middle = stream.finish(write(asked, w.output), hidden, rows);
    } else {
      middle = engine.add(hidden, stream.close(write(mixed, w.output)));
    }
    const { open, close } = rows ? { open: split.enter, close: split.leave } : stream;
    const x = open(w.postAttentionNorm.apply(engine, middle));
    const gate = w.gate && linear(engine, x, w.gate);
    const inside = activate(engine, blockOf(this.#shape).activation, linear(engine, x, w.up), gate); // [B, T, F]
    return engine.add(middle, close(write(inside, w.down)));
  }

  /** What this rank's heads gathered, before the output projection: [B, T, H·D]. */
  #attention(engine: Engine, x: Tensor, { tables, cache, attention }: BlockContext): Tensor {
    const { headDim: D } = this.#shape;
    const [H, G] = [this.#shape.numAttentionHeads / this.#split.size, this.#shape.numQueryGroups / this.#split.size];
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
