/**
 * Tokens/s and peak memory of neva's training step beside the Hugging Face + PyTorch loop on the same shapes: two
 * processes that take turns, step by step, so that both see the same machine.
 *
 *     npm run build && node dist/bench/step/run.js [--steps 12] [--stage pretrain|finetune] [--out FILE]
 *
 * Needs torch and transformers in the python3 on PATH. Writes bench/results/DATE-step.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/root.ts';
import { median, Peer } from '../peer.ts';
import type { StepSpec } from './neva_peer.ts';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '12' },
    stage: { type: 'string' },
    threads: { type: 'string', default: '2' },
    labels: { type: 'string', default: '0.5' },
    out: { type: 'string' },
  },
});

const SPEC: Omit<StepSpec, 'stage'> = {
  llm: { hidden: 512, layers: 8, heads: 8, ffn: 1376, vocab: 32000 },
  clip: { hidden: 256, layers: 6, heads: 4, ffn: 1024, image: 224, patch: 14 },
  batch: 2,
  textTokens: 128,
  labelFraction: Number(flags.labels),
  dtype: 'float32',
  warmup: 3,
  threads: Number(flags.threads),
};

async function compare(stage: StepSpec['stage']) {
  const spec = JSON.stringify({ ...SPEC, stage });
  const peers = [
    new Peer('neva', process.execPath, [join(import.meta.dirname, 'neva_peer.js'), spec]),
    new Peer('transformers', 'python3', [join(packageRoot, 'bench/step/hf_peer.py'), spec]),
  ];
  for (const peer of peers) await peer.answer();
  const seconds: number[][] = [[], []];
  for (let step = 0; step < Number(flags.steps); step++) {
    for (const [i, peer] of peers.entries()) seconds[i]!.push((await peer.ask('step')).seconds);
  }
  const memory: number[] = [];
  for (const peer of peers) memory.push((await peer.ask('quit')).peak_rss_bytes);
  const tokens = SPEC.batch * ((SPEC.clip.image / SPEC.clip.patch) ** 2 + SPEC.textTokens);
  const figures = (i: number) => ({
    median_s: median(seconds[i]!),
    min_s: Math.min(...seconds[i]!),
    max_s: Math.max(...seconds[i]!),
    tokens_per_s: tokens / median(seconds[i]!),
    peak_rss_mb: Math.round(memory[i]! / 2 ** 20),
  });
  return {
    stage,
    neva: figures(0),
    transformers: figures(1),
    speed_ratio: median(seconds[1]!.map((other, i) => other / seconds[0]![i]!)),
    memory_ratio: memory[0]! / memory[1]!,
  };
}

const stages = flags.stage ? [flags.stage as StepSpec['stage']] : (['pretrain', 'finetune'] as const);
const results = [];
for (const stage of stages) {
  const result = await compare(stage);
  results.push(result);
  console.log(
    `${stage}: neva ${result.neva.tokens_per_s.toFixed(0)} tokens/s, ${result.neva.peak_rss_mb} MB; ` +
      `transformers ${result.transformers.tokens_per_s.toFixed(0)} tokens/s, ${result.transformers.peak_rss_mb} MB; ` +
      `speed ×${result.speed_ratio.toFixed(2)}, memory ×${result.memory_ratio.toFixed(2)}`,
  );
}

const date = new Date().toISOString().slice(0, 10);
const out = flags.out ?? join(packageRoot, 'bench/results', `${date}-step.json`);
mkdirSync(dirname(out), { recursive: true });
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version };
writeFileSync(out, `${JSON.stringify({ date, machine, spec: SPEC, steps: Number(flags.steps), results }, null, 2)}\n`);
console.log(`written to ${out}`);
