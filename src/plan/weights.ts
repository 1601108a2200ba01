/** Weights of one rank and the bytes that they bring: counted on the model's own code, built without values. */
import { NevaModel } from '../model/neva.ts';
import { WHOLE } from '../model/split.ts';
import { computeBytes, type Setting } from './setting.ts';
import { shapeEngine } from './shape_engine.ts';

/** Elements that one rank of a tensor-parallel group holds. */
export interface WeightCounts {
  vision: number;
  projector: number;
  embedding: number;
  /** Of each transformer block. */
  blocks: number[];
  /** Final norm and head; 0 where the embedding serves as head too. */
  head: number;
}

/** Of the rank that has the largest stretch of a vocabulary that cannot be divided evenly: the last. */
export function countWeights({ shape, tensor, sequenceParallel }: Setting): WeightCounts {
  const split = { ...WHOLE, rank: tensor - 1, size: tensor, sequence: sequenceParallel };
  const model = new NevaModel(shapeEngine, shape, { split });
  const elements = (parameters: readonly { value: { shape: readonly number[] } }[]) =>
    parameters.reduce((sum, { value }) => sum + value.shape.reduce((product, size) => product * size, 1), 0);
  const { llm } = model;
  const embedding = elements(llm.positions ? [llm.embedding, llm.positions] : [llm.embedding]);
  const blocks = llm.blocks.map(({ parameters }) => elements(parameters));
  return {
    vision: elements(model.vision.parameters),
    projector: elements(model.projector.parameters),
    embedding,
    blocks,
    head: elements(llm.parameters) - embedding - blocks.reduce((sum, each) => sum + each, 0),
  };
}

/** Bytes of one rank that are there between steps, and the gradients that come and go. */
export interface StateBytes {
  weights: number;
  /** Float32 weights beside 16-bit ones, or what is left of them as remainders. */
  mainWeights: number;
  /** Adam's two moments. */
  moments: number;
  gradients: number;
}

/** The weights of one pipeline stage, those that train and those that do not. */
export interface StageWeights {
  trained: number;
  frozen: number;
}

/** Blocks are dealt out as evenly as can be; tower, projector and embedding are the first stage's, the head the last one's. */
export function stageWeights(
  counts: WeightCounts,
  { pipeline, trains }: Pick<Setting, 'pipeline' | 'trains'>,
  stage: number,
): StageWeights & { blocks: number } {
  const [from, to] = [stage, stage + 1].map((at) => Math.floor((counts.blocks.length * at) / pipeline)) as [
    number,
    number,
  ];
  const own = counts.blocks.slice(from, to).reduce((sum, each) => sum + each, 0);
  const first = stage === 0 ? 1 : 0;
  const last = stage === pipeline - 1 ? 1 : 0;
  const parts: [number, boolean][] = [
    [first * counts.vision, trains.vision],
    [first * counts.projector, trains.projector],
    [own + first * counts.embedding + last * counts.head, trains.llm],
  ];
  const sum = (wanted: boolean) => parts.reduce((all, [n, train]) => all + (train === wanted ? n : 0), 0);
  return { trained: sum(true), frozen: sum(false), blocks: to - from };
}

/** As docs/numerics.md has them by the weight; a sharded optimizer keeps 1/D of what it owns, and float32 weights of its own. */
export function stateBytes({ trained, frozen }: StageWeights, setting: Setting): StateBytes {
  const { mainWeights, remainders, data } = setting;
  const sharded = setting.sharded && data > 1;
  const low = computeBytes(setting);
  const owned = sharded ? Math.ceil(trained / data) : trained;
  const main = sharded ? 4 : mainWeights ? (remainders ? 2 : 4) : 0;
  return {
    weights: trained * (mainWeights ? low : 4) + frozen * low,
    mainWeights: owned * main,
    moments: owned * 8,
    gradients: trained * 4,
  };
}
