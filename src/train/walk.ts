/**
 * The walk: forward through a chain of segments keeping one vjp each, backward through them in reverse. A frozen
 * beginning is run without recording; a segment's activations are freed the moment the walk has passed it; a segment that is
 * to be run again keeps its input instead of a vjp. A pipeline stage walks its run of segments, and other micro batches
 * between the two ways (accumulate.ts).
 */
import type { Engine, Parameter, Segment, Tensor, Vjp } from '../engine/engine.ts';
import type { Chain, LossHead } from '../model/neva.ts';
import { KEEP_ALL, planWalk, type Recompute, type Step } from './recompute.ts';

/** A segment that was walked forward: what its backward pass starts from. */
export interface Walked extends Step {
  inputs: readonly Tensor[];
  needs: readonly boolean[];
  /** Null where it is made again in the backward pass. */
  vjp: Vjp | null;
}

/** A chain that was walked forward, and waits for its way back. */
export interface HalfWay {
  /** Of the last segment: hidden states for the loss, or for the next pipeline stage. */
  output: Tensor;
  /** What is to be walked back; empty where nothing learns. */
  walked: Walked[];
}

/** Told of parameters that a walk will add nothing more to, while it still goes on below them. */
export type OnFinal = (parameters: readonly Parameter[]) => void;

/**
 * Adds the gradients of `scale` · (the chain's summed loss) to `Parameter.grad` of every trainable parameter on it.
 * Returns the loss itself, unscaled: a float32 scalar.
 */
export function forwardBackward(
  engine: Engine,
  chain: Chain,
  scale: number,
  recompute: Recompute = KEEP_ALL,
  onFinal: OnFinal = () => {},
): Tensor {
  const half = walkForward(engine, chain, recompute);
  const { loss, grad } = lossAndGradient(engine, chain, half, scale, onFinal);
  walkBackward(engine, half, grad, onFinal);
  return loss;
}

/** @param below whether something learns below the chain, which is a later stage then: its input needs a gradient */
export function walkForward(engine: Engine, chain: Chain, recompute: Recompute, below = false): HalfWay {
  const steps = planWalk(chain, recompute);
  const first = below ? 0 : steps.findIndex(({ segment }) => trains(segment));
  let values = run(engine, chain.input, first < 0 ? steps : steps.slice(0, first));
  const walked: Walked[] = [];
  for (const [i, step] of (first < 0 ? [] : steps.slice(first)).entries()) {
    // What leads into the first trainable segment needs no gradient: nothing below it learns.
    const needs = values.map(() => below || i > 0);
    const vjp = step.again ? null : engine.vjp(step.segment, values, needs);
    walked.push({ ...step, inputs: values, needs, vjp });
    values = vjp ? [...vjp.outputs] : engine.forward(step.segment, values);
  }
  return { output: values[0]!, walked };
}

/** Takes the gradient of the output, and gives that of the chain's input, where one is wanted. */
export function walkBackward(
  engine: Engine,
  { walked }: HalfWay,
  grad: Tensor | null,
  onFinal: OnFinal,
): Tensor | null {
  let grads: (Tensor | null)[] = [grad];
  for (let step = walked.pop(); step; step = walked.pop()) {
    const vjp = step.vjp ?? engine.vjp(step.segment, step.inputs, step.needs);
    const next = vjp.backward(grads);
    for (const each of grads) each?.dispose();
    // An input that only this segment kept alive: the output of one that runs again, which has no vjp to own it.
    if (walked.at(-1)?.again) for (const input of step.inputs) input.dispose();
    grads = next;
    tell(step.segment, walked, onFinal);
  }
  return grads[0] ?? null;
}

/** A weight that a segment further down uses too (tied embeddings) is not final yet. */
function tell({ parameters }: Segment, walked: readonly Walked[], onFinal: OnFinal): void {
  onFinal(parameters.filter((each) => !walked.some(({ segment }) => segment.parameters.includes(each))));
}

const trains = ({ parameters }: Segment) => parameters.some((parameter) => parameter.trainable);

/**
 * The summed loss of a chain that was walked forward to its end and, where something learns, scale · its gradient [M, C],
 * one chunk of labelled positions after the other.
 */
export function lossAndGradient(
  engine: Engine,
  chain: Chain,
  { output, walked }: HalfWay,
  scale: number,
  onFinal: OnFinal,
): { loss: Tensor; grad: Tensor | null } {
  const head = headOf(chain);
  const needed = walked.length > 0;
  if (!needed && !trains(head.segment(0, 0))) return { loss: lossOf(engine, head, output), grad: null };
  const losses: Tensor[] = [];
  const grads: Tensor[] = [];
  for (const [from, to] of chunks(head)) {
    const vjp = engine.vjp(head.segment(from, to), [engine.slice(output, 0, from, to)], [needed]);
    losses.push(engine.scale(vjp.outputs[0]!, 1));
    const [grad] = vjp.backward([engine.full([], scale)]);
    if (grad) grads.push(grad);
  }
  const grad = grads.length > 1 ? engine.concat(grads, 0) : (grads[0] ?? null);
  if (grads.length > 1) for (const each of grads) each.dispose();
  tell(head.segment(0, 0), walked, onFinal);
  return { loss: sum(engine, losses), grad };
}

/** What a stage gives with nothing recorded: the chain's summed loss, or hidden states for the next stage. */
export function forwardOnly(engine: Engine, { input, segments, loss }: Chain): Tensor {
  const [hidden] = run(
    engine,
    input,
    segments.map((segment) => ({ segment, again: false })),
  );
  return loss ? lossOf(engine, loss, hidden!) : hidden!;
}

function lossOf(engine: Engine, head: LossHead, hidden: Tensor): Tensor {
  const losses = chunks(head).map(
    ([from, to]) => engine.forward(head.segment(from, to), [engine.slice(hidden, 0, from, to)])[0]!,
  );
  return sum(engine, losses);
}

function headOf({ loss }: Chain): LossHead {
  if (!loss) throw new Error('the loss is made on the last stage');
  return loss;
}

function chunks({ rows, chunk }: LossHead): [number, number][] {
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
