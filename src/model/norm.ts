/** The normalizations of language models, under NeMo's names (model.normalization). */
import type { Engine, Parameter, Tensor } from '../engine/engine.ts';
import { ones, type ParameterMaker, type ParameterOptions, zeros } from './parameters.ts';
import type { Normalization } from './shapes.ts';

export class Norm {
  readonly parameters: readonly Parameter[];
  readonly #kind: Normalization;
  readonly #eps: number;

  /** Over the last dimension, of `size`; weights are NAME.weight and, but for rmsnorm, NAME.bias. */
  constructor(
    maker: ParameterMaker,
    name: string,
    size: number,
    kind: Normalization,
    eps: number,
    options: ParameterOptions = {},
  ) {
    this.#kind = kind;
    this.#eps = eps;
    const weight = maker.make(`${name}.weight`, [size], kind === 'layernorm1p' ? zeros : ones, options);
    this.parameters = kind === 'rmsnorm' ? [weight] : [weight, maker.make(`${name}.bias`, [size], zeros, options)];
  }

  apply(engine: Engine, x: Tensor): Tensor {
    const [weight, bias] = this.parameters as [Parameter, Parameter];
    switch (this.#kind) {
      case 'rmsnorm':
        return engine.rmsNorm(x, weight.value, this.#eps);
      case 'layernorm':
        return engine.layerNorm(x, weight.value, bias.value, this.#eps);
      case 'layernorm1p':
        return engine.layerNorm(x, plusOne(engine, weight.value), bias.value, this.#eps);
    }
  }
}

/** LayerNorm1p stores its weight minus one, which keeps more bits of a 16-bit weight near 1; they must not be lost here. */
function plusOne(engine: Engine, weight: Tensor): Tensor {
  const wide = weight.dtype === 'float32' ? weight : engine.cast(weight, 'float32');
  return engine.add(wide, engine.full([1], 1));
}
