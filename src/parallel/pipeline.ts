/** Pipeline parallelism: the order in which a stage takes its micro batches, and what it exchanges with its neighbours. */
import type { DType, Engine, Tensor } from '../engine/engine.ts';
import type { Group, Work } from './group.ts';

/** One micro batch, one way through the stage. */
export interface Turn {
  way: 'forward' | 'backward';
  micro: number;
}

/**
 * One forward, one backward (PipeDream-Flush, Narayanan et al. 2021, section 2.2): as many micro batches forward as there
 * are stages behind this one, then a forward and a backward in turn, then the backwards that are left. A stage holds the
 * activations of S − s micro batches at most. With a single stage each micro batch goes forward and backward before the next.
 */
export function oneForwardOneBackward(stage: number, stages: number, microBatches: number): Turn[] {
  const ahead = Math.min(stages - 1 - stage, microBatches);
  const turns: Turn[] = Array.from({ length: ahead }, (_, micro) => ({ way: 'forward', micro }));
  for (let micro = ahead; micro < microBatches; micro++) {
    turns.push({ way: 'forward', micro }, { way: 'backward', micro: micro - ahead });
  }
  for (let micro = microBatches - ahead; micro < microBatches; micro++) turns.push({ way: 'backward', micro });
  return turns;
}

/** A message that is being received into `tensor`. */
export interface Incoming {
  tensor: Tensor;
  wait(): void;
}

/**
 * The ranks that have the stages of one pipeline, in their order; a group for each direction, so that neither waits for
 * the other.
 */
export interface PipelineGroups {
  readonly down: Group;
  readonly up: Group;
}

/**
 * Hidden states from the stage before and to the one after, gradients the other way. Sending does not wait: a message is
 * complete when the other has begun to receive it. With the turns of oneForwardOneBackward, each beginning to receive what
 * the next one needs, a stage that sends something has begun to receive all that was sent to it before: that is when
 * messages are waited for, and the addon lets go of their values.
 */
export class Neighbours {
  readonly #engine: Engine;
  readonly #groups: PipelineGroups;
  /** Under way to the stage after, and to the one before. */
  readonly #hidden: Work[] = [];
  readonly #gradients: Work[] = [];

  constructor(engine: Engine, groups: PipelineGroups) {
    this.#engine = engine;
    this.#groups = groups;
  }

  /** Of a micro batch, from the stage before. */
  expectHidden(micro: number, shape: readonly number[], dtype: DType): Incoming {
    const from = this.#groups.down.rank - 1;
    const what = `the hidden states of micro batch ${micro + 1} from stage ${from + 1}`;
    return this.#expect(this.#groups.down, from, what, shape, dtype, this.#gradients);
  }

  /** Of the hidden states that were handed on, from the stage after. */
  expectGradient(micro: number, shape: readonly number[], dtype: DType): Incoming {
    const from = this.#groups.up.rank + 1;
    const what = `the gradients of micro batch ${micro + 1} from stage ${from + 1}`;
    return this.#expect(this.#groups.up, from, what, shape, dtype, this.#hidden);
  }

  handHidden(hidden: Tensor): void {
    const to = this.#groups.down.rank + 1;
    this.#hidden.push(this.#groups.down.send(hidden, to, `stage ${to + 1} to take hidden states`));
  }

  handGradient(gradient: Tensor): void {
    const to = this.#groups.up.rank - 1;
    this.#gradients.push(this.#groups.up.send(gradient, to, `stage ${to + 1} to take gradients`));
  }

  /** All that was handed on has been taken. */
  finish(): void {
    settle(this.#hidden);
    settle(this.#gradients);
  }

  #expect(group: Group, from: number, what: string, shape: readonly number[], dtype: DType, sent: Work[]): Incoming {
    const tensor = this.#engine.zeros(shape, dtype);
    const work = group.receive(tensor, from, what);
    return {
      tensor,
      wait() {
        work.wait();
        settle(sent);
      },
    };
  }
}

function settle(sent: Work[]): void {
  for (const work of sent.splice(0)) work.wait();
}
