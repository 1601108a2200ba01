/**
 * Data parallelism on this machine: 1, 2 and 4 ranks share the same global batch and the same cores, step by step in turns.
 *
 *     npm run build && node dist/bench/parallel/run.js [--steps 12] [--ranks 1,2,4] [--bucket-mb 125] [--text 384] [--batch 2]
 *         [--dtype float32|bfloat16] [--stage pretrain|finetune] [--tiny] [--out FILE]
 *
 * For each number of ranks, with `fused_adam` and with `distributed_fused_adam`: tokens/s beside the single process; the share of a step
 * that a rank spends in the reduction's calls (copying, starting, waiting); and the overlap, 1 − (time waited after backward) / (the
 * same where messages start after backward), medians of steps that take turns. Writes bench/results/DATE-parallel.json.
 */

import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { freePort } from '../../src/parallel/launch.ts';
import { type Answer, median, Peer } from '../peer.ts';
import { writeResult } from '../results.ts';
import type { ParallelSpec } from './peer.ts';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '12' },
    ranks: { type: 'string', default: '1,2,4' },
    'bucket-mb': { type: 'string', default: '125' },
    text: { type: 'string', default: '384' },
    batch: { type: 'string', default: '2' },
    dtype: { type: 'string', default: 'float32' },
    stage: { type: 'string', default: 'finetune' },
    tiny: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});

const cores = availableParallelism();
const counts = flags.ranks.split(',').map(Number);
const most = Math.max(...counts);
const BASE: Omit<ParallelSpec, 'threads' | 'sharded'> = {
  llm: flags.tiny
    ? { hidden: 64, layers: 2, heads: 4, ffn: 128, vocab: 256 }
    : { hidden: 512, layers: 8, heads: 8, ffn: 1376, vocab: 8192 },
  clip: flags.tiny
    ? { hidden: 32, layers: 2, heads: 2, ffn: 64, image: 56, patch: 14 }
    : { hidden: 256, layers: 4, heads: 4, ffn: 1024, image: 224, patch: 14 },
  batch: Number(flags.batch),
  textTokens: flags.tiny ? 24 : Number(flags.text),
  labelFraction: 0.5,
  dtype: flags.dtype as ParallelSpec['dtype'],
  stage: flags.stage as ParallelSpec['stage'],
  warmup: 2,
  microBatches: most,
  bucket: Number(flags['bucket-mb']) * 1e6,
};

interface Runner {
  name: string;
  ranks: number;
  sharded: boolean;
  peers: Peer[];
  overlapped: Answer[];
  afterwards: Answer[];
}

async function start(ranks: number, sharded: boolean): Promise<Runner> {
  const port = await freePort();
  const threads = Math.max(1, Math.floor(cores / ranks));
  const spec: ParallelSpec = { ...BASE, threads, sharded };
  const name = `${ranks} ${ranks === 1 ? 'process' : 'ranks'}${sharded ? ', sharded' : ''}`;
  const peers = Array.from({ length: ranks }, (_, rank) => {
    const place = { RANK: rank, LOCAL_RANK: rank, WORLD_SIZE: ranks, LOCAL_WORLD_SIZE: ranks, MASTER_PORT: port };
    const variables = Object.fromEntries(Object.entries(place).map(([key, value]) => [key, String(value)]));
    const env = { ...process.env, OMP_NUM_THREADS: String(threads), MASTER_ADDR: '127.0.0.1', ...variables };
    const args = [join(import.meta.dirname, 'peer.js'), JSON.stringify(spec)];
    return new Peer(`${name}, rank ${rank}`, process.execPath, args, process.cwd(), env);
  });
  for (const answer of peers.map((peer) => peer.answer())) await answer;
  return { name, ranks, sharded, peers, overlapped: [], afterwards: [] };
}

/** A step takes as long as its slowest rank. */
async function step({ peers }: Runner, word: 'step' | 'after'): Promise<Answer> {
  const answers = await Promise.all(peers.map((peer) => peer.ask(word)));
  return answers.reduce((slowest, each) => (each.seconds > slowest.seconds ? each : slowest));
}

const runners: Runner[] = [];
for (const ranks of counts)
  for (const sharded of ranks === 1 ? [false] : [false, true]) runners.push(await start(ranks, sharded));
for (let i = 0; i < Number(flags.steps); i++) {
  for (const runner of runners) {
    runner.overlapped.push(await step(runner, 'step'));
    if (runner.ranks > 1 && !runner.sharded) runner.afterwards.push(await step(runner, 'after'));
  }
}
for (const { peers } of runners) await Promise.all(peers.map((peer) => peer.ask('quit')));

const positions = BASE.batch * (BASE.textTokens + (BASE.clip.image / BASE.clip.patch) ** 2) * BASE.microBatches;
const of = (answers: readonly Answer[], key: 'seconds' | 'reduction_s' | 'waited_s' | 'skew_s') =>
  median(answers.map((each) => each[key]!));
const alone = runners.find(({ ranks }) => ranks === 1);
const figures = runners.map(({ name, ranks, sharded, overlapped, afterwards }) => {
  const seconds = of(overlapped, 'seconds');
  const whole = afterwards.length > 0 ? of(afterwards, 'waited_s') : null;
  return {
    name,
    ranks,
    sharded,
    threads_each: Math.max(1, Math.floor(cores / ranks)),
    median_s: seconds,
    tokens_per_s: positions / seconds,
    // Ratios of steps that followed one another: what else the machine did in that time was the same for both.
    throughput_ratio: alone ? median(overlapped.map((each, i) => alone.overlapped[i]!.seconds / each.seconds)) : null,
    communication_share: ranks === 1 ? 0 : of(overlapped, 'reduction_s') / seconds,
    waited_s: of(overlapped, 'waited_s'),
    skew_s: of(overlapped, 'skew_s'),
    reduction_after_backward_s: whole,
    overlap: whole ? 1 - of(overlapped, 'waited_s') / whole : null,
    loss: overlapped.at(-1)!.loss,
  };
});
for (const { name, tokens_per_s, throughput_ratio, communication_share, overlap } of figures) {
  const share = `${(100 * communication_share).toFixed(1)} % in the reduction`;
  const ratio = throughput_ratio === null ? '' : `, ×${throughput_ratio.toFixed(2)} of one process`;
  console.log(
    `${name}: ${tokens_per_s.toFixed(0)} tokens/s${ratio}, ${share}${overlap === null ? '' : `, ${(100 * overlap).toFixed(0)} % overlapped`}`,
  );
}
writeResult('parallel', { spec: BASE, steps: flags.steps, figures }, flags.out);
