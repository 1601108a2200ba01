/** Making, naming and counting weights. */
import type { Engine, Parameter, Shard, Tensor } from '../engine/engine.ts';
import { UserError } from '../errors.ts';
import { type Difference, differenceTable } from './differences.ts';
import { shardOf, type TensorSplit, WHOLE, wholeShape } from './split.ts';

/** One part's weights in a checkpoint. */
export interface WeightSource {
  /** For messages. */
  readonly path: string;
  /** All names of this part that are there. */
  readonly names: readonly string[];
  /** Tokens by its own configuration; null where it has none. */
  readonly vocabSize: number | null;
  shapeOf(name: string): readonly number[] | null;
  /** The weight, or the stretch of it that `shard` says: no more is read of a file that has it as it is. */
  load(name: string, shard?: Shard | null): Tensor;
}

/** First value of a weight that no checkpoint gives. */
export type Initializer = (engine: Engine, shape: readonly number[]) => Tensor;

export const zeros: Initializer = (engine, shape) => engine.zeros(shape);
export const ones: Initializer = (engine, shape) => engine.full(shape, 1);
export const normal =
  (std: number): Initializer =>
  (engine, shape) =>
    engine.normal(shape, 0, std);
/** torch's nn.Linear default for weight and bias alike: uniform within ±1/√fanIn. */
export const linearDefault =
  (fanIn: number): Initializer =>
  (engine, shape) =>
    engine.uniform(shape, -1 / Math.sqrt(fanIn), 1 / Math.sqrt(fanIn));

export interface ParameterOptions {
  /** Dimension that is shared out over the ranks of a tensor-parallel group. */
  split?: 0 | 1;
  /** See `Parameter.summand`. */
  summand?: boolean;
}

/**
 * Makes one part's parameters: all from `source`, or all by their initializers where there is none. What the source lacks or
 * has in another shape is collected, and `finish` refuses it in one table.
 */
export class ParameterMaker {
  readonly engine: Engine;
  /** Those that are here. */
  readonly made: Parameter[] = [];
  /**
   * Whether weights that are made now are this process's. Those of another pipeline stage are compared with the source,
   * drawn where all draw, and come out without a value.
   */
  here = true;
  readonly #known = new Set<string>();
  readonly #source: WeightSource | null;
  readonly #split: TensorSplit;
  readonly #defaults: ParameterOptions;
  readonly #differences: Difference[] = [];

  /** @param defaults of every parameter that says nothing else */
  constructor(
    engine: Engine,
    source: WeightSource | null,
    split: TensorSplit = WHOLE,
    defaults: ParameterOptions = {},
  ) {
    this.engine = engine;
    this.#defaults = defaults;
    this.#source = source;
    this.#split = split;
  }

