/**
 * neva's side of bench/step, with the protocol of hf_peer.py: a JSON specification as argument; a ready line; then one
 * optimizer step for every `step` on stdin, answered with {"seconds", "loss", "grad_norm"}; `quit` tells the peak memory.
 */
import { createInterface } from 'node:readline';
import type { Tensor } from '../../src/engine/engine.ts';
import { openEngine } from '../../src/engine/open.ts';
import { stepFlops } from '../../src/model/flops.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import type { Recompute } from '../../src/train/recompute.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { makeBatch, makeModel, type StepSpec, shapeOf } from './model.ts';

const spec: StepSpec = JSON.parse(process.argv[2]!);
const engine = await openEngine({
  engine: spec.engine ?? 'torch',
  tfjs_backend: spec.backend ?? 'auto',
  accelerator: spec.accelerator ?? 'cpu',
  num_threads: spec.threads,
});
engine.seed(0);

const model = makeModel(engine, spec);
const trainable = model.parameters.filter(({ trainable }) => trainable);
const optimizer = new Optimizer(engine, trainable, { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 });

const batch = makeBatch(spec);
const recompute: Recompute = { granularity: spec.recompute ? 'full' : null, method: 'uniform', layers: 1 };

/** FLOP/s of a product [N, N] · [N, N] through the engine: the better of warm runs, N = `size`. */
function matmulRate(size: number): { flops_per_s: number } {
  const [a, b] = [0, 1].map(() => engine.keep(engine.normal([size, size], 0, 1, spec.dtype))) as [Tensor, Tensor];
  const seconds = Array.from({ length: 6 }, () => {
    const began = performance.now();
    engine.scope(() => {
      engine.read(engine.slice(engine.linear(a, b), 0, 0, 1)); // waits for the device
    });
    return (performance.now() - began) / 1000;
  });
  a.dispose();
  b.dispose();
  return { flops_per_s: (2 * size ** 3) / Math.min(...seconds.slice(1)) };
}

/** Operations that the step cannot do without. */
const flops = stepFlops(shapeOf(spec) as NevaShape, {
  lengths: Array.from({ length: batch.batch }, () => batch.length),
  images: batch.imageCount,
  labelTokens: batch.labelRows.length,
  trains: { llm: spec.stage === 'finetune', projector: true, vision: false },
});
let steps = 0;

function step() {
  const started = performance.now();
  const loss = engine.scope(() =>
    forwardBackward(engine, model.lossChain(batch), 1 / batch.labelRows.length, recompute),
  );
  const value = engine.item(loss) / batch.labelRows.length;
  loss.dispose();
  steps += 1;
  const gradNorm = optimizer.step(steps, 1e-4);
  return { seconds: (performance.now() - started) / 1000, loss: value, grad_norm: gradNorm };
}

const tell = (what: object) => process.stdout.write(`${JSON.stringify(what)}\n`);
for (let i = 0; i < spec.warmup; i++) step();
tell({ ready: true, live_tensors: engine.memory().tensors, flops, device: engine.device });
for await (const line of createInterface({ input: process.stdin })) {
  if (line === 'step') tell(step());
  if (line.startsWith('matmul')) tell(matmulRate(Number(line.split(' ')[1])));
  if (line === 'quit') break;
}
tell({ peak_rss_bytes: process.resourceUsage().maxRSS * 1024, peak_tensor_bytes: engine.memory().peakBytes });
process.exit(0);
