/**
 * The walk: forward through a chain of segments keeping one vjp each, backward through them in reverse. A frozen
 * beginning is run without recording; a segment's activations are freed the moment the walk has passed it.
 */
import type { Engine, Tensor, Vjp } from '../engine/engine.ts';
import type { Chain } from '../model/neva.ts';

/**
 * Adds the gradients of `scale` · (the chain's scalar output) to `Parameter.grad` of every trainable parameter on it.
 * Returns the output itself, unscaled.
 */
export function forwardBackward(engine: Engine, { input, segments }: Chain, scale: number): Tensor {
  const trains = (i: number) => segments[i]!.parameters.some((parameter) => parameter.trainable);
  const first = segments.findIndex((_, i) => trains(i));
  if (first < 0) return forwardOnly(engine, { input, segments });

  let values = run(engine, { input, segments: segments.slice(0, first) });
  const walked: Vjp[] = [];
  for (let i = first; i < segments.length; i++) {
    // What leads into the first trainable segment needs no gradient: nothing below it learns.
    const vjp = engine.vjp(
      segments[i]!,
      values,
      values.map(() => i > first),
    );
    walked.push(vjp);
    values = [...vjp.outputs];
  }

  const loss = engine.scale(values[0]!, 1);
  let grads: (Tensor | null)[] = [engine.full([], scale)];
  for (let vjp = walked.pop(); vjp; vjp = walked.pop()) {
    const next = vjp.backward(grads);
    for (const grad of grads) grad?.dispose();
    grads = next;
  }
  return loss;
}

/** The chain's output, with nothing recorded: validation, and micro batches in which nothing trains. */
export function forwardOnly(engine: Engine, chain: Chain): Tensor {
  return run(engine, chain)[0]!;
}

/** Runs segments one after the other, freeing each one's input when it is done with. */
function run(engine: Engine, { input, segments }: Chain): Tensor[] {
  let values: Tensor[] = [...input];
  for (const segment of segments) {
    const next = engine.forward(segment, values);
    for (const value of values) if (!next.includes(value)) value.dispose();
    values = next;
  }
  return values;
}
