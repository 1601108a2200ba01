/**
 * From vision features to the LLM's hidden size: `linear` (LLaVA 1.0), `mlp2x_gelu` (LLaVA 1.5), any `mlpNx_gelu`, or
 * `identity`. Biases always; exact GELU; torch's nn.Linear initial values.
 */

import type { Engine, Parameter, Segment, Tensor } from '../engine/engine.ts';
import { UserError } from '../errors.ts';
import { linearDefault, ParameterMaker, type WeightSource } from './parameters.ts';
import type { ProjectorShape } from './shapes.ts';
import { type TensorSplit, WHOLE } from './split.ts';

const PREFIX = 'multi_modal_projector.';

/** Linear layers in a projector of this type; 0 for `identity`. */
export function projectorDepth(type: string): number {
  if (type === 'identity') return 0;
  if (type === 'linear') return 1;
  const depth = /^mlp([1-9]\d?)x_gelu$/.exec(type)?.[1];
  if (depth) return Number(depth);
  throw new UserError(
    `model.mm_cfg.mm_mlp_adapter_type: expected linear, identity or mlpNx_gelu (mlp2x_gelu, mlp3x_gelu, …), found "${type}"`,
  );
}

export class Projector {
  readonly parameters: readonly Parameter[];
  readonly #engine: Engine;
  readonly #layers: { weight: Parameter; bias: Parameter }[];

  /** `split` and `here` as in VisionTower. */
  constructor(
    engine: Engine,
    shape: ProjectorShape,
    source: WeightSource | null = null,
    split: TensorSplit = WHOLE,
    here = true,
  ) {
    const maker = new ParameterMaker(engine, source, split, { summand: true });
    maker.here = here;
    const depth = projectorDepth(shape.type);
    if (depth === 0 && shape.inputSize !== shape.outputSize) {
      throw new UserError(
        `model.mm_cfg.mm_mlp_adapter_type=identity needs a vision tower as wide as the LLM: ${shape.inputSize} ≠ ${shape.outputSize}`,
      );
    }
    this.#engine = engine;
    this.#layers = Array.from({ length: depth }, (_, i) => {
      const columns = i === 0 ? shape.inputSize : shape.outputSize;
      const initialize = linearDefault(columns);
      return {
        weight: maker.make(`${PREFIX}linear_${i + 1}.weight`, [shape.outputSize, columns], initialize),
        bias: maker.make(`${PREFIX}linear_${i + 1}.bias`, [shape.outputSize], initialize),
      };
    });
    this.parameters = maker.finish();
  }

  /** features [N, P, C of the tower] → [N, P, C of the LLM] */
  segment(): Segment {
    return { name: 'projector', parameters: this.parameters, forward: ([features]) => [this.#forward(features!)] };
  }

  #forward(features: Tensor): Tensor {
    return this.#layers.reduce(
      (x, { weight, bias }, i) => this.#engine.linear(i === 0 ? x : this.#engine.gelu(x), weight.value, bias.value),
      features,
    );
  }
}
