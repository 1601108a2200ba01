/**
 * neva's side of bench/step, with the protocol of hf_peer.py: a JSON specification as argument; a ready line; then one
 * optimizer step for every `step` on stdin, answered with {"seconds", "loss", "grad_norm"}; `quit` tells the peak memory.
 */
import { createInterface } from 'node:readline';
import type { Tensor } from '../../src/engine/engine.ts';
import { openEngine } from '../../src/engine/open.ts';
import { stepFlops } from '../../src/model/flops.ts';
import { type LabelledInput, NevaModel } from '../../src/model/neva.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import type { Recompute } from '../../src/train/recompute.ts';
import { forwardBackward } from '../../src/train/walk.ts';

export interface StepSpec {
  llm: { hidden: number; layers: number; heads: number; kv?: number; ffn: number; vocab: number };
  clip: { hidden: number; layers: number; heads: number; ffn: number; image: number; patch: number };
  batch: number;
  textTokens: number;
  labelFraction: number;
  /** `bfloat16` holds the weights in it, with float32 main weights (O2) for those that train. */
  dtype: 'float32' | 'bfloat16';
  stage: 'pretrain' | 'finetune';
  warmup: number;
  threads: number;
  accelerator?: 'cpu' | 'gpu';
  flash?: boolean;
  /** Each transformer block runs again in the backward pass. */
  recompute?: boolean;
  /** trainer.engine and trainer.tfjs_backend; torch where nothing is said. */
  engine?: 'torch' | 'tfjs';
  backend?: string;
}

const spec: StepSpec = JSON.parse(process.argv[2]!);
const engine = await openEngine({
  engine: spec.engine ?? 'torch',
  tfjs_backend: spec.backend ?? 'auto',
  accelerator: spec.accelerator ?? 'cpu',
  num_threads: spec.threads,
});
engine.seed(0);

const SHAPE = {
  llm: {
    numLayers: spec.llm.layers,
    hiddenSize: spec.llm.hidden,
    ffnHiddenSize: spec.llm.ffn,
    numAttentionHeads: spec.llm.heads,
    numQueryGroups: spec.llm.kv ?? spec.llm.heads,
    headDim: spec.llm.hidden / spec.llm.heads,
    vocabSize: spec.llm.vocab,
    normEpsilon: 1e-5,
    rotaryBase: 10000,
    maxPositions: 4096,
    tiedEmbeddings: false,
  },
  vision: {
    imageSize: spec.clip.image,
    patchSize: spec.clip.patch,
    hiddenSize: spec.clip.hidden,
    numLayers: spec.clip.layers,
    numAttentionHeads: spec.clip.heads,
    ffnHiddenSize: spec.clip.ffn,
    normEpsilon: 1e-5,
    selectLayer: -2,
    classTokenLength: 1,
  },
  projector: { type: 'mlp2x_gelu', inputSize: spec.clip.hidden, outputSize: spec.llm.hidden },
};
const options = { computeDtype: spec.dtype, attention: { flash: spec.flash ?? true } };
const model = new NevaModel(engine, SHAPE, options);
for (const { name, parameters } of model.parts) {
  const trains = name === 'projector' || (name === 'llm' && spec.stage === 'finetune');
  for (const parameter of parameters) {
    parameter.trainable = trains;
    if (spec.dtype === 'float32') continue;
    // As assemble.ts: a rounding of a float32 main weight where it trains, the rounding alone elsewhere.
    const first = parameter.value;
    parameter.value = engine.keep(engine.zeros(first.shape, spec.dtype));
    engine.round(parameter.value, first);
    if (trains) parameter.main = first;
    else first.dispose();
  }
}
const trainable = model.parameters.filter(({ trainable }) => trainable);
const optimizer = new Optimizer(engine, trainable, { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0, clip: 1 });

/** Every record: image features first, then text; the last `labelFraction` of the text is in the loss. */
function makeBatch(): LabelledInput {
  const patches = (spec.clip.image / spec.clip.patch) ** 2;
  const length = patches + spec.textTokens;
  const labels = Math.round(spec.textTokens * spec.labelFraction);
  const word = (i: number) => 3 + ((i * 7919) % (spec.llm.vocab - 4));
  const rows = (count: number, row: (b: number, i: number) => number) =>
    Int32Array.from({ length: spec.batch * count }, (_, k) => row(Math.floor(k / count), k % count));
  const ids = rows(length, (b, t) => (t < patches ? 0 : word(b * length + t)));
  const labelRows = rows(labels, (b, i) => b * length + length - labels - 1 + i);
  return {
    batch: spec.batch,
    length,
    ids,
    pixels: Float32Array.from({ length: spec.batch * 3 * spec.clip.image ** 2 }, (_, i) => Math.sin(i * 0.37)),
    imageCount: spec.batch,
    imageSize: spec.clip.image,
    imageRows: rows(patches, (b, p) => b * length + p),
    labelRows,
    labelTargets: labelRows.map((row) => ids[row + 1]!),
  };
}

const batch = makeBatch();
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
const flops = stepFlops(SHAPE as NevaShape, {
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
