/**
 * How a finetune step's time grows with layers, batch and sequence length: exponents fitted to medians. Linear is 1; a constant
 * share (embedding, head) brings it below, attention's own term above.
 *
 *     npm run build && node dist/bench/scaling/run.js [--steps 7] [--hidden 256] [--dtype float32] [--out FILE]
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { median, Peer } from '../peer.ts';
import { exponent, writeResult } from '../results.ts';
import type { StepSpec } from '../step/model.ts';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '7' },
    hidden: { type: 'string', default: '256' },
    layers: { type: 'string', default: '2,4,8,16' },
    batches: { type: 'string', default: '1,2,4,8' },
    texts: { type: 'string', default: '192,448,960,1984' },
    dtype: { type: 'string', default: 'float32' },
    threads: { type: 'string', default: '2' },
    out: { type: 'string' },
  },
});
const C = Number(flags.hidden);
const BASE: StepSpec = {
  llm: { hidden: C, layers: 4, heads: C / 64, ffn: 4 * C, vocab: 2048 },
  clip: { hidden: 64, layers: 2, heads: 2, ffn: 128, image: 112, patch: 14 }, // 64 positions
  batch: 2,
  textTokens: 448,
  labelFraction: 0.5,
  dtype: flags.dtype as StepSpec['dtype'],
  stage: 'finetune',
  warmup: 2,
  threads: Number(flags.threads),
};

async function seconds(spec: StepSpec): Promise<number> {
  const peer = new Peer('neva', process.execPath, [
    join(import.meta.dirname, '../step/neva_peer.js'),
    JSON.stringify(spec),
  ]);
  await peer.answer();
  const all: number[] = [];
  for (let i = 0; i < Number(flags.steps); i++) all.push((await peer.ask('step')).seconds);
  await peer.ask('quit');
  return median(all);
}

const numbers = (text: string) => text.split(',').map(Number);
const SWEEPS: readonly (readonly [string, number[], (value: number) => StepSpec, (value: number) => number])[] = [
  ['layers', numbers(flags.layers), (layers) => ({ ...BASE, llm: { ...BASE.llm, layers } }), (value) => value],
  ['batch', numbers(flags.batches), (batch) => ({ ...BASE, batch }), (value) => value],
  ['sequence', numbers(flags.texts), (textTokens) => ({ ...BASE, textTokens }), (value) => value + 64],
];
const results = [];
for (const [name, values, specOf, x] of SWEEPS) {
  const points: [number, number][] = [];
  for (const value of values) points.push([x(value), await seconds(specOf(value))]);
  const fitted = exponent(points);
  results.push({ name, points, exponent: fitted });
  console.log(
    `${name}: time ∝ ${name}^${fitted.toFixed(2)}  ${points.map(([at, s]) => `${at}: ${s.toFixed(3)} s`).join(', ')}`,
  );
}
writeResult('scaling', { base: BASE, results }, flags.out);
