/**
 * AdamW whose moments and float32 weights are shared out over the data-parallel ranks (ZeRO stage 1; NeMo's
 * distributed_fused_adam). A bucket of gradients is one flat buffer of `size` equal parts: reduce-scatter leaves each rank
 * the sum of its part, it updates that part of the weights, and all-gather brings the new weights to all.
 */
import type { WeightState } from '../checkpoint/folder.ts';
import type { AdamWState, DType, Engine, Parameter, Tensor } from '../engine/engine.ts';
import { BucketedReduction, type BucketOptions } from '../parallel/data.ts';
import type { Group, Work } from '../parallel/group.ts';
import { beginAverage, followWeight } from './ema.ts';
import {
  clipScale,
  type Moments,
  type OptimizerOptions,
  type OptimizerPart,
  type StageOptimizer,
} from './optimizer.ts';

/** This rank's part of a bucket: all float32 (a message may be less), [n] with size·n ≥ the bucket's elements. */
interface Shard {
  n: number;
  /** Null where the weights are the parameters' own values and `remainder`. */
  weights: Tensor | null;
  /** int16 [n]: what bfloat16 values leave of the main weights (store_param_remainders). */
  remainder: Tensor | null;
  expAvg: Tensor;
  expAvgSq: Tensor;
  average: Tensor | null;
  /** Between the start of its message and the update. */
  gradient: Tensor | null;
  /** The message itself, until it has been received. */
  flat: Tensor | null;
  pieces: Piece[];
}

/** The stretch of a parameter that lies in this rank's part. */
interface Piece {
  parameter: Parameter;
  /** Within the shard, in elements. */
  start: number;
  end: number;
  /** As the engine's AdamW takes it: views of the shard, and with remainders of the parameter's value. */
  slice: Parameter;
  state: AdamWState;
}

export class ShardedOptimizer extends BucketedReduction implements StageOptimizer, OptimizerPart {
  readonly #options: OptimizerOptions;
  readonly #counts: (parameter: Parameter) => boolean;
  readonly #shards: Shard[];
  readonly #leftOut = new Set<Parameter>();

  /**
   * Takes over the parameters' float32 weights: `main` is null afterwards.
   * @param counts whose gradients `squares` holds
   * @param remainders of bfloat16 weights, keep what they leave of the main weights instead of these
   */
  constructor(
    engine: Engine,
    group: Group,
    parameters: readonly Parameter[],
    options: OptimizerOptions,
    buckets: BucketOptions,
    counts: (parameter: Parameter) => boolean = () => true,
    remainders = false,
  ) {
    super(engine, group, parameters, buckets);
    this.#options = options;
    this.#counts = counts;
    this.#shards = this.contents.map((content) => this.#makeShard(content, remainders));
    for (const parameter of parameters) {
      parameter.main?.dispose();
      parameter.main = null;
    }
  }

