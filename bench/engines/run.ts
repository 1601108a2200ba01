/**
 * One training step on the demo's shape with every engine that is here: torch, tfjs-node, plain JavaScript. Processes that
 * take turns, step by step, so that all see the same machine.
 *
 *     npm run build && node dist/bench/engines/run.js [--steps 10] [--tfjs-node FOLDER] [--threads 1]
 *
 * FOLDER is where test/tools/tfjs_node.sh built tfjs-node. Writes bench/results/DATE-engines.json.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/root.ts';
import { median, Peer } from '../peer.ts';
import type { StepSpec } from '../step/model.ts';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '10' },
    threads: { type: 'string', default: '1' },
    'tfjs-node': { type: 'string' },
  },
});

const SPEC: StepSpec = {
  llm: { hidden: 128, layers: 4, heads: 4, ffn: 384, vocab: 512 },
  clip: { hidden: 128, layers: 3, heads: 4, ffn: 256, image: 64, patch: 16 },
  batch: 8,
  textTokens: 32,
  labelFraction: 0.5,
  dtype: 'float32',
  stage: 'finetune',
  warmup: 2,
  threads: Number(flags.threads),
};

const program = join(import.meta.dirname, '../step/neva_peer.js');
const peer = (name: string, choice: Partial<StepSpec>, cwd?: string) =>
  new Peer(name, process.execPath, [program, JSON.stringify({ ...SPEC, ...choice })], cwd);

const peers = [
  peer('torch', { engine: 'torch' }),
  ...(flags['tfjs-node'] ? [peer('tfjs-node', { engine: 'tfjs', backend: 'node' }, flags['tfjs-node'])] : []),
  peer('plain JavaScript', { engine: 'tfjs', backend: 'cpu' }),
];
for (const each of peers) await each.answer();
const seconds: number[][] = peers.map(() => []);
for (let step = 0; step < Number(flags.steps); step++) {
  for (const [i, each] of peers.entries()) seconds[i]!.push((await each.ask('step')).seconds);
}

const tokens = SPEC.batch * ((SPEC.clip.image / SPEC.clip.patch) ** 2 + SPEC.textTokens);
const results = [];
for (const [i, each] of peers.entries()) {
  const { peak_rss_bytes } = await each.ask('quit');
  const result = {
    engine: each.name,
    median_s: median(seconds[i]!),
    min_s: Math.min(...seconds[i]!),
    max_s: Math.max(...seconds[i]!),
    tokens_per_s: tokens / median(seconds[i]!),
    peak_rss_mb: Math.round(peak_rss_bytes / 2 ** 20),
  };
  results.push(result);
  console.log(
    `${each.name.padEnd(18)} ${result.median_s.toFixed(3)} s a step, ${result.tokens_per_s.toFixed(0)} tokens/s, ${result.peak_rss_mb} MB`,
  );
}

const date = new Date().toISOString().slice(0, 10);
const out = join(packageRoot, 'bench/results', `${date}-engines.json`);
mkdirSync(join(packageRoot, 'bench/results'), { recursive: true });
const machine = { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version };
writeFileSync(out, `${JSON.stringify({ date, machine, spec: SPEC, steps: Number(flags.steps), results }, null, 2)}\n`);
console.log(`written to ${out}`);
