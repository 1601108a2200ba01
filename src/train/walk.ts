/**
 * The walk: forward through a chain of segments keeping one vjp each, backward through them in reverse. A frozen
 * beginning is run without recording; a segment's activations are freed the moment the walk has passed it; a segment that is
 * to be run again keeps its input instead of a vjp.
 */
import type { Engine, Parameter, Segment, Tensor, Vjp } from '../engine/engine.ts';
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
 * Adds the gradients of `scale` · (the chain's summed loss) to `Parameter.grad` of every trainable parameter on it.
 * Returns the loss itself, unscaled: a float32 scalar. `onFinal` is told of parameters that this walk will add nothing more
 * to, while it still goes on below them.
 */
export function forwardBackward(
  engine: Engine,
  chain: Chain,
  scale: number,
  recompute: Recompute = KEEP_ALL,
  onFinal: (parameters: readonly Parameter[]) => void = () => {},
): Tensor {
  const steps = planWalk(chain, recompute);
  const first = steps.findIndex(({ segment }) => trains(segment));
  if (first < 0 && !trains(chain.loss.segment(0, 0))) return forwardOnly(engine, chain);

  let values = run(engine, chain.input, first < 0 ? steps : steps.slice(0, first));
  const walked: Walked[] = [];
  for (const [i, step] of (first < 0 ? [] : steps.slice(first)).entries()) {
    // What leads into the first trainable segment needs no gradient: nothing below it learns.
    const needs = values.map(() => i > 0);
    const vjp = step.again ? null : engine.vjp(step.segment, values, needs);
    walked.push({ ...step, inputs: values, needs, vjp });
    values = vjp ? [...vjp.outputs] : engine.forward(step.segment, values);
  }

  const { loss, grad } = lossAndGradient(engine, chain, values[0]!, scale, walked.length > 0);
  // A weight that a segment further down uses too (tied embeddings) is not final yet.
  const passed = ({ parameters }: Segment) =>
    onFinal(parameters.filter((each) => !walked.some(({ segment }) => segment.parameters.includes(each))));
  passed(chain.loss.segment(0, 0));
  let grads: (Tensor | null)[] = [grad];
  for (let step = walked.pop(); step; step = walked.pop()) {
    const vjp = step.vjp ?? engine.vjp(step.segment, step.inputs, step.needs);
    const next = vjp.backward(grads);
    for (const each of grads) each?.dispose();
    // An input that only this segment kept alive: the output of one that runs again, which has no vjp to own it.
    if (walked.at(-1)?.again) for (const input of step.inputs) input.dispose();
    grads = next;
    passed(step.segment);
  }
  return loss;
}

const trains = ({ parameters }: Segment) => parameters.some((parameter) => parameter.trainable);

/** The summed loss and, where wanted, scale · its gradient [M, C], one chunk of labelled positions after the other. */
function lossAndGradient(engine: Engine, { loss: head }: Chain, hidden: Tensor, scale: number, needed: boolean) {
  const losses: Tensor[] = [];
  const grads: Tensor[] = [];
  for (const [from, to] of chunks(head)) {
    const vjp = engine.vjp(head.segment(from, to), [engine.slice(hidden, 0, from, to)], [needed]);
    losses.push(engine.scale(vjp.outputs[0]!, 1));
    const [grad] = vjp.backward([engine.full([], scale)]);
    if (grad) grads.push(grad);
  }
  const grad = grads.length > 1 ? engine.concat(grads, 0) : (grads[0] ?? null);
  if (grads.length > 1) for (const each of grads) each.dispose();
  return { loss: sum(engine, losses), grad };
}

/** The chain's summed loss, with nothing recorded: validation, and micro batches in which nothing trains. */
export function forwardOnly(engine: Engine, { input, segments, loss: head }: Chain): Tensor {
  const [hidden] = run(
    engine,
    input,
    segments.map((segment) => ({ segment, again: false })),
  );
  const losses = chunks(head).map(
    ([from, to]) => engine.forward(head.segment(from, to), [engine.slice(hidden!, 0, from, to)])[0]!,
  );
  return sum(engine, losses);
}

function chunks({ rows, chunk }: Chain['loss']): [number, number][] {
  const count = Math.ceil(rows / chunk);
  return Array.from({ length: count }, (_, i) => [i * chunk, Math.min((i + 1) * chunk, rows)]);
}

const sum = (engine: Engine, losses: readonly Tensor[]): Tensor =>
  losses.reduce((total, loss) => engine.add(total, loss));

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
