/**
 * CLIP's vision transformer (Radford et al. 2021; Hugging Face CLIPVisionModel) up to the hidden state that LLaVA takes
 * its features from: class token, pre-LayerNorm, pre-norm blocks, quick-GELU. Blocks past that state and the
 * post-LayerNorm are never run, so they are never loaded either.
 */
import type { Engine, Parameter, Segment, Tensor } from '../engine/engine.ts';
import { normal, ones, ParameterMaker, type WeightSource, zeros } from './parameters.ts';
import type { VisionShape } from './shapes.ts';
import { type TensorSplit, WHOLE } from './split.ts';

interface Linear {
  weight: Parameter;
  bias: Parameter;
}

interface BlockParameters {
  norm1: Linear;
  query: Linear;
  key: Linear;
  value: Linear;
  output: Linear;
  norm2: Linear;
  fc1: Linear;
  fc2: Linear;
}

const PREFIX = 'vision_tower.vision_model.';

/** Standard deviations of random weights, as CLIPPreTrainedModel sets them for a tower of this width and depth. */
function initialStd({ hiddenSize: C, numLayers }: VisionShape) {
  return {
    classToken: C ** -0.5,
    embedding: 0.02,
    attentionIn: C ** -0.5 * (2 * numLayers) ** -0.5,
    attentionOut: C ** -0.5,
    mlpIn: (2 * C) ** -0.5,
    mlpOut: C ** -0.5 * (2 * numLayers) ** -0.5,
  };
}

/** Blocks that run to reach hidden state `selectLayer` of [embeddings, block 1, … block L]. */
export function blocksUsed({ numLayers, selectLayer }: VisionShape): number {
  return selectLayer < 0 ? numLayers + 1 + selectLayer : selectLayer;
}

/** Weights that a whole tower has and the feature does not need. */
function isBeyond(shape: VisionShape, name: string): boolean {
  const block = /\.encoder\.layers\.(\d+)\./.exec(name)?.[1];
  return block
    ? Number(block) >= blocksUsed(shape) && Number(block) < shape.numLayers
    : name.includes('.post_layernorm.');
}

export class VisionTower {
  readonly shape: VisionShape;
  readonly parameters: readonly Parameter[];
  readonly #engine: Engine;
  readonly #embeddings: readonly Parameter[];
  readonly #blocks: readonly VisionBlock[];

  /**
   * Whole on every rank of `split`, each of which takes its share of the pictures through it.
   * @param here false on pipeline stages that pictures do not go through
   */
  constructor(
    engine: Engine,
    shape: VisionShape,
    source: WeightSource | null = null,
    split: TensorSplit = WHOLE,
    here = true,
  ) {
    const { hiddenSize: C, imageSize, patchSize, numLayers } = shape;
    const positions = Math.floor(imageSize / patchSize) ** 2 + 1;
    const maker = new ParameterMaker(engine, source, split, { summand: true });
    maker.here = here;
    const std = initialStd(shape);
    this.shape = shape;
    this.#engine = engine;
    this.#embeddings = [
      maker.make(`${PREFIX}embeddings.class_embedding`, [C], normal(std.classToken)),
      maker.make(`${PREFIX}embeddings.patch_embedding.weight`, [C, 3, patchSize, patchSize], normal(std.embedding)),
      maker.make(`${PREFIX}embeddings.position_embedding.weight`, [positions, C], normal(std.embedding)),
      maker.make(`${PREFIX}pre_layrnorm.weight`, [C], ones), // CLIP's own spelling
      maker.make(`${PREFIX}pre_layrnorm.bias`, [C], zeros),
    ];
    const used = Math.min(blocksUsed(shape), numLayers);
    this.#blocks = Array.from({ length: used }, (_, i) => new VisionBlock(shape, i, maker));
    this.parameters = maker.finish((name) => isBeyond(shape, name));
  }

  /** pixels [N, 3, S, S] → features [N, P, C], as the segments of the walk. */
  segments(): Segment[] {
    const blocks = this.#blocks.map((block) => ({
      name: block.name,
      parameters: block.parameters,
      forward: ([hidden]: readonly Tensor[]) => [block.forward(this.#engine, hidden!)],
    }));
    return [
      { name: 'vision embeddings', parameters: this.#embeddings, forward: ([pixels]) => [this.#embed(pixels!)] },
      ...blocks,
      { name: 'vision features', parameters: [], forward: ([hidden]) => [this.#select(hidden!)] },
    ];
  }

  #embed(pixels: Tensor): Tensor {
    const engine = this.#engine;
    const [classToken, patchWeight, positions, normWeight, normBias] = this.#embeddings.map(({ value }) => value) as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ];
    const patches = engine.patchEmbed(pixels, patchWeight); // [N, P, C]
    const [N, , C] = patches.shape as [number, number, number];
    // Float32 weights that train without O2 meet activations in 16 bits.
    const like = (weight: Tensor) => (weight.dtype === patches.dtype ? weight : engine.cast(weight, patches.dtype));
    const first = engine.expand(engine.reshape(like(classToken), [1, 1, C]), [N, 1, C]);
    const hidden = engine.add(engine.concat([first, patches], 1), like(positions));
    return engine.layerNorm(hidden, normWeight, normBias, this.shape.normEpsilon);
  }

  #select(hidden: Tensor): Tensor {
    return this.#engine.slice(hidden, 1, this.shape.classTokenLength, hidden.shape[1]!);
  }
}

