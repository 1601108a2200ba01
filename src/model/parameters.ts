/** Making, naming and counting weights. */
import type { Engine, Parameter, Tensor } from '../engine/engine.ts';

/** Where a weight's first value comes from: a checkpoint, or an initializer where the checkpoint has none. */
export interface WeightSource {
  has(name: string): boolean;
  load(name: string): Tensor;
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

/** Makes one part's parameters: from `source` where it has the name, else by the initializer. */
export class ParameterMaker {
  readonly engine: Engine;
  readonly #source: WeightSource | null;
  readonly made: Parameter[] = [];

  constructor(engine: Engine, source: WeightSource | null) {
    this.engine = engine;
    this.#source = source;
  }

  /** Matrices decay; vectors (norms, biases) do not, as in NeMo's parameter groups. */
  make(name: string, shape: readonly number[], initialize: Initializer): Parameter {
    const value = this.#source?.has(name) ? this.#source.load(name) : initialize(this.engine, shape);
    if (value.shape.join() !== shape.join()) {
      throw new Error(`${name}: shape [${value.shape.join(', ')}] where the model has [${shape.join(', ')}]`);
    }
    const parameter: Parameter = {
      name,
      value: this.engine.keep(value),
      grad: null,
      trainable: false,
      decay: shape.length > 1,
    };
    this.made.push(parameter);
    return parameter;
  }
}

export const countElements = (parameters: readonly Parameter[]): number =>
  parameters.reduce((sum, { value }) => sum + value.shape.reduce((product, size) => product * size, 1), 0);