  #makeShard(content: readonly Parameter[], remainders: boolean): Shard {
    const { engine, group } = this;
    const n = Math.ceil(content.reduce((sum, { value }) => sum + elements(value), 0) / group.size);
    const weights = engine.scope(() =>
      engine.scale(
        this.#ownPart(
          content.map(({ main, value }) => main ?? value),
          n,
        ),
        1,
      ),
    );
    const split = remainders && content[0]!.main !== null;
    const shard: Shard = {
      n,
      weights: split ? null : engine.keep(weights),
      remainder: split ? engine.keep(engine.remainder(weights)) : null,
      expAvg: engine.keep(engine.zeros([n])),
      expAvgSq: engine.keep(engine.zeros([n])),
      average: this.#options.ema ? beginAverage(engine, weights) : null,
      gradient: null,
      flat: null,
      pieces: [],
    };
    if (split) {
      weights.dispose();
      // Ties as the remainder takes them, whatever rounded the values before.
      for (const { value, main } of content) engine.round(value, main!);
    }
    let at = -group.rank * n;
    for (const parameter of content) {
      const first = at;
      const [start, end] = [Math.max(at, 0), Math.min(at + elements(parameter.value), n)];
      at += elements(parameter.value);
      if (start >= end) continue;
      const view = (whole: Tensor) => engine.keep(engine.slice(whole, 0, start, end));
      const { name, decay } = parameter;
      const own = () =>
        engine.keep(
          engine.scope(() => engine.slice(engine.reshape(parameter.value, [-1]), 0, start - first, end - first)),
        );
      shard.pieces.push({
        parameter,
        start,
        end,
        slice: {
          name,
          value: shard.weights ? view(shard.weights) : own(),
          main: null,
          remainder: shard.remainder && view(shard.remainder),
          grad: null,
          trainable: true,
          decay,
        },
        state: { expAvg: view(shard.expAvg), expAvgSq: view(shard.expAvgSq) },
      });
    }
    return shard;
  }

  /** Tensors one after the other, filled up with zeros: [size·n]. */
  #flat(tensors: readonly Tensor[], n: number, dtype: DType = 'float32'): Tensor {
    const { engine, group } = this;
    const flat = tensors.map((tensor) => {
      const line = engine.reshape(tensor, [-1]);
      return line.dtype === dtype ? line : engine.cast(line, dtype);
    });
    const missing = group.size * n - tensors.reduce((sum, tensor) => sum + elements(tensor), 0);
    return engine.concat(missing > 0 ? [...flat, engine.zeros([missing], dtype)] : flat, 0);
  }

  #ownPart(tensors: readonly Tensor[], n: number): Tensor {
    return this.engine.slice(this.#flat(tensors, n), 0, this.group.rank * n, (this.group.rank + 1) * n);
  }

  protected send(index: number, what: string): Work {
    const { engine } = this;
    const shard = this.#shards[index]!;
    const content = this.contents[index]!;
    shard.flat = engine.keep(
      engine.scope(() =>
        this.#flat(
          content.map(({ grad }) => grad!),
          shard.n,
          this.dtype,
        ),
      ),
    );
    const sum = engine.keep(engine.zeros([shard.n], this.dtype));
    shard.gradient = sum;
    for (const parameter of content) {
      parameter.grad?.dispose();
      parameter.grad = null;
    }
    const work = this.group.reduceScatter(shard.flat, sum, what);
    return {
      get done() {
        return work.done;
      },
      wait() {
        work.wait();
        shard.flat?.dispose();
        shard.flat = null;
        if (sum.dtype === 'float32') return;
        shard.gradient = engine.keep(engine.cast(sum, 'float32'));
        sum.dispose();
      },
    };
  }

  protected leaveOut(parameter: Parameter): void {
    this.#leftOut.add(parameter);
  }

  step(step: number, lr: number, scale = 1): number {
    const norm = Math.sqrt(this.group.sum([this.squares()], "the gradient's norm")[0]!) / scale;
    this.update(step, lr, clipScale(this.#options.clip, norm, scale));
    return norm;
  }

  /** Pieces of this step's gradients; `slice.grad` is a view of the shard's until the enclosing scope ends. */
  #updated(): Piece[] {
    return this.#shards.flatMap((shard) => {
      const updated = shard.pieces.filter(({ parameter }) => !this.#leftOut.has(parameter));
      for (const { slice, start, end } of updated) slice.grad = this.engine.slice(shard.gradient!, 0, start, end);
      return updated;
    });
  }

  squares(): number {
    return this.engine.scope(() => {
      const pieces = this.#updated();
      const grads = pieces.filter(({ parameter }) => this.#counts(parameter)).map(({ slice }) => slice.grad!);
      for (const { slice } of pieces) slice.grad = null;
      return grads.length > 0 ? this.engine.globalNorm(grads) ** 2 : 0;
    });
  }

  update(step: number, lr: number, gradScale: number | null): void {
    const { clip: _, ema, ...adam } = this.#options;
    this.engine.scope(() => {
      if (gradScale === null) return;
      const pieces = this.#updated();
      this.engine.adamW(
        pieces.map(({ slice }) => slice),
        pieces.map(({ state }) => state),
        { ...adam, step, lr, gradScale },
      );
      for (const { slice } of pieces) slice.grad = null;
      if (!ema) return;
      for (const [i, shard] of this.#shards.entries()) {
        const { dtype } = this.contents[i]![0]!.value;
        this.engine.scope(() => followWeight(this.engine, shard.average!, this.#mainWeights(shard, dtype), ema, step));
      }
    });
    for (const shard of this.#shards) {
      shard.gradient?.dispose();
      shard.gradient = null;
    }
    this.#leftOut.clear();
    this.#gatherWeights();
  }

  #gatherWeights(): void {
    const { engine } = this;
    this.#gatherValues(
      (shard, dtype) => {
        const { weights } = shard;
        if (weights === null) return this.#ownValues(shard, dtype);
        if (dtype === 'float32') return weights;
        const rounded = engine.zeros([shard.n], dtype);
        engine.round(rounded, weights);
        return rounded;
      },
      ({ value }, part) => engine.assign(value, part),
    );
  }

  /** Brings values together on all ranks, in the precision that the model computes with, in which `own` gives this rank's. */
  #gatherValues(own: (shard: Shard, dtype: DType) => Tensor, take: (parameter: Parameter, part: Tensor) => void): void {
    const { engine, group } = this;
    engine.scope(() => {
      const started = this.#shards.map((shard, i) => {
        const content = this.contents[i]!;
        const { dtype } = content[0]!.value;
        const all = engine.zeros([group.size * shard.n], dtype);
        return { content, all, work: group.allGather(own(shard, dtype), all, 'the new weights') };
      });
      for (const { content, all, work } of started) {
        work.wait();
        this.#deal(all, content, take);
      }
    });
  }

  async withAverages<T>(body: () => Promise<T>): Promise<T> {
    const { engine } = this;
    const own = this.parameters.map(({ value }) => value);
    this.#gatherValues(
      ({ average }, dtype) => engine.cast(average!, dtype),
      (parameter, part) => {
        parameter.value = engine.keep(engine.scale(part, 1));
      },
    );
    const result = await body();
    this.parameters.forEach((parameter, i) => {
      parameter.value.dispose();
      parameter.value = own[i]!;
    });
    return result;
  }

  /** With remainders: the values of this rank's part, [n]. */
  #ownValues({ n, pieces }: Shard, dtype: DType): Tensor {
    const missing = n - (pieces.at(-1)?.end ?? 0);
    const values = pieces.map(({ slice }) => slice.value);
    return this.engine.concat(missing > 0 ? [...values, this.engine.zeros([missing], dtype)] : values, 0);
  }

  /** The float32 weights of this rank's part, [n]. */
  #mainWeights(shard: Shard, dtype: DType): Tensor {
    return shard.weights ?? this.engine.join(this.#ownValues(shard, dtype), shard.remainder!);
  }

  /** Cuts a flat buffer [size·n] into the parameters' shapes. */
  #deal(flat: Tensor, content: readonly Parameter[], take: (parameter: Parameter, part: Tensor) => void): void {
    let at = 0;
    for (const parameter of content) {
      const { shape } = parameter.value;
      const count = elements(parameter.value);
      take(parameter, this.engine.reshape(this.engine.slice(flat, 0, at, at + count), shape));
      at += count;
    }
  }

  /** All ranks bring their parts together; the first keeps them while `body` runs, the others let go of them at once. */
  withWhole(body: (moments: Moments) => void): void {
    const { engine, group } = this;
    const leads = group.rank === 0;
    const moments = new Map<string, WeightState>();
    const copies: Tensor[] = [];
    const gather = (own: Tensor, content: readonly Parameter[], take: (parameter: Parameter, whole: Tensor) => void) =>
      engine.scope(() => {
        const all = engine.zeros([group.size * elements(own)]);
        group.allGather(own, all, 'the parts of the optimizer').wait();
        if (!leads) return;
        this.#deal(all, content, (parameter, part) => {
          const copy = engine.keep(engine.scale(part, 1));
          copies.push(copy);
          take(parameter, copy);
        });
      });
    this.#shards.forEach((shard, i) => {
      const content = this.contents[i]!;
      gather(shard.expAvg, content, ({ name }, expAvg) => moments.set(name, { expAvg, expAvgSq: expAvg }));
      gather(shard.expAvgSq, content, ({ name }, expAvgSq) => {
        moments.get(name)!.expAvgSq = expAvgSq;
      });
      if (shard.average) {
        gather(shard.average, content, ({ name }, average) => {
          moments.get(name)!.average = average;
        });
      }
      if (content[0]!.value.dtype === 'float32') return;
      engine.scope(() =>
        gather(this.#mainWeights(shard, content[0]!.value.dtype), content, (parameter, main) => {
          parameter.main = main;
        }),
      );
    });
    try {
      body(new Map(leads ? this.parameters.map(({ name }) => [name, moments.get(name)!]) : []));
    } finally {
      for (const parameter of this.parameters) parameter.main = null;
      for (const copy of copies) copy.dispose();
    }
  }

  /** Every rank reads whole moments, one bucket at a time, and keeps its part. */
  load(fill: (moments: Moments) => void): void {
    const { engine } = this;
    this.#shards.forEach(({ n, expAvg, expAvgSq, average }, i) => {
      engine.scope(() => {
        const content = this.contents[i]!;
        const whole = content.map(({ value }) => ({
          expAvg: engine.zeros(value.shape),
          expAvgSq: engine.zeros(value.shape),
          ...(average ? { average: engine.zeros(value.shape) } : {}),
        }));
        fill(new Map(content.map(({ name }, at) => [name, whole[at]!])));
        const take = (own: Tensor, pick: (state: WeightState) => Tensor) =>
          engine.assign(own, this.#ownPart(whole.map(pick), n));
        take(expAvg, (state) => state.expAvg);
        take(expAvgSq, (state) => state.expAvgSq);
        if (average) take(average, (state) => state.average!);
      });
    });
  }
}

const elements = ({ shape }: Tensor): number => shape.reduce((product, size) => product * size, 1);
