/**
 * The whole model as one list of segments: vision tower · projector · embedding and splice · blocks · norm, head, loss.
 * Every segment takes what the one before gave; what is frozen, recomputed or on another device is the walk's business.
 */
import type { AttentionOptions, DType, Engine, Parameter, Segment, Tensor } from '../engine/engine.ts';
import { type BlockCache, Decoder, type DecoderInit } from './decoder.ts';
import type { WeightSource } from './parameters.ts';
import { Projector } from './projector.ts';
import { packedPositions } from './rotary.ts';
import { featuresPerImage, type NevaShape } from './shapes.ts';
import { VisionTower } from './vision.ts';

/** One micro batch as the model takes it (shape letters: engine.ts). */
export interface ModelInput {
  batch: number;
  length: number;
  /** [B, T]; 0 where an image feature goes. */
  ids: Int32Array;
  /** [N, 3, S, S] */
  pixels: Float32Array;
  /** In place of pixels: files and byte offsets of the tower's features [P, C], in the activations' dtype. */
  features?: readonly { file: string; offset: number }[] | null;
  imageCount: number;
  imageSize: number;
  /** [N*P] flat positions b*T+t that the features take. */
  imageRows: Int32Array;
  /** Lengths of the records that lie one after the other in the one row (B is 1), each seeing itself alone; null: a row each. */
  packed?: Int32Array | null;
}

export interface LabelledInput extends ModelInput {
  /** [M] flat positions whose next token is in the loss. */
  labelRows: Int32Array;
  /** [M] */
  labelTargets: Int32Array;
}

/** What the first segment takes (nothing for text alone), the segments from there to the hidden states asked for, the loss. */
export interface Chain {
  input: Tensor[];
  /** The last one gives the hidden states at the labelled positions, [M, C]. */
  segments: Segment[];
  loss: LossHead;
  /** Which of the segments are the language model's blocks. */
  blocks: { first: number; count: number };
}

/** Norm, head and loss, in pieces: logits of all labelled positions at once may be the largest tensor of a step. */
export interface LossHead {
  /** M */
  rows: number;
  /** Labelled positions whose logits are made at a time. */
  chunk: number;
  /** Hidden states of labelled positions from … to−1 → the sum of their losses, a float32 scalar. */
  segment(from: number, to: number): Segment;
}

/** Logits [chunk, V] hold at most this many values: 64 MiB in float32. */
const CHUNK_VALUES = 2 ** 24;

export interface Part {
  name: 'vision_encoder' | 'projector' | 'llm';
  parameters: readonly Parameter[];
}

export interface NevaOptions {
  sources?: { [part in Part['name']]?: WeightSource | null };
  /** Of activations; weights in another dtype are cast where they are used. */
  computeDtype?: DType;
  /** Of a language model without a source. */
  init?: DecoderInit | undefined;
  /** Of the language model. */
  attention?: Pick<AttentionOptions, 'flash' | 'recompute'>;
}

export class NevaModel {
  readonly shape: NevaShape;
  readonly vision: VisionTower;
  readonly projector: Projector;
  readonly llm: Decoder;
  readonly #engine: Engine;
  readonly #computeDtype: DType;
  readonly #attention: Pick<AttentionOptions, 'flash' | 'recompute'>;

  /** Parts without a source start from their initializers, drawn from the engine's generator in this order. */
  constructor(
    engine: Engine,
    shape: NevaShape,
    { sources = {}, computeDtype = 'float32', init, attention = {} }: NevaOptions = {},
  ) {
    this.#engine = engine;
    this.#attention = attention;
    this.#computeDtype = computeDtype;
    this.shape = shape;
    this.vision = new VisionTower(engine, shape.vision, sources.vision_encoder);
    this.projector = new Projector(engine, shape.projector, sources.projector);
    this.llm = new Decoder(engine, shape.llm, sources.llm, init);
  }

  get parts(): Part[] {
    return [
      { name: 'vision_encoder', parameters: this.vision.parameters },
      { name: 'projector', parameters: this.projector.parameters },
      { name: 'llm', parameters: this.llm.parameters },
    ];
  }

  get parameters(): Parameter[] {
    return this.parts.flatMap(({ parameters }) => parameters);
  }

  /** Of activations. */
  get computeDtype(): DType {
    return this.#computeDtype;
  }