class VisionBlock {
  readonly name: string;
  readonly parameters: readonly Parameter[];
  readonly #shape: VisionShape;
  readonly #weights: BlockParameters;

  constructor(shape: VisionShape, index: number, maker: ParameterMaker) {
    const { hiddenSize: C, ffnHiddenSize: F } = shape;
    const prefix = `${PREFIX}encoder.layers.${index}.`;
    const std = initialStd(shape);
    const linear = (name: string, rows: number, columns: number, initial: number): Linear => ({
      weight: maker.make(`${prefix}${name}.weight`, [rows, columns], normal(initial)),
      bias: maker.make(`${prefix}${name}.bias`, [rows], zeros),
    });
    const norm = (name: string): Linear => ({
      weight: maker.make(`${prefix}${name}.weight`, [C], ones),
      bias: maker.make(`${prefix}${name}.bias`, [C], zeros),
    });
    this.name = `vision block ${index}`;
    this.#shape = shape;
    this.#weights = {
      norm1: norm('layer_norm1'),
      query: linear('self_attn.q_proj', C, C, std.attentionIn),
      key: linear('self_attn.k_proj', C, C, std.attentionIn),
      value: linear('self_attn.v_proj', C, C, std.attentionIn),
      output: linear('self_attn.out_proj', C, C, std.attentionOut),
      norm2: norm('layer_norm2'),
      fc1: linear('mlp.fc1', F, C, std.mlpIn),
      fc2: linear('mlp.fc2', C, F, std.mlpOut),
    };
    this.parameters = Object.values(this.#weights).flatMap(({ weight, bias }: Linear) => [weight, bias]);
  }

  /** [N, P+1, C] → [N, P+1, C] */
  forward(engine: Engine, hidden: Tensor): Tensor {
    const { numAttentionHeads: H, hiddenSize: C, normEpsilon } = this.#shape;
    const [N, T] = hidden.shape as [number, number, number];
    const w = this.#weights;
    const linear = (x: Tensor, { weight, bias }: Linear) => engine.linear(x, weight.value, bias.value);
    const norm = (x: Tensor, { weight, bias }: Linear) => engine.layerNorm(x, weight.value, bias.value, normEpsilon);
    const split = (x: Tensor) => engine.transpose(engine.reshape(x, [N, T, H, C / H]), 1, 2);

    const x = norm(hidden, w.norm1);
    const mixed = engine.attention(split(linear(x, w.query)), split(linear(x, w.key)), split(linear(x, w.value)), {
      causal: false,
    });
    const attended = linear(engine.reshape(engine.transpose(mixed, 1, 2), [N, T, C]), w.output);
    const middle = engine.add(hidden, attended);
    return engine.add(middle, linear(engine.quickGelu(linear(norm(middle, w.norm2), w.fc1)), w.fc2));
  }
}
