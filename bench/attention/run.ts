/**
 * Time and peak memory of attention, forward and backward, against sequence length: LibTorch's flash kernels, scores written out,
 * and those computed again in backward (activations_checkpoint_granularity=selective), each also for records packed in a row.
 *
 *     npm run build && node dist/bench/attention/run.js [--lengths 512,1024,2048,4096,8192] [--heads 4] [--dtype float32]
 *         [--forms flash,plain,selective,'flash packed'] [--out FILE]
 */
import { parseArgs } from 'node:util';
import type { AttentionOptions, DType, Engine } from '../../src/engine/engine.ts';
import { openEngine } from '../../src/engine/open.ts';
import { median } from '../peer.ts';
import { exponent, writeResult } from '../results.ts';

const { values: flags } = parseArgs({
  options: {
    lengths: { type: 'string', default: '512,1024,2048,4096,8192' },
    heads: { type: 'string', default: '4' },
    dtype: { type: 'string', default: 'float32' },
    repeats: { type: 'string', default: '3' },
    threads: { type: 'string', default: '2' },
    accelerator: { type: 'string', default: 'cpu' },
    forms: { type: 'string' },
    out: { type: 'string' },
  },
});

const HEAD_DIM = 64;
const RECORDS = 8; // of a packed row
const FORMS: readonly (readonly [string, Omit<AttentionOptions, 'causal'>, packed: boolean])[] = [
  ['flash', {}, false],
  ['plain', { flash: false }, false],
  ['selective', { flash: false, recompute: true }, false],
  ['flash packed', {}, true],
];

const engine: Engine = await openEngine({
  engine: 'torch',
  tfjs_backend: 'auto',
  accelerator: flags.accelerator,
  num_threads: Number(flags.threads),
});
const lengths = flags.lengths.split(',').map(Number);

/** Seconds and bytes beyond the inputs of one forward and backward pass; `kept`: what waits between the two. */
function measure(length: number, options: AttentionOptions) {
  const shape = [1, Number(flags.heads), length, HEAD_DIM];
  const inputs = [0, 1, 2].map(() => engine.keep(engine.normal(shape, 0, 1, flags.dtype as DType)));
  const gradient = engine.keep(engine.normal(shape, 0, 1, flags.dtype as DType));
  const seconds: number[] = [];
  let [peak, kept] = [0, 0];
  for (let i = 0; i <= Number(flags.repeats); i++) {
    const before = engine.memory().bytes;
    engine.resetPeakMemory();
    const began = performance.now();
    engine.scope(() => {
      const segment = {
        name: 'attention',
        parameters: [],
        forward: (x: readonly (typeof gradient)[]) => [engine.attention(x[0]!, x[1]!, x[2]!, options)],
      };
      const vjp = engine.vjp(segment, inputs, [true, true, true]);
      kept = engine.memory().bytes - before;
      const grads = vjp.backward([gradient]);
      engine.read(engine.slice(grads[0]!, 2, 0, 1));
    });
    if (i > 0) seconds.push((performance.now() - began) / 1000); // the first is warm-up
    peak = engine.memory().peakBytes - before;
  }
  for (const tensor of [...inputs, gradient]) tensor.dispose();
  return { seconds: median(seconds), kept_mb: kept / 2 ** 20, peak_mb: peak / 2 ** 20 };
}

const results = [];
for (const [name, options, packed] of FORMS) {
  if (flags.forms && !flags.forms.split(',').includes(name)) continue;
  const rows = lengths.map((length) => {
    const records = packed ? { lengths: Array.from({ length: RECORDS }, () => length / RECORDS) } : {};
    const figures = measure(length, { causal: true, ...options, ...records });
    console.log(
      `${name.padEnd(13)} ${String(length).padStart(6)}  ${figures.seconds.toFixed(4)} s  kept ${figures.kept_mb.toFixed(1)} MB  peak ${figures.peak_mb.toFixed(1)} MB`,
    );
    return { length, ...figures };
  });
  const fitted = (key: 'seconds' | 'kept_mb' | 'peak_mb') => exponent(rows.map((row) => [row.length, row[key]]));
  results.push({
    form: name,
    rows,
    exponents: { seconds: fitted('seconds'), kept: fitted('kept_mb'), peak: fitted('peak_mb') },
  });
}
for (const { form, exponents } of results)
  console.log(
    `${form}: memory kept ∝ T^${exponents.kept.toFixed(2)}, peak ∝ T^${exponents.peak.toFixed(2)}, time ∝ T^${exponents.seconds.toFixed(2)}`,
  );
const { heads, dtype, threads } = flags;
writeResult('attention', { device: engine.device, heads, head_dim: HEAD_DIM, dtype, threads, results }, flags.out);
