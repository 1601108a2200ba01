/**
 * The whole model as one list of segments: vision tower · projector · embedding and splice · blocks · norm, head, loss.
 * Every segment takes what the one before gave; what is frozen, recomputed or on another device is the walk's business.
 */
import type { AttentionOptions, DType, Engine, Parameter, Segment, Tensor } from '../engine/engine.ts';
import { type BlockCache, Decoder, type DecoderInit } from './decoder.ts';
import type { WeightSource } from './parameters.ts';
import { Projector } from './projector.ts';
import { packedPositions } from './rotary.ts';
import { featuresPerImage, logitRows, type NevaShape } from './shapes.ts';
import { stretch, type TensorSplit, WHOLE } from './split.ts';
import { isFirst, isLast, type Stage, stageOf } from './stage.ts';
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
  /** The last one gives the hidden states at the labelled positions, [M, C], or those that the next stage takes. */
  segments: Segment[];
  /** Null on a pipeline stage that is not the last. */
  loss: LossHead | null;
  /** Which of the segments are blocks, one run after the other: the vision tower's and the language model's. */
  blocks: { first: number; count: number }[];
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
  /** The ranks that share the language model's layers, and deal out the pictures among them. */
  split?: TensorSplit | undefined;
  /** The run of segments that is here; all of them by default. */
  stage?: Stage | undefined;
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
  constructor(engine: Engine, shape: NevaShape, options: NevaOptions = {}) {
    const { sources = {}, computeDtype = 'float32', init, attention = {}, split = WHOLE } = options;
    const { stage = stageOf([shape.llm.numLayers], 0) } = options;
    this.#engine = engine;
    this.#attention = attention;
    this.#computeDtype = computeDtype;
    this.shape = shape;
    this.vision = new VisionTower(engine, shape.vision, sources.vision_encoder, split, isFirst(stage));
    this.projector = new Projector(engine, shape.projector, sources.projector, split, isFirst(stage));
    this.llm = new Decoder(engine, shape.llm, sources.llm, init, split, stage);
  }

  get parts(): Part[] {
    return [
      { name: 'vision_encoder', parameters: this.vision.parameters },
      { name: 'projector', parameters: this.projector.parameters },
      { name: 'llm', parameters: this.llm.parameters },
    ];
  }

  /** Of this stage. */
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
  #stored(input: ModelInput, places: readonly { file: string; offset: number }[]): Tensor {
    const engine = this.#engine;
    const { from, to } = this.#ownPictures(input);
    const shape = [1, featuresPerImage(this.shape.vision), this.shape.vision.hiddenSize];
    const each = places
      .slice(from, to)
      .map(({ file, offset }) => engine.fromFile(file, offset, shape, this.#computeDtype));
    return engine.concat(each, 0);
  }

  /**
   * From pixels and ids to the sum of the losses at the labelled positions; or this stage's run of it.
   * @param received what the stage before has handed on
   */
  lossChain(input: LabelledInput, received: Tensor | null = null): Chain {
    const loss = isLast(this.llm.stage) ? this.#lossHead(input.labelTargets) : null;
    return { ...this.#hiddenChain(input, input.labelRows, { received }), loss };
  }

  /** Shape of the hidden states that one stage hands to the next: [B, T, C], or this rank's rows of them. */
  handedShape({ batch, length }: Pick<ModelInput, 'batch' | 'length'>): number[] {
    const { split, shape } = this.llm;
    const rows = split.sequence ? [Math.ceil((batch * length) / split.size)] : [batch, length];
    return [...rows, shape.hiddenSize];
  }

  /**
   * Logits [R, V] at flat positions `rows`, without gradients. With caches (one a block), the input is the continuation
   * at position `start` of what they hold, and they grow by it.
   */
  logits(input: ModelInput, rows: Int32Array, caches: BlockCache[] | null = null, start = 0): Tensor {
    const engine = this.#engine;
    if (this.llm.split.size > 1) throw new Error('logits are shared out over the ranks and never brought together');
    return engine.scope(() => {
      const chain = this.#hiddenChain(input, rows, { caches, start });
      const [hidden] = chain.segments.reduce((x, segment) => engine.forward(segment, x), chain.input);
      return this.llm.logits(hidden!);
    });
  }

  /** The last block's output is that at `rows` only: [R, C]. */
  #hiddenChain(
    input: ModelInput,
    rows: Int32Array,
    {
      received = null,
      caches = null,
      start = 0,
    }: { received?: Tensor | null; caches?: BlockCache[] | null; start?: number },
  ): Omit<Chain, 'loss'> {
    const engine = this.#engine;
    const { stage } = this.llm;
    const { packed = null } = input;
    const tables = packed ? this.llm.packedRotary(packed) : this.llm.rotary(start, start + input.length);
    const attention = { ...this.#attention, lengths: packed && [...packed] };
    const stream = this.llm.stream(input.batch, input.length);
    const last = this.llm.blocks.length - 1;
    const blocks = this.llm.blocks.slice(stage.from, stage.to).map((block, i) =>
      block.segment(engine, {
        tables,
        cache: caches?.[stage.from + i] ?? null,
        rows: stage.from + i === last ? rows : null,
        attention,
        stream,
      }),
    );
    if (!isFirst(stage)) {
      if (!received) throw new Error('a later stage begins with what the one before has handed on');
      return { input: [received], segments: blocks, blocks: [{ first: 0, count: blocks.length }] };
    }
    const pictures = input.imageCount > 0;
    const tower = input.features || !pictures ? [] : this.vision.segments();
    const before = [...tower, ...(pictures ? [this.projector.segment()] : []), this.#embedSegment(input, start)];
    return {
      input: pictures ? [input.features ? this.#stored(input, input.features) : this.#pixels(input)] : [],
      segments: [...before, ...blocks],
      blocks: [
        // Between the tower's embeddings and the choice of its features.
        ...(tower.length > 0 ? [{ first: 1, count: tower.length - 2 }] : []),
        { first: before.length, count: blocks.length },
      ],
    };
  }

  /**
   * The pictures that this rank takes through the vision tower, from … to−1. One that gets none takes the first, and uses
   * none of its features: the ranks of a tensor-parallel group must walk through the same segments.
   */
  #ownPictures({ imageCount }: ModelInput): { from: number; to: number; used: boolean } {
    const { start, end } = stretch(this.llm.split, imageCount);
    return end > start ? { from: start, to: end, used: true } : { from: 0, to: 1, used: false };
  }

  #pixels(input: ModelInput): Tensor {
    const { pixels, imageSize } = input;
    const { from, to } = this.#ownPictures(input);
    const size = 3 * imageSize * imageSize;
    const own = to - from === input.imageCount ? pixels : pixels.subarray(from * size, to * size);
    return this.#engine.tensor(own, [to - from, 3, imageSize, imageSize], this.#computeDtype);
  }

  /**
   * Text embeddings [B, T, C] with the projected features [N, P, C], if any, in their places; learned positions from `start` on are
   * added to both, as in NeMo. Where ranks share the vocabulary, each looks up its own tokens and places its own pictures'
   * features, and the first adds the positions; the rest is zero, and the sum is all.
   */
  #embedSegment(input: ModelInput, start: number): Segment {
    const { ids, batch, length, imageRows, packed = null } = input;
    const engine = this.#engine;
    const { embedding, positions, split } = this.llm;
    const C = this.llm.shape.hiddenSize;
    const shared = split.size > 1 ? this.#ownTokens(input) : null;
    const idTensor = engine.tensor(shared?.ids ?? ids, [batch, length]);
    const taken = input.imageCount > 0 ? this.#ownPlaces(input) : imageRows;
    const rows = taken.length > 0 ? engine.cast(engine.tensor(taken, [taken.length]), 'int64') : null;
    const own = (x: Tensor) => (x.dtype === this.#computeDtype ? x : engine.cast(x, this.#computeDtype));
    const stream = this.llm.stream(batch, length);
    const places = packed && engine.tensor(packedPositions(packed), [length]);
    const placed = (x: Tensor) => {
      if (!positions || split.rank > 0) return x;
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
        const looked = own(engine.embedding(embedding.value, idTensor));
        const text = shared ? engine.mul(looked, engine.tensor(shared.mask, [batch, length, 1], looked.dtype)) : looked;
        if (!features || (!rows && !shared)) return [stream.close(placed(text))];
        const flat = engine.reshape(text, [batch * length, C]);
        const seen = engine.reshape(features, [-1, C]);
        // Features that are used nowhere stay on the tape, with a gradient of zero.
        const spliced = rows
          ? engine.scatterRows(flat, rows, seen)
          : engine.add(flat, engine.scale(engine.slice(seen, 0, 0, 1), 0));
        return [stream.close(placed(engine.reshape(spliced, [batch, length, C])))];
      },
    };
  }

  /** Ids as rows of this rank's stretch of the vocabulary, and 0 where a token is another rank's, or a picture. */
  #ownTokens({ ids, imageRows }: ModelInput): { ids: Int32Array; mask: Float32Array } {
    const { split, shape } = this.llm;
    const { start, end } = stretch(split, shape.vocabSize);
    const mask = Float32Array.from(ids, (id) => (id >= start && id < end ? 1 : 0));
    for (const row of imageRows) mask[row] = 0;
    return { ids: ids.map((id, i) => (mask[i] === 1 ? id - start : 0)), mask };
  }

  /** The positions that the features of this rank's pictures take. */
  #ownPlaces(input: ModelInput): Int32Array {
    const { from, to, used } = this.#ownPictures(input);
    const each = input.imageRows.length / input.imageCount;
    return used ? input.imageRows.subarray(from * each, to * each) : new Int32Array(0);
  }

  #lossHead(targets: Int32Array): LossHead {
    const engine = this.#engine;
    const { split, shape } = this.llm;
    const first = stretch(split, shape.vocabSize).start;
    return {
      rows: targets.length,
      chunk: logitRows(shape.vocabSize),
      segment: (from, to) => {
        const wanted = engine.cast(engine.tensor(targets.slice(from, to), [to - from]), 'int64');
        return {
          name: 'head and loss',
          parameters: [...this.llm.finalNorm.parameters, this.llm.head],
          forward: ([hidden]) => [split.crossEntropy(engine, this.llm.logits(hidden!), wanted, first)],
        };
      },
    };
  }
}
