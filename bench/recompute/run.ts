/**
 * Activation memory and time of the language model's blocks under model.activations_checkpoint_*: everything kept, `selective` (scores
 * written out are computed again), `full`. What blocks cost is the difference between twice as many and as many, so that embedding,
 * head and allocations of the first step drop out. The bound that `full` is held against: an input a block, and what one block takes by
 * itself, forward and backward.
 *
 *     npm run build && node dist/bench/recompute/run.js [--hidden 512] [--layers 8] [--length 1024] [--steps 5] [--dtype float32] [--out FILE]
 */
import { parseArgs } from 'node:util';
import type { DType } from '../../src/engine/engine.ts';
import { openEngine } from '../../src/engine/open.ts';
import { NevaModel } from '../../src/model/neva.ts';
import { KEEP_ALL, type Recompute } from '../../src/train/recompute.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { median } from '../peer.ts';
import { writeResult } from '../results.ts';
import { shapeOf } from '../step/model.ts';

const { values: flags } = parseArgs({
  options: {
    hidden: { type: 'string', default: '512' },
    layers: { type: 'string', default: '8' },
    length: { type: 'string', default: '1024' },
    batch: { type: 'string', default: '2' },
    steps: { type: 'string', default: '5' },
    threads: { type: 'string', default: '2' },
    dtype: { type: 'string', default: 'float32' },
    out: { type: 'string' },
  },
});
const [C, L, T, B] = [flags.hidden, flags.layers, flags.length, flags.batch].map(Number) as [
  number,
  number,
  number,
  number,
];
const dtype = flags.dtype as DType;
const engine = await openEngine({
  engine: 'torch',
  tfjs_backend: 'auto',
  accelerator: 'cpu',
  num_threads: Number(flags.threads),
});

const FULL = { granularity: 'full', method: 'uniform', layers: 1 } as const;
/** Name, flash attention, attention's own recomputation, the walk's. */
const FORMS: readonly (readonly [string, flash: boolean, selective: boolean, Recompute])[] = [
  ['flash, everything kept', true, false, KEEP_ALL],
  ['flash, full', true, false, FULL],
  ['flash, full in runs of two', true, false, { ...FULL, layers: 2 }],
  ['flash, full for half of the blocks', true, false, { ...FULL, method: 'block', layers: L / 2 }],
  ['scores, everything kept', false, false, KEEP_ALL],
  ['scores, selective', false, true, KEEP_ALL],
];

/** Not run: there are no pictures. */
const CLIP = { hidden: 32, layers: 1, heads: 2, ffn: 64, image: 28, patch: 14 };
const VOCABULARY = 1024;

function open(layers: number, flash: boolean, selective: boolean, recompute: Recompute) {
  const ffn = Math.round((8 * C) / 3 / 32) * 32;
  const shape = shapeOf({ llm: { hidden: C, layers, heads: C / 64, ffn, vocab: VOCABULARY }, clip: CLIP });
  const model = new NevaModel(engine, shape, { computeDtype: dtype, attention: { flash, recompute: selective } });
  for (const { name, parameters } of model.parts) {
    for (const parameter of parameters) {
      parameter.trainable = name === 'llm';
      if (dtype === 'float32') continue;
      const first = parameter.value;
      parameter.value = engine.keep(engine.cast(first, dtype));
      first.dispose();
    }
  }
  const M = 16; // labelled positions: the head is small beside the blocks
  const ids = Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % VOCABULARY);
  const labelRows = Int32Array.from({ length: B * M }, (_, i) => Math.floor(i / M) * T + T - M - 1 + (i % M));
  const input = {
    ...{
      batch: B,
      length: T,
      ids,
      pixels: new Float32Array(),
      imageCount: 0,
      imageSize: 28,
      imageRows: new Int32Array(),
    },
    ...{ labelRows, labelTargets: labelRows.map((row) => ids[row + 1]!) },
  };
  const step = () => {
    const before = engine.memory().bytes;
    engine.resetPeakMemory();
    const began = performance.now();
    engine.scope(() => void forwardBackward(engine, model.lossChain(input), 1, recompute));
    return { seconds: (performance.now() - began) / 1000, bytes: engine.memory().peakBytes - before };
  };
  /** Bytes of the first block's forward and backward pass beyond its input. */
  const block = () =>
    engine.scope(() => {
      const { segments, blocks, input: first } = model.lossChain(input);
      const { first: at } = blocks.at(-1)!;
      const hidden = segments.slice(0, at).reduce((x, segment) => engine.forward(segment, x), first);
      const before = engine.memory().bytes;
      engine.resetPeakMemory();
      engine.vjp(segments[at]!, hidden, [true]).backward([engine.full(hidden[0]!.shape, 1, dtype)]);
      return engine.memory().peakBytes - before;
    });
  step(); // gradients and rotary tables are there from now on
  const dispose = () => {
    for (const { value, grad } of model.parameters) for (const each of [value, grad]) each?.dispose();
  };
  return { step, block, dispose };
}

/** Bytes of a step beyond weights and gradients. */
function bytesOf(layers: number, [, flash, selective, recompute]: (typeof FORMS)[number]): number {
  const { step, dispose } = open(layers, flash, selective, recompute);
  const { bytes } = step();
  dispose();
  return bytes;
}

const width = dtype === 'float32' ? 4 : 2;
const input = B * T * C * width;
const memory = FORMS.map((form) => {
  const [half, whole] = [bytesOf(L / 2, form), bytesOf(L, form)];
  return { form: form[0], whole, perBlock: (whole - half) / (L / 2) };
});
const rest = memory[0]!.whole - L * memory[0]!.perBlock;
const alone = open(L, true, false, KEEP_ALL);
const bound = L * input + alone.block();
alone.dispose();

// Times: the forms take turns.
const opened = FORMS.map(([, ...options]) => open(L, ...options));
const seconds: number[][] = FORMS.map(() => []);
for (let i = 0; i < Number(flags.steps); i++) {
  for (const [k, { step }] of opened.entries()) seconds[k]!.push(step().seconds);
}
const results = memory.map(({ form, whole, perBlock }, k) => {
  const base = form.startsWith('flash') ? 0 : FORMS.findIndex(([name]) => name.startsWith('scores'));
  return {
    form,
    activations_mb: (whole - rest) / 2 ** 20,
    mb_per_block: perBlock / 2 ** 20,
    memory_over_bound: (whole - rest) / bound,
    median_s: median(seconds[k]!),
    time_over_keeping: median(seconds[k]!.map((value, i) => value / seconds[base]![i]!)),
  };
});
for (const { form, activations_mb, memory_over_bound, median_s, time_over_keeping } of results) {
  console.log(
    `${form.padEnd(36)} ${activations_mb.toFixed(0).padStart(6)} MB (×${memory_over_bound.toFixed(2)} of the bound)  ` +
      `${median_s.toFixed(3)} s (×${time_over_keeping.toFixed(2)})`,
  );
}
writeResult(
  'recompute',
  { hidden: C, layers: L, length: T, batch: B, dtype, bound_mb: bound / 2 ** 20, results },
  flags.out,
);
