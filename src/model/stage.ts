/**
 * A model divided by its depth (pipeline parallelism, Huang et al. 2019): a stage is a run of the walk's segments. The first
 * has tower, projector and embedding, the last final norm, head and loss; blocks lie on all of them.
 */

export interface Stage {
  readonly index: number;
  /** Stages in all. */
  readonly count: number;
  /** Its blocks: from … to−1. */
  readonly from: number;
  readonly to: number;
}

export const isFirst = ({ index }: Stage): boolean => index === 0;
export const isLast = ({ index, count }: Stage): boolean => index === count - 1;

/** @param layout blocks of each stage */
export function stageOf(layout: readonly number[], index: number): Stage {
  const before = layout.slice(0, index).reduce((sum, blocks) => sum + blocks, 0);
  return { index, count: layout.length, from: before, to: before + layout[index]! };
}

/** Work of a step by where it is done, in any unit. */
export interface StageCosts {
  /** Before the blocks: tower and projector. */
  front: number;
  /** Of each block. */
  block: number;
  /** Behind them, less what the last block is spared. */
  end: number;
}

/**
 * Blocks of each stage, such that the largest stage is as small as can be: blocks are alike, so each next one goes to the
 * stage that has least; of two alike to the later one, which holds fewer micro batches.
 */
export function balancedLayout(blocks: number, stages: number, { front, block, end }: StageCosts): number[] {
  const layout = Array.from({ length: stages }, () => 1);
  const cost = layout.map((_, i) => block + (i === 0 ? front : 0) + (i === stages - 1 ? end : 0));
  for (let left = blocks - stages; left > 0; left--) {
    const least = cost.lastIndexOf(Math.min(...cost));
    layout[least]! += 1;
    cost[least]! += block;
  }
  return layout;
}
