/**
 * Activation checkpointing as NeMo means it (model.activations_checkpoint_*): which segments of the walk keep only their input
 * and are run again when the backward pass comes to them.
 */
import type { Segment } from '../engine/engine.ts';
import type { Chain } from '../model/neva.ts';

export interface Recompute {
  /** null keeps all; `full` runs whole blocks again. */
  granularity: 'full' | null;
  /** `uniform`: all blocks, in runs of `layers` that keep one input each; `block`: the first `layers` blocks, each by itself. */
  method: 'uniform' | 'block';
  layers: number;
}

export interface Step {
  segment: Segment;
  /** Keep the input only, and run it again in the backward pass. */
  again: boolean;
}

export const KEEP_ALL: Recompute = { granularity: null, method: 'uniform', layers: 1 };

/** The chain's segments in the order of the walk, blocks joined or marked as asked: the tower's, where it trains, like the LLM's. */
export function planWalk(
  { segments, blocks }: Pick<Chain, 'segments' | 'blocks'>,
  { granularity, method, layers }: Recompute,
): Step[] {
  const plain = (segment: Segment): Step => ({ segment, again: false });
  if (granularity === null) return segments.map(plain);
  const planned: Step[] = [];
  let done = 0;
  for (const { first, count } of blocks) {
    const own = segments.slice(first, first + count);
    planned.push(
      ...segments.slice(done, first).map(plain),
      ...(method === 'block'
        ? own.map((segment, i) => ({ segment, again: i < layers }))
        : runsOf(own, layers).map((run) => ({ segment: joined(run), again: true }))),
    );
    done = first + count;
  }
  return [...planned, ...segments.slice(done).map(plain)];
}

function runsOf(segments: readonly Segment[], length: number): Segment[][] {
  const runs: Segment[][] = [];
  for (let i = 0; i < segments.length; i += length) runs.push(segments.slice(i, i + length));
  return runs;
}

/** Several segments as one. */
function joined(run: readonly Segment[]): Segment {
  if (run.length === 1) return run[0]!;
  return {
    name: `${run[0]!.name} to ${run.at(-1)!.name}`,
    parameters: run.flatMap(({ parameters }) => parameters),
    forward: (inputs) => run.reduce((values, segment) => segment.forward(values), [...inputs]),
  };
}
