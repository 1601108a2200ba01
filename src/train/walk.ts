/**
 * The walk: forward through a chain of segments keeping one vjp each, backward through them in reverse. A frozen
 * beginning is run without recording; a segment's activations are freed the moment the walk has passed it; a segment that is
 * to be run again keeps its input instead of a vjp.
 */
import type { Engine, Tensor, Vjp } from '../engine/engine.ts';
import type { Chain } from '../model/neva.ts';
import { KEEP_ALL, planWalk, type Recompute, type Step } from './recompute.ts';

/** A segment that was walked forward: what its backward pass starts from. */
interface Walked extends Step {
  inputs: readonly Tensor[];
  needs: readonly boolean[];
  /** Null where it is made again in the backward pass. */
  vjp: Vjp | null;
}

/**
 * Adds the gradients of `scale` · (the chain's scalar output) to `Parameter.grad` of every trainable parameter on it.
 * Returns the output itself, unscaled.
 */
export function forwardBackward(engine: Engine, chain: Chain, scale: number, recompute: Recompute = KEEP_ALL): Tensor {
  const steps = planWalk(chain, recompute);
  const first = steps.findIndex(({ segment }) => segment.parameters.some((parameter) => parameter.trainable));
  if (first < 0) return forwardOnly(engine, chain);

  let values = run(engine, chain.input, steps.slice(0, first));
  const walked: Walked[] = [];
  for (const [i, step] of steps.slice(first).entries()) {
    // What leads into the first trainable segment needs no gradient: nothing below it learns.
    const needs = values.map(() => i > 0);
    const vjp = step.again ? null : engine.vjp(step.segment, values, needs);
    walked.push({ ...step, inputs: values, needs, vjp });
    values = vjp ? [...vjp.outputs] : engine.forward(step.segment, values);
  }

  const loss = engine.scale(values[0]!, 1);
  let grads: (Tensor | null)[] = [engine.full([], scale)];
  for (let step = walked.pop(); step; step = walked.pop()) {
    const vjp = step.vjp ?? engine.vjp(step.segment, step.inputs, step.needs);
    const next = vjp.backward(grads);
    for (const grad of grads) grad?.dispose();
    // An input that only this segment kept alive: the output of one that runs again, which has no vjp to own it.
    if (walked.at(-1)?.again) for (const input of step.inputs) input.dispose();
    grads = next;
  }
  return loss;
}

/** The chain's output, with nothing recorded: validation, and micro batches in which nothing trains. */
export function forwardOnly(engine: Engine, { input, segments }: Chain): Tensor {
  return run(
    engine,
    input,
    segments.map((segment) => ({ segment, again: false })),
  )[0]!;
}

/** Runs segments one after the other, freeing each one's input when it is done with. */
function run(engine: Engine, input: readonly Tensor[], steps: readonly Step[]): Tensor[] {
  let values: Tensor[] = [...input];
  for (const { segment } of steps) {
    const next = engine.forward(segment, values);
    for (const value of values) if (!next.includes(value)) value.dispose();
    values = next;
  }
  return values;
}
