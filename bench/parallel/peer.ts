/**
 * One rank of bench/parallel: a specification as argument, its place in the environment; then an optimizer step for every `step`
 * (gradients summed while backward goes on) or `after` (summed after it) on stdin, answered with its times.
 */
import { createInterface } from 'node:readline';
import type { Parameter } from '../../src/engine/engine.ts';
import { openEngine } from '../../src/engine/open.ts';
import { type GradientReduction, gradientReduction } from '../../src/parallel/data.ts';
import { readPlace } from '../../src/parallel/environment.ts';
import { ALONE, joinGroup } from '../../src/parallel/group.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { KEEP_ALL } from '../../src/train/recompute.ts';
import { ShardedOptimizer } from '../../src/train/sharded_optimizer.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { makeBatch, makeModel, type StepSpec } from '../step/model.ts';

export interface ParallelSpec extends StepSpec {
  /** Micro batches of a step, over all ranks. */
  microBatches: number;
  /** Bytes of a bucket. */
  bucket: number;
  sharded: boolean;
}

const spec: ParallelSpec = JSON.parse(process.argv[2]!);
const engine = await openEngine({
  engine: 'torch',
  tfjs_backend: 'auto',
  accelerator: 'cpu',
  num_threads: spec.threads,
});
const place = readPlace(process.env);
const group = place ? await joinGroup(place, 300, process.env) : ALONE;
engine.seed(0);
const model = makeModel(engine, spec);
const trainable = model.parameters.filter((parameter) => parameter.trainable);
const adam = { betas: [0.9, 0.95] as const, eps: 1e-8, weightDecay: 0, clip: 1 };
const batch = makeBatch(spec);
const own = spec.microBatches / group.size;
const tokens = spec.microBatches * batch.labelRows.length;

const open = (overlap: boolean) => {
  const buckets = { bytes: spec.bucket, overlap };
  if (spec.sharded && group.size > 1) return new ShardedOptimizer(engine, group, trainable, adam, buckets);
  return gradientReduction(engine, group, trainable, buckets);
};
const during = open(true);
// A sharded optimizer cannot be had twice; its messages after backward are those of plain buckets, which are twice as many bytes.
const after = spec.sharded ? null : open(false);
const optimizer = during instanceof ShardedOptimizer ? during : new Optimizer(engine, trainable, adam, group);
let steps = 0;

function step(reduction: GradientReduction) {
  const began = performance.now();
  let within = 0;
  const timed = (body: () => void) => {
    const at = performance.now();
    body();
    within += performance.now() - at;
  };
  const final = (parameters: readonly Parameter[]) => timed(() => reduction.final(parameters));
  let loss = 0;
  for (let i = 0; i < own; i++) {
    const value = engine.scope(() =>
      forwardBackward(engine, model.lossChain(batch), 1 / tokens, KEEP_ALL, i === own - 1 ? final : () => {}),
    );
    loss += engine.item(value) / tokens;
    value.dispose();
  }
  // A rank that is behind in computing is no message's time; the reduction would wait for it as long.
  const behind = performance.now();
  group.barrier('the others to end their backward pass');
  const skew = performance.now() - behind;
  const ended = within;
  timed(() => reduction.finish());
  timed(() => reduction.wait());
  steps += 1;
  const gradNorm = optimizer.step(steps, 1e-4);
  return {
    seconds: (performance.now() - began) / 1000,
    reduction_s: within / 1000,
    waited_s: (within - ended) / 1000,
    skew_s: skew / 1000,
    loss,
    grad_norm: gradNorm,
  };
}

const tell = (what: object) => process.stdout.write(`${JSON.stringify(what)}\n`);
for (let i = 0; i < spec.warmup; i++) step(i % 2 && after ? after : during);
tell({ ready: true });
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'step') tell(step(during));
  else if (line === 'after') tell(step(after ?? during));
  else break;
}
group.close();
tell({ peak_rss_bytes: process.resourceUsage().maxRSS * 1024 });
process.exit(0);
