/**
 * The micro batches of a step, forward and backward through what this rank has of the model: all of it, or one stage of a
 * pipeline, which takes its input from the stage before and the gradients of its output from the stage after.
 */
import type { GlobalBatch, MicroBatch } from '../data/types.ts';
import type { Arena, Engine, Parameter, Tensor } from '../engine/engine.ts';
import type { Chain, NevaModel } from '../model/neva.ts';
import { isFirst, isLast } from '../model/stage.ts';
import type { GradientReduction } from '../parallel/data.ts';
import { type Incoming, Neighbours, oneForwardOneBackward, type Turn } from '../parallel/pipeline.ts';
import type { Ranks } from '../parallel/ranks.ts';
import type { LoopOptions } from './loop.ts';
import { forwardOnly, type HalfWay, lossAndGradient, type OnFinal, walkBackward, walkForward } from './walk.ts';

export interface Parts {
  engine: Engine;
  model: NevaModel;
  ranks: Ranks;
  reduction: GradientReduction;
}

export const hasLabels = ({ labelRows }: MicroBatch): boolean => labelRows.length > 0;

/**
 * Gradients of this rank's share of a global batch, summed into the parameters, and its share of the batch's loss: zero on
 * ranks whose loss another one answers for.
 * @param weightOf of a micro batch's summed loss in that of the step
 * @param scale of the gradients (loss_scale.ts)
 */
export function accumulate(
  { engine, model, reduction, ranks }: Parts,
  { microBatches }: GlobalBatch,
  { recompute, trains }: Pick<LoopOptions, 'recompute' | 'trains'>,
  weightOf: (micro: MicroBatch) => number,
  scale: number,
): number {
  const labelled = microBatches.filter(hasLabels);
  const neighbours = new Neighbours(engine, ranks.pipeline);
  const last = labelled.length - 1;
  const walks = labelled.map((micro, number) => {
    // Only the last walk leaves gradients that nothing more is added to.
    const onFinal = number === last ? (parameters: readonly Parameter[]) => reduction.final(parameters) : () => {};
    // What is below every border between stages: all parts but later blocks.
    const below = trains.llm || (micro.imageCount > 0 && (trains.projector || trains.vision));
    const weight = weightOf(micro);
    return new MicroWalk({ engine, model, neighbours }, { micro, number, below, recompute, weight, scale, onFinal });
  });
  const { index, count } = model.llm.stage;
  const turns = oneForwardOneBackward(index, count, labelled.length);
  // The message that the next turn needs travels during this one.
  let ahead = turns[0] ? expect(walks, turns[0]) : null;
  for (const [i, turn] of turns.entries()) {
    const incoming = ahead;
    const next = turns[i + 1];
    ahead = next ? expect(walks, next) : null;
    walks[turn.micro]![turn.way](incoming);
  }
  neighbours.finish();
  // Read only after the last backward: the device is not waited for in between.
  let loss = 0;
  for (const { loss: each } of walks) {
    if (!each) continue;
    loss += engine.item(each);
    each.dispose();
  }
  return ranks.answersLoss ? loss : 0;
}

const expect = (walks: readonly MicroWalk[], { micro, way }: Turn) => walks[micro]!.expect(way);

interface Task {
  micro: MicroBatch;
  /** Within the step. */
  number: number;
  /** Something learns on stages before this one, or on this one: borders between stages have gradients. */
  below: boolean;
  recompute: LoopOptions['recompute'];
  weight: number;
  scale: number;
  onFinal: OnFinal;
}

/** One micro batch on its two ways through this stage. */
class MicroWalk {
  /** Unscaled, times the micro batch's weight; on the last stage, after its way back. */
  loss: Tensor | null = null;
  readonly #engine: Engine;
  readonly #model: NevaModel;
  readonly #neighbours: Neighbours;
  readonly #task: Task;
  readonly #arena: Arena;
  #half: (HalfWay & { chain: Chain }) | null = null;

  constructor({ engine, model, neighbours }: { engine: Engine; model: NevaModel; neighbours: Neighbours }, task: Task) {
    this.#engine = engine;
    this.#model = model;
    this.#neighbours = neighbours;
    this.#task = task;
    this.#arena = engine.arena();
  }

  get #stage() {
    return this.#model.llm.stage;
  }

  /** Begins to receive what a turn needs; null where it needs nothing of others. */
  expect(way: Turn['way']): Incoming | null {
    const { micro, number, below } = this.#task;
    const from = way === 'forward' ? isFirst(this.#stage) : isLast(this.#stage) || !below;
    if (from) return null;
    const [shape, dtype] = [this.#model.handedShape(micro), this.#model.computeDtype];
    const neighbours = this.#neighbours;
    return this.#arena.within(() =>
      way === 'forward'
        ? neighbours.expectHidden(number, shape, dtype)
        : neighbours.expectGradient(number, shape, dtype),
    );
  }

  forward(received: Incoming | null): void {
    const { micro, below, recompute } = this.#task;
    received?.wait();
    this.#arena.within(() => {
      const chain = this.#model.lossChain(micro, received?.tensor ?? null);
      const half = walkForward(this.#engine, chain, recompute, below && !isFirst(this.#stage));
      if (!chain.loss) this.#neighbours.handHidden(half.output);
      this.#half = { ...half, chain };
    });
  }

  backward(received: Incoming | null): void {
    const { weight, scale, onFinal } = this.#task;
    const engine = this.#engine;
    const half = this.#half!;
    received?.wait();
    this.#arena.within(() => {
      let grad = received?.tensor ?? null;
      if (half.chain.loss) {
        const made = lossAndGradient(engine, half.chain, half, weight * scale, onFinal);
        this.loss = engine.keep(engine.scale(made.loss, weight));
        grad = made.grad;
      }
      const onward = walkBackward(engine, half, grad, onFinal);
      if (onward && !isFirst(this.#stage)) this.#neighbours.handGradient(onward);
    });
    this.#half = null;
    this.#arena.free();
  }
}

/** The summed loss of a micro batch with nothing recorded, which goes through all stages; zero where it is not made. */
export function lossOnly(engine: Engine, model: NevaModel, ranks: Ranks, micro: MicroBatch): number {
  const { stage } = model.llm;
  const neighbours = new Neighbours(engine, ranks.pipeline);
  return engine.scope(() => {
    const received = isFirst(stage) ? null : neighbours.expectHidden(0, model.handedShape(micro), model.computeDtype);
    received?.wait();
    const output = forwardOnly(engine, model.lossChain(micro, received?.tensor ?? null));
    if (isLast(stage)) return engine.item(output);
    neighbours.handHidden(output);
    neighbours.finish();
    return 0;
  });
}