  /** The tower's features [N, P, C] of pixels [N, 3, S, S], without gradients. */
  features(pixels: Float32Array, count: number): Tensor {
    const engine = this.#engine;
    const { imageSize } = this.shape.vision;
    return engine.scope(() => {
      const input = [engine.tensor(pixels, [count, 3, imageSize, imageSize], this.#computeDtype)];
      return this.vision.segments().reduce((x, segment) => engine.forward(segment, x), input)[0]!;
    });
  }

  /** Features [N, P, C] from the files that hold them. */
  #stored(places: readonly { file: string; offset: number }[]): Tensor {
    const engine = this.#engine;
    const shape = [1, featuresPerImage(this.shape.vision), this.shape.vision.hiddenSize];
    const each = places.map(({ file, offset }) => engine.fromFile(file, offset, shape, this.#computeDtype));
    return engine.concat(each, 0);
  }

  /** From pixels and ids to the sum of the losses at the labelled positions. */
  lossChain(input: LabelledInput): Chain {
    return { ...this.#hiddenChain(input, input.labelRows), loss: this.#lossHead(input.labelTargets) };
  }

  /**
   * Logits [R, V] at flat positions `rows`, without gradients. With caches (one a block), the input is the continuation
   * at position `start` of what they hold, and they grow by it.
   */
  logits(input: ModelInput, rows: Int32Array, caches: BlockCache[] | null = null, start = 0): Tensor {
    const engine = this.#engine;
    return engine.scope(() => {
      const chain = this.#hiddenChain(input, rows, caches, start);
      const [hidden] = chain.segments.reduce((x, segment) => engine.forward(segment, x), chain.input);
      return this.llm.logits(hidden!);
    });
  }

  /** Ends in the last block's output at `rows` only: [R, C]. */
  #hiddenChain(
    input: ModelInput,
    rows: Int32Array,
    caches: BlockCache[] | null = null,
    start = 0,
  ): Omit<Chain, 'loss'> {
    const engine = this.#engine;
    const { packed = null } = input;
    const tables = packed ? this.llm.packedRotary(packed) : this.llm.rotary(start, start + input.length);
    const attention = { ...this.#attention, lengths: packed && [...packed] };
    const wanted = engine.tensor(rows, [rows.length]);
    const last = this.llm.blocks.length - 1;
    const blocks = this.llm.blocks.map((block, i) =>
      block.segment(engine, { tables, cache: caches?.[i] ?? null, rows: i === last ? wanted : null, attention }),
    );
    const size = [input.imageCount, 3, input.imageSize, input.imageSize];
    const pictures = input.imageCount > 0;
    const tower = input.features ? [] : this.vision.segments();
    const before = [...(pictures ? [...tower, this.projector.segment()] : []), this.#embedSegment(input, start)];
    const first = () =>
      input.features ? this.#stored(input.features) : engine.tensor(input.pixels, size, this.#computeDtype);
    return {
      input: pictures ? [first()] : [],
      segments: [...before, ...blocks],
      blocks: { first: before.length, count: blocks.length },
    };
  }

  /**
   * Text embeddings [B, T, C] with the projected features [N, P, C], if any, in their places; learned positions from `start` on are
   * added to both, as in NeMo.
   */
  #embedSegment({ ids, batch, length, imageRows, packed = null }: ModelInput, start: number): Segment {
    const engine = this.#engine;
    const { embedding, positions } = this.llm;
    const C = this.llm.shape.hiddenSize;
    const idTensor = engine.tensor(ids, [batch, length]);
    const rows = imageRows.length > 0 ? engine.cast(engine.tensor(imageRows, [imageRows.length]), 'int64') : null;
    const own = (x: Tensor) => (x.dtype === this.#computeDtype ? x : engine.cast(x, this.#computeDtype));
    const places = packed && engine.tensor(packedPositions(packed), [length]);
    const placed = (x: Tensor) => {
      if (!positions) return x;
      const { value } = positions;
      return engine.add(
        x,
        own(places ? engine.gatherRows(value, places) : engine.slice(value, 0, start, start + length)),
      );
    };
    return {
      name: 'embedding',
      parameters: positions ? [embedding, positions] : [embedding],
      forward: ([features]) => {
        const text = own(engine.embedding(embedding.value, idTensor));
        if (!features || !rows) return [placed(text)];
        const flat = engine.reshape(text, [batch * length, C]);
        const spliced = engine.scatterRows(flat, rows, engine.reshape(features, [-1, C]));
        return [placed(engine.reshape(spliced, [batch, length, C]))];
      },
    };
  }

  #lossHead(targets: Int32Array): LossHead {
    const engine = this.#engine;
    return {
      rows: targets.length,
      chunk: Math.max(1, Math.floor(CHUNK_VALUES / this.llm.shape.vocabSize)),
      segment: (from, to) => {
        const wanted = engine.cast(engine.tensor(targets.slice(from, to), [to - from]), 'int64');
        return {
          name: 'head and loss',
          parameters: [...this.llm.finalNorm.parameters, this.llm.head],
          forward: ([hidden]) => [engine.crossEntropy(this.llm.logits(hidden!), wanted)],
        };
      },
    };
  }
}
