/** Choosing the next token from its logits, in NeMo's order: temperature, repetition penalty, top-k, top-p, draw. */

export interface SamplingOptions {
  /** The likeliest token always; the rest is then not looked at. */
  greedy: boolean;
  temperature: number;
  /** 0 considers all. */
  topK: number;
  /** 1 considers all. */
  topP: number;
  repetitionPenalty: number;
}

/** Uniform draws in [0, 1), the same for the same seed (mulberry32). */
export function uniformDraws(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

export function argmax(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** Index of the chosen token among `logits` [V]; `seen` are the tokens written so far. */
export function chooseToken(
  logits: ArrayLike<number>,
  seen: Iterable<number>,
  options: SamplingOptions,
  draw: () => number,
): number {
  if (options.greedy || options.temperature === 0) return argmax(logits);
  const scores = Float64Array.from(logits, (value) => value / options.temperature);
  // As the CTRL paper means it: towards less likely, whatever the sign of the score.
  for (const id of new Set(seen)) {
    const score = scores[id]!;
    scores[id] = score > 0 ? score / options.repetitionPenalty : score * options.repetitionPenalty;
  }
  const order = Array.from(scores.keys()).sort((a, b) => scores[b]! - scores[a]!);
  const candidates = options.topK > 0 ? order.slice(0, options.topK) : order;
  const highest = scores[candidates[0]!]!;
  const weights = candidates.map((id) => Math.exp(scores[id]! - highest));
  const total = weights.reduce((sum, weight) => sum + weight, 0);

  // The fewest candidates that hold topP of the probability; at least one.
  let kept = 0;
  let mass = 0;
  do mass += weights[kept++]! / total;
  while (kept < candidates.length && mass < options.topP);

  let rest = draw() * mass;
  for (let i = 0; i < kept; i++) {
    rest -= weights[i]! / total;
    if (rest < 0) return candidates[i]!;
  }
  return candidates[kept - 1]!;
}
