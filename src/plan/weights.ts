/** Weights of one rank and the bytes that they bring: counted on the model's own code, built without values. */
import { NevaModel } from '../model/neva.ts';
import { WHOLE } from '../model/split.ts';
import { isFirst, isLast, type Stage } from '../model/stage.ts';
import { computeBytes, type Setting } from './setting.ts';
import { shapeEngine } from './shape_engine.ts';

/** Elements that one rank of a tensor-parallel group holds. */
export interface WeightCounts {
  vision: number;
  projector: number;
  embedding: number;
  /** Of each transformer block. */
  blocks: number[];
  /** Final norm and head. */
  head: number;
  /** Of them, an embedding that is the head: on one stage it is there once. */
  twin: number;
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
  const twin = shape.llm.tiedEmbeddings ? elements([llm.embedding]) : 0;
  return {
    vision: elements(model.vision.parameters),
    projector: elements(model.projector.parameters),
    embedding,
    blocks,
    head: elements(llm.finalNorm.parameters) + elements([llm.head]),
    twin,
  };
}

/** Bytes of one rank that are there between steps, and the gradients that come and go. */
export interface StateBytes {
  weights: number;
  /** Float32 weights beside 16-bit ones, or what is left of them as remainders. */
  mainWeights: number;
  /** Adam's two, and the moving average. */
  moments: number;
  gradients: number;
}

/** The weights of one pipeline stage, those that train and those that do not. */
export interface StageWeights {
  trained: number;
  frozen: number;
}

/** Tower, projector and embedding are the first stage's, norm and head the last one's. */
export function stageWeights(
  counts: WeightCounts,
  { trains }: Pick<Setting, 'trains'>,
  stage: Stage,
): StageWeights & { blocks: number } {
  const { from, to } = stage;
  const own = counts.blocks.slice(from, to).reduce((sum, each) => sum + each, 0);
  const first = isFirst(stage) ? 1 : 0;
  const last = isLast(stage) ? 1 : 0;
  const parts: [number, boolean][] = [
    [first * counts.vision, trains.vision],
    [first * counts.projector, trains.projector],
    [own + first * counts.embedding + last * counts.head - first * last * counts.twin, trains.llm],
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
    moments: owned * (setting.ema ? 12 : 8),
    gradients: trained * 4,
  };
}
