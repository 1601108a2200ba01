/**
 * Data parallelism: every rank has the whole model and its share of the global batch; gradients are summed over the ranks
 * in buckets, each on its way while the backward pass goes on below it.
 */
import type { DType, Engine, Parameter, Tensor } from '../engine/engine.ts';
import type { Group, Work } from './group.ts';

/** What the loop tells of its gradients, and waits for. */
export interface GradientReduction {
  /** These parameters' gradients will not change any more in this step. */
  final(parameters: readonly Parameter[]): void;
  /** Backward has ended: starts what is left. */
  finish(): void;
  /** Waits until every `grad` is the sum over the ranks. */
  wait(): void;
}

/** One process has nothing to reduce. */
export const NO_REDUCTION: GradientReduction = { final() {}, finish() {}, wait() {} };

/** Reductions of different parameters, over different groups. */
export const together = (reductions: readonly GradientReduction[]): GradientReduction => ({
  final: (parameters) => reductions.forEach((each) => void each.final(parameters)),
  finish: () => reductions.forEach((each) => void each.finish()),
  wait: () => reductions.forEach((each) => void each.wait()),
});

export interface BucketOptions {
  /** Gradients that travel as one message, at most, in bytes; a small model's are cut into MESSAGES all the same. */
  bytes: number;
  /** Messages start while the backward pass goes on. */
  overlap: boolean;
  /** In which gradients travel and are summed over the ranks; within a rank they are float32. Float32 where not given. */
  dtype?: DType;
}

interface Bucket {
  parameters: Parameter[];
  /** Parameters whose gradients are not final yet. */
  missing: Set<Parameter>;
  work: Work | null;
}

/**
 * Reduces the gradients of `parameters` (in the order of the model) in buckets of about `options.bytes`.
 *
 * Buckets start in a fixed order, the last layers first, whatever order they become ready in: ranks whose micro batches
 * hold no picture, or no label, take part in the same messages as the others, with zeros.
 */
export function gradientReduction(
  engine: Engine,
  group: Group,
  parameters: readonly Parameter[],
  options: BucketOptions,
): GradientReduction {
  return group.size === 1 ? NO_REDUCTION : new SummedGradients(engine, group, parameters, options);
}

/** Buckets of gradients and the order in which they start; what a bucket's message is, a subclass says. */
export abstract class BucketedReduction implements GradientReduction {
  protected readonly engine: Engine;
  protected readonly group: Group;
  readonly parameters: readonly Parameter[];
  /** Parameters of each bucket, in the order of their messages. */
  protected readonly contents: readonly (readonly Parameter[])[];
  /** Of the messages. */
  protected readonly dtype: DType;
  readonly #buckets: readonly Bucket[];
  readonly #bucketOf = new Map<Parameter, Bucket>();
  readonly #absent = new Set<Parameter>();
  readonly #overlap: boolean;
  #next = 0;

  constructor(
    engine: Engine,
    group: Group,
    parameters: readonly Parameter[],
    { bytes, overlap, dtype = 'float32' }: BucketOptions,
  ) {
    this.engine = engine;
    this.group = group;
    this.parameters = parameters;
    this.#overlap = overlap;
    this.dtype = dtype;
    this.#buckets = fill([...parameters].reverse(), bytes);
    this.contents = this.#buckets.map((bucket) => bucket.parameters);
    for (const bucket of this.#buckets) for (const each of bucket.parameters) this.#bucketOf.set(each, bucket);
  }

  /** Sends bucket number `index`; every parameter of it has a gradient now. */
  protected abstract send(index: number, what: string): Work;
  /** No rank has a gradient of this parameter: the optimizer must not update it. */
  protected abstract leaveOut(parameter: Parameter): void;

  final(parameters: readonly Parameter[]): void {
    if (!this.#overlap) return;
    for (const parameter of parameters) this.#bucketOf.get(parameter)?.missing.delete(parameter);
    while (this.#buckets[this.#next]?.missing.size === 0) this.#start();
    // Those that have arrived give their buffers back, so that few are held at a time.
    for (const bucket of this.#buckets.slice(0, this.#next)) {
      if (!bucket.work?.done) continue;
      bucket.work.wait();
      bucket.work = null;
    }
  }

  finish(): void {
    while (this.#next < this.#buckets.length) this.#start();
  }

  wait(): void {
    const own = this.parameters.map((parameter) => (this.#absent.has(parameter) ? 0 : 1));
    const present = this.group.sum(own, 'the others to say which gradients they have');
    for (const bucket of this.#buckets) {
      bucket.work?.wait();
      bucket.work = null;
      bucket.missing = new Set(bucket.parameters);
    }
    this.#next = 0;
    this.#absent.clear();
    // What no rank has a gradient of is not updated at all, as in a single process: neither decay nor moments.
    for (const [i, parameter] of this.parameters.entries()) if (present[i] === 0) this.leaveOut(parameter);
  }

  #start(): void {
    const index = this.#next;
    const { parameters } = this.#buckets[index]!;
    this.#next += 1;
    for (const parameter of parameters) {
      if (parameter.grad !== null) continue;
      this.#absent.add(parameter);
      parameter.grad = this.engine.keep(this.engine.zeros(parameter.value.shape));
    }
    const [first, last] = [parameters[0]!.name, parameters.at(-1)!.name];
    const what = `the gradients of ${first === last ? first : `${last} to ${first}`}`;
    this.#buckets[index]!.work = this.send(index, what);
  }
}

/** Every rank gets every sum. */
class SummedGradients extends BucketedReduction {
  protected send(index: number, what: string): Work {
    const grads = this.contents[index]!.map(({ grad }) => grad!);
    return this.dtype === 'float32' ? this.group.allReduce(grads, what) : this.#sendRounded(grads, what);
  }

  /** The sum of rounded gradients replaces the float32 ones. */
  #sendRounded(grads: readonly Tensor[], what: string): Work {
    const { engine, dtype } = this;
    const rounded = grads.map((grad) => engine.keep(engine.cast(grad, dtype)));
    const work = this.group.allReduce(rounded, what);
    return {
      get done() {
        return work.done;
      },
      wait() {
        work.wait();
        for (const [i, sum] of rounded.entries()) {
          engine.scope(() => engine.assign(grads[i]!, engine.cast(sum, 'float32')));
          sum.dispose();
        }
      },
    };
  }

  protected leaveOut(parameter: Parameter): void {
    parameter.grad?.dispose();
    parameter.grad = null;
  }
}

const FLOAT32_BYTES = 4;
/** One message for the whole of a small model would start when backward has ended, and hide behind nothing. */
const MESSAGES = 16;
/** Below, messages take longer to start than to travel. */
const LEAST_BYTES = 1e6;

const bytesOf = ({ value }: Parameter) => FLOAT32_BYTES * value.shape.reduce((product, n) => product * n, 1);

function fill(parameters: readonly Parameter[], most: number): Bucket[] {
  const all = parameters.reduce((sum, each) => sum + bytesOf(each), 0);
  const bucketBytes = Math.min(most, Math.max(LEAST_BYTES, all / MESSAGES));
  const buckets: Bucket[] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const parameter of parameters) {
    const size = bytesOf(parameter);
    if (bytes + size > bucketBytes) {
      buckets.push({ parameters: [], missing: new Set(), work: null });
      bytes = 0;
    }
    bytes += size;
    buckets.at(-1)!.parameters.push(parameter);
    buckets.at(-1)!.missing.add(parameter);
  }
  return buckets;
}
