/** The models and batches of bench/step and bench/parallel. */
import type { Engine } from '../../src/engine/engine.ts';
import { type LabelledInput, NevaModel } from '../../src/model/neva.ts';

export interface StepSpec {
  llm: { hidden: number; layers: number; heads: number; kv?: number; ffn: number; vocab: number };
  clip: { hidden: number; layers: number; heads: number; ffn: number; image: number; patch: number };
  batch: number;
  textTokens: number;
  labelFraction: number;
  /** `bfloat16` holds the weights in it, with float32 main weights (O2) for those that train. */
  dtype: 'float32' | 'bfloat16';
  stage: 'pretrain' | 'finetune';
  warmup: number;
  threads: number;
  accelerator?: 'cpu' | 'gpu';
  flash?: boolean;
  /** Each transformer block runs again in the backward pass. */
  recompute?: boolean;
  /** trainer.engine and trainer.tfjs_backend; torch where nothing is said. */
  engine?: 'torch' | 'tfjs';
  backend?: string;
}

export const shapeOf = (spec: Pick<StepSpec, 'llm' | 'clip'>) => ({
  llm: {
    numLayers: spec.llm.layers,
    hiddenSize: spec.llm.hidden,
    ffnHiddenSize: spec.llm.ffn,
    numAttentionHeads: spec.llm.heads,
    numQueryGroups: spec.llm.kv ?? spec.llm.heads,
    headDim: spec.llm.hidden / spec.llm.heads,
    vocabSize: spec.llm.vocab,
    normEpsilon: 1e-5,
    rotaryBase: 10000,
    maxPositions: 4096,
    tiedEmbeddings: false,
  },
  vision: {
    imageSize: spec.clip.image,
    patchSize: spec.clip.patch,
    hiddenSize: spec.clip.hidden,
    numLayers: spec.clip.layers,
    numAttentionHeads: spec.clip.heads,
    ffnHiddenSize: spec.clip.ffn,
    normEpsilon: 1e-5,
    selectLayer: -2,
    classTokenLength: 1,
  },
  projector: { type: 'mlp2x_gelu', inputSize: spec.clip.hidden, outputSize: spec.llm.hidden },
});

/** The model of a specification, with random weights; what its stage trains is trainable. */
export function makeModel(engine: Engine, spec: StepSpec): NevaModel {
  const options = { computeDtype: spec.dtype, attention: { flash: spec.flash ?? true } };
  const model = new NevaModel(engine, shapeOf(spec), options);
  for (const { name, parameters } of model.parts) {
    const trains = name === 'projector' || (name === 'llm' && spec.stage === 'finetune');
    for (const parameter of parameters) {
      parameter.trainable = trains;
      if (spec.dtype === 'float32') continue;
      // As assemble.ts: a rounding of a float32 main weight where it trains, the rounding alone elsewhere.
      const first = parameter.value;
      parameter.value = engine.keep(engine.zeros(first.shape, spec.dtype));
      engine.round(parameter.value, first);
      if (trains) parameter.main = first;
      else first.dispose();
    }
  }
  return model;
}

/** One micro batch. Every record: image features first, then text; the last `labelFraction` of the text is in the loss. */
export function makeBatch(spec: StepSpec): LabelledInput {
  const patches = (spec.clip.image / spec.clip.patch) ** 2;
  const length = patches + spec.textTokens;
  const labels = Math.round(spec.textTokens * spec.labelFraction);
  const word = (i: number) => 3 + ((i * 7919) % (spec.llm.vocab - 4));
  const rows = (count: number, row: (b: number, i: number) => number) =>
    Int32Array.from({ length: spec.batch * count }, (_, k) => row(Math.floor(k / count), k % count));
  const ids = rows(length, (b, t) => (t < patches ? 0 : word(b * length + t)));
  const labelRows = rows(labels, (b, i) => b * length + length - labels - 1 + i);
  return {
    batch: spec.batch,
    length,
    ids,
    pixels: Float32Array.from({ length: spec.batch * 3 * spec.clip.image ** 2 }, (_, i) => Math.sin(i * 0.37)),
    imageCount: spec.batch,
    imageSize: spec.clip.image,
    imageRows: rows(patches, (b, p) => b * length + p),
    labelRows,
    labelTargets: labelRows.map((row) => ids[row + 1]!),
  };
}
