/**
 * Tokens/s and peak memory of neva's training step beside the Hugging Face + PyTorch loop on the same shapes, eager (SDPA), through
 * torch.compile and, in bfloat16, under autocast (what Trainer's bf16=True does: float32 weights, as neva's main weights are;
 * eager and compiled, the others hold nothing but bfloat16 weights and moments). The processes take turns, step by step, so that all
 * see the same machine. The share of the matmul rate is (operations that the step cannot do without) / time / (rate of a square
 * product in the same dtype, in the same process).
 *
 *     npm run build && node dist/bench/step/run.js [--steps 12] [--shape small|large] [--sequence 384|1024] [--stage pretrain|finetune]
 *         [--dtype float32|bfloat16] [--peers eager,autocast,compile] [--labels 0.5] [--tiny] [--out FILE]
 *
 * Every flag left out means all of its values: 2 shapes × 2 lengths × 2 stages × 2 dtypes. Needs torch and transformers in the python3
 * on PATH. Writes bench/results/DATE-step.json.
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/root.ts';
import { median, Peer } from '../peer.ts';
import { writeResult } from '../results.ts';
import type { StepSpec } from './model.ts';

const { values: flags } = parseArgs({
  options: {
    steps: { type: 'string', default: '12' },
    shape: { type: 'string' },
    sequence: { type: 'string' },
    stage: { type: 'string' },
    dtype: { type: 'string' },
    peers: { type: 'string', default: 'eager,autocast,compile' },
    threads: { type: 'string', default: '2' },
    labels: { type: 'string', default: '0.5' },
    tiny: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});

const IMAGE_POSITIONS = 256;
const CLIP = { hidden: 256, layers: 6, heads: 4, ffn: 1024, image: 224, patch: 14 };
const SHAPES: { [name: string]: StepSpec['llm'] } = flags.tiny
  ? { tiny: { hidden: 64, layers: 2, heads: 4, ffn: 128, vocab: 256 } }
  : {
      small: { hidden: 512, layers: 8, heads: 8, ffn: 1376, vocab: 32000 },
      large: { hidden: 1024, layers: 16, heads: 16, ffn: 2752, vocab: 32000 },
    };
/** N of the square product that the rate is measured with. */
const MATMUL = flags.tiny ? 256 : 2048;

interface Figures {
  name: string;
  median_s: number;
  min_s: number;
  max_s: number;
  tokens_per_s: number;
  peak_rss_mb: number;
  /** Of neva. */
  matmul_tflops?: number;
  matmul_share?: number;
  /** Of the others: their time over neva's, neva's memory over theirs. */
  speed_ratio?: number;
  memory_ratio?: number;
}

type Result = Awaited<ReturnType<typeof compare>>;

async function compare(shape: string, sequence: number, stage: StepSpec['stage'], dtype: StepSpec['dtype']) {
  const spec: StepSpec = {
    llm: SHAPES[shape]!,
    clip: CLIP,
    batch: 2,
    textTokens: sequence - IMAGE_POSITIONS,
    labelFraction: Number(flags.labels),
    dtype,
    stage,
    warmup: 3,
    threads: Number(flags.threads),
  };
  const python = (more: object) => [join(packageRoot, 'bench/step/hf_peer.py'), JSON.stringify({ ...spec, ...more })];
  const peers = [
    new Peer('neva', process.execPath, [join(import.meta.dirname, 'neva_peer.js'), JSON.stringify(spec)]),
    ...flags.peers
      .split(',')
      .filter((peer) => peer !== 'autocast' || dtype === 'bfloat16')
      .map((peer) => {
        const autocast = peer === 'autocast' ? { dtype: 'bf16-autocast' } : {};
        return new Peer(peer, 'python3', python({ compile: peer === 'compile', ...autocast }));
      }),
  ];
  const [{ flops }] = [await peers[0]!.answer()];
  for (const peer of peers.slice(1)) await peer.answer();
  const seconds: number[][] = peers.map(() => []);
  for (let step = 0; step < Number(flags.steps); step++) {
    for (const [i, peer] of peers.entries()) seconds[i]!.push((await peer.ask('step')).seconds);
  }
  const { flops_per_s: rate } = await peers[0]!.ask(`matmul ${MATMUL}`);
  const memory: number[] = [];
  for (const peer of peers) memory.push((await peer.ask('quit')).peak_rss_bytes);
  const tokens = spec.batch * sequence;
  const figures = peers.map(
    ({ name }, i): Figures => ({
      name,
      median_s: median(seconds[i]!),
      min_s: Math.min(...seconds[i]!),
      max_s: Math.max(...seconds[i]!),
      tokens_per_s: tokens / median(seconds[i]!),
      peak_rss_mb: Math.round(memory[i]! / 2 ** 20),
      ...(i === 0
        ? { matmul_tflops: rate! / 1e12, matmul_share: flops! / median(seconds[0]!) / rate! }
        : {
            speed_ratio: median(seconds[i]!.map((other, at) => other / seconds[0]![at]!)),
            memory_ratio: memory[0]! / memory[i]!,
          }),
    }),
  );
  return { shape, sequence, stage, dtype, flops: flops!, figures };
}

const chosen = <T extends string>(flag: string | undefined, all: readonly T[]): readonly T[] =>
  flag === undefined ? all : [flag as T];
const results: Result[] = [];
for (const shape of chosen(flags.shape, Object.keys(SHAPES)))
  for (const sequence of chosen(flags.sequence, flags.tiny ? ['288'] : ['384', '1024']).map(Number))
    for (const dtype of chosen(flags.dtype, ['float32', 'bfloat16'] as const))
      for (const stage of chosen(flags.stage, ['pretrain', 'finetune'] as const)) {
        const result = await compare(shape, sequence, stage, dtype);
        results.push(result);
        const [neva, ...others] = result.figures;
        console.log(
          `${shape} ${sequence} ${dtype} ${stage}: neva ${neva!.tokens_per_s.toFixed(0)} tokens/s, ${neva!.peak_rss_mb} MB, ` +
            `${(100 * neva!.matmul_share!).toFixed(0)} % of the matmul rate` +
            others
              .map(
                (peer) => `; ×${peer.speed_ratio!.toFixed(2)} ${peer.name}, memory ×${peer.memory_ratio!.toFixed(2)}`,
              )
              .join(''),
        );
      }

/** bfloat16's speed over float32's, of neva itself. */
const speedup = results
  .filter(({ dtype }) => dtype === 'bfloat16')
  .flatMap((low) => {
    const same = (other: Result) =>
      other.dtype === 'float32' && (['shape', 'sequence', 'stage'] as const).every((key) => other[key] === low[key]);
    const full = results.find(same);
    const { shape, sequence, stage } = low;
    return full
      ? [{ shape, sequence, stage, bf16_over_float32: full.figures[0]!.median_s / low.figures[0]!.median_s }]
      : [];
  });
const { steps, threads, labels } = flags;
writeResult('step', { shapes: SHAPES, clip: CLIP, steps, threads, labels, results, speedup }, flags.out);