  /** Matrices decay; vectors (norms, biases) do not, as in NeMo's parameter groups. `shape`: of the whole weight. */
  make(name: string, shape: readonly number[], initialize: Initializer, own: ParameterOptions = {}): Parameter {
    const options = { ...this.#defaults, ...own };
    const shard = options.split === undefined ? null : shardOf(this.#split, shape, options.split);
    const parameter: Parameter = {
      name,
      value: this.engine.keep(
        this.here ? this.#first(name, shape, initialize, shard) : this.#nothing(name, shape, initialize),
      ),
      main: null,
      grad: null,
      trainable: false,
      decay: shape.length > 1,
      shard,
      summand: options.summand === true && this.#split.size > 1,
    };
    this.#known.add(name);
    if (this.here) this.made.push(parameter);
    return parameter;
  }

  /** The value of a weight that is elsewhere: whoever uses it is told so by the engine. */
  #nothing(name: string, shape: readonly number[], initialize: Initializer): Tensor {
    if (this.#source) this.#compare(name, shape);
    else this.engine.scope(() => void initialize(this.engine, shape));
    const value = this.engine.zeros([0]);
    value.dispose();
    return value;
  }

  /**
   * A weight with a row a token: `shape` [V, C], in memory with zeros after it up to `padded` rows. A source may be of fewer
   * tokens: the rows of those that were added since start as the mean of the others, as LLaVA has it. Where the rows are
   * shared out, into stretches of any length, there is no padding.
   */
  makeRows(name: string, shape: readonly [number, number], multiple: number, initialize: Initializer): Parameter {
    const [rows, C] = shape;
    const known = Math.min(this.#source?.vocabSize ?? rows, rows);
    const shared = this.#split.size > 1;
    const padded = shared ? rows : multiple;
    const parameter = this.make(name, [known, C], initialize, shared && known === rows ? { split: 0 } : {});
    if (!this.here || known === padded || this.#differences.length > 0) return parameter;
    const { value } = parameter;
    const { engine } = this;
    parameter.value = engine.scope(() => {
      const added = known < rows ? [engine.expand(meanRow(engine, value), [rows - known, C])] : [];
      const padding = rows < padded ? [engine.zeros([padded - rows, C], value.dtype)] : [];
      const whole = engine.concat([value, ...added, ...padding], 0);
      parameter.shard = shardOf(this.#split, whole.shape, 0);
      return engine.keep(cutOut(engine, whole, parameter.shard));
    });
    value.dispose();
    if (rows < padded) parameter.rows = rows;
    return parameter;
  }

  /**
   * Throws a user error when the source does not hold exactly this part.
   * @param unused names that a source may hold although the model has no use for them
   */
  finish(unused: (name: string) => boolean = () => false): readonly Parameter[] {
    for (const name of this.#source?.names ?? []) {
      if (this.#known.has(name) || unused(name)) continue;
      this.#differences.push({ name, expected: null, found: this.#source!.shapeOf(name) });
    }
    if (this.#differences.length > 0) {
      throw new UserError(
        [
          `${this.#source!.path}: its weights are not those of the configured model`,
          ...differenceTable(this.#differences).map((line) => `  ${line}`),
          '  fix: leave the shape keys out of the config (they come from the checkpoint), or name the right checkpoint',
        ].join('\n'),
      );
    }
    return this.made;
  }

  #first(name: string, shape: readonly number[], initialize: Initializer, shard: Shard | null): Tensor {
    // Every rank draws the whole, so that the generator gives all of them the same weights as one process.
    if (!this.#source) return this.engine.scope(() => cutOut(this.engine, initialize(this.engine, shape), shard));
    if (this.#compare(name, shape)) return this.#source.load(name, shard);
    return this.engine.zeros([0]); // never used: finish() throws
  }

  #compare(name: string, shape: readonly number[]): boolean {
    const found = this.#source?.shapeOf(name) ?? null;
    if (found?.join() === shape.join()) return true;
    this.#differences.push({ name, expected: shape, found });
    return false;
  }
}

/** [1, C]: the mean of the rows of [V, C], summed in float32. */
function meanRow(engine: Engine, rows: Tensor): Tensor {
  const [V] = rows.shape as [number];
  const wide = rows.dtype === 'float32' ? rows : engine.cast(rows, 'float32');
  const sum = engine.linear(engine.full([1, V], 1), engine.transpose(wide, 0, 1));
  return engine.cast(engine.scale(sum, 1 / V), rows.dtype);
}

/** The stretch that `shard` says, in memory of its own; the tensor itself where there is none. */
export function cutOut(engine: Engine, whole: Tensor, shard: Shard | null | undefined): Tensor {
  return shard ? engine.scale(engine.slice(whole, shard.dim, shard.start, shard.end), 1) : whole;
}

/** Of the whole weights, however they are shared out. */
export const countElements = (parameters: readonly Parameter[]): number =>
  parameters.reduce((sum, each) => sum + wholeShape(each).reduce((product, size) => product * size, 1), 0);
