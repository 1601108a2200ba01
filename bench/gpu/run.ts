/** The parts of bench/gpu, one after the other: see README.md. Called by run.sh once the addon is built. */
import { spawnSync } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/root.ts';
import { median, Peer } from '../peer.ts';
import type { StepSpec } from '../step/model.ts';

const { values: flags } = parseArgs({
  options: {
    out: { type: 'string' },
    tiny: { type: 'boolean', default: false },
    cpu: { type: 'boolean', default: false },
    /** Parts whose names begin so: tests,nccl */
    only: { type: 'string' },
    steps: { type: 'string', default: '10' },
    /** Peak of the GPU in bfloat16, FLOP/s: H100 and H200 SXM 989e12, A100 312e12. */
    peak: { type: 'string', default: '989e12' },
  },
});
const out = flags.out!;
const accelerator = flags.cpu ? 'cpu' : 'gpu';
const failures: { part: string; message: string }[] = [];

async function part(name: string, body: () => Promise<object> | object): Promise<void> {
  if (flags.only && !flags.only.split(',').some((each) => name.startsWith(each))) return;
  console.log(`== ${name}`);
  const began = performance.now();
  try {
    const figures = await body();
    const seconds = (performance.now() - began) / 1000;
    writeFileSync(join(out, `${name}.json`), `${JSON.stringify({ ...figures, seconds }, null, 2)}\n`);
    console.log(`   done in ${seconds.toFixed(1)} s`);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    failures.push({ part: name, message });
    console.log(`   failed: ${message}`);
  }
}

/** Losses of a few steps of the demo, by the command line as a user would. */
function losses(name: string, overrides: readonly string[]): number[] {
  const dir = join(out, `run-${name}`);
  rmSync(dir, { recursive: true, force: true });
  const fixed = [
    'finetune',
    'trainer.max_steps=10',
    'trainer.limit_val_batches=0',
    'model.mm_cfg.pretrain_mm_mlp_adapter=null',
    'exp_manager.create_checkpoint_callback=false',
    `exp_manager.explicit_log_dir=${dir}`,
  ];
  const neva = join(packageRoot, 'bin/neva.js');
  const { status, stderr } = spawnSync(process.execPath, [neva, ...fixed, ...overrides], {
    encoding: 'utf8',
    cwd: out,
  });
  if (status !== 0) throw new Error(`${name}: ${stderr.trim().split('\n').slice(-6).join(' | ')}`);
  const lines = readFileSync(join(dir, 'metrics.jsonl'), 'utf8').trimEnd().split('\n');
  return lines.map((line) => JSON.parse(line)).flatMap(({ loss }) => (typeof loss === 'number' ? [loss] : []));
}

await part('parity', () => {
  const on = (device: string, precision: string) => [`trainer.accelerator=${device}`, `trainer.precision=${precision}`];
  const bf16 = [...on(accelerator, 'bf16'), 'model.megatron_amp_O2=true'];
  const packed = ['model.data.packed_sequence=true', 'model.micro_batch_size=1', 'model.encoder_seq_length=256'];
  const full = ['model.activations_checkpoint_granularity=full', 'model.activations_checkpoint_method=uniform'];
  // Bounds on the relative difference of losses from the CPU's in float32, for what stands before.
  const cases: [string, string[], number][] = [
    ['float32', on(accelerator, '32'), 1e-4],
    ...(flags.cpu ? [] : [['tf32', on(accelerator, 'tf32'), 1e-2] as [string, string[], number]]),
    ['float32 packed', [...on(accelerator, '32'), ...packed], 1e-4],
    ['float32 flash off', [...on(accelerator, '32'), 'model.use_flash_attention=false'], 1e-4],
    ['float32 recomputed', [...on(accelerator, '32'), ...full], 1e-4],
    ['bf16 O2', bf16, 3e-2],
    ['bf16 O2 remainders', [...bf16, 'model.optim.store_param_remainders=true'], 3e-2],
    ['bf16 O2 packed', [...bf16, ...packed], 3e-2],
    ['bf16 O1', [...on(accelerator, 'bf16'), 'model.megatron_amp_O2=false'], 3e-2],
    ['float16', [...on(accelerator, '16'), 'model.native_amp_init_scale=1024'], 3e-2],
  ];
  const expected = losses('cpu', on('cpu', '32'));
  const compared = cases.map(([name, overrides, bound]) => {
    try {
      const found = losses(name.replaceAll(' ', '-'), overrides);
      const worst = Math.max(...found.map((loss, i) => Math.abs(loss / expected[i]! - 1)));
      console.log(`   ${name.padEnd(20)} worst ${worst.toExponential(1)} (bound ${bound})`);
      return { name, worst, bound, ok: worst <= bound && found.length === expected.length, losses: found };
    } catch (error) {
      return { name, bound, ok: false, error: (error as Error).message };
    }
  });
  for (const { name, ok, ...rest } of compared)
    if (!ok) failures.push({ part: `parity ${name}`, message: JSON.stringify(rest).slice(0, 400) });
  return { expected, compared };
});

/** What the CPU is tested with, on the GPU: each operation and its gradients, and whole models, against PyTorch's and transformers' values. */
const TESTED = ['engine/torch/operations', 'engine/torch/linear', 'model/llava', 'model/gpt', 'generate/decode'];
const testEnv = { ...process.env, ...(flags.cpu ? {} : { NEVA_TEST_DEVICE: 'cuda:0' }) };

await part('tests', () => {
  const files = TESTED.map((name) => {
    const file = join(packageRoot, 'dist/test', `${name}.test.js`);
    const { stdout } = spawnSync(process.execPath, ['--test', '--test-reporter=tap', file], {
      encoding: 'utf8',
      env: testEnv,
      maxBuffer: 2 ** 26,
    });
    const count = (what: string) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(stdout)?.[1] ?? 0);
    const wrong = [...stdout.matchAll(/^ *not ok \d+ - (.*)$/gm)].map(([, test]) => test!);
    // Of tests, and of a file that does not load.
    const errors = [...stdout.matchAll(/^ *error: (?:'(.*)'|\|-\n +(.*))$|^# (.*Error.*)$/gm)].map(
      ([, one, more, file]) => one ?? more ?? file,
    );
    const figures = { name, pass: count('pass'), fail: count('fail'), skipped: count('skipped'), wrong, errors };
    console.log(`   ${name}: ${figures.pass} pass, ${figures.fail} fail`);
    if (figures.fail > 0 || figures.pass === 0) {
      failures.push({ part: `tests ${name}`, message: `${wrong.join(', ')}: ${errors.join(' | ')}`.slice(0, 2000) });
    }
    return figures;
  });
  return { device: testEnv.NEVA_TEST_DEVICE ?? 'cpu', files };
});

await part('nccl', () => {
  // Every collective among one rank: through NCCL on a GPU, through Gloo with --cpu.
  const one = { RANK: '0', WORLD_SIZE: '1', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1', MASTER_ADDR: '127.0.0.1' };
  const script = join(packageRoot, 'dist/test/parallel/collectives_rank.js');
  const { status, stdout, stderr } = spawnSync(process.execPath, [script], {
    encoding: 'utf8',
    env: { ...testEnv, ...one, MASTER_PORT: '29511' },
    timeout: 120_000,
  });
  if (status !== 0) throw new Error(`${stdout}${stderr}`.trim().split('\n').slice(-8).join(' | '));
  return { backend: flags.cpu ? 'gloo' : 'nccl', ranks: 1, said: stdout.trim() };
});

for (const dtype of ['float32', 'bfloat16']) {
  await part(`attention-${dtype}`, () => {
    const file = join(out, `attention-${dtype}.raw.json`);
    const lengths = flags.tiny
      ? '64,128'
      : dtype === 'float32'
        ? '512,1024,2048,4096,8192'
        : '512,2048,8192,16384,32768';
    const script = join(import.meta.dirname, '../attention/run.js');
    const args = [
      '--lengths',
      lengths,
      '--dtype',
      dtype,
      '--accelerator',
      accelerator,
      '--heads',
      flags.tiny ? '2' : '32',
    ];
    // Scores of 32 heads at 32,768 positions do not fit anywhere: flash alone goes that far.
    const forms = dtype === 'bfloat16' ? ['--forms', 'flash,flash packed'] : [];
    const { status, stderr } = spawnSync(process.execPath, [script, ...args, ...forms, '--out', file], {
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(stderr.trim().split('\n').slice(-6).join(' | '));
    return JSON.parse(readFileSync(file, 'utf8'));
  });
}

/** LLaVA-1.5-7B; records of one picture (576 positions) and text. */
const LLAVA_7B: Omit<StepSpec, 'stage' | 'batch' | 'textTokens'> = {
  llm: { hidden: 4096, layers: 32, heads: 32, ffn: 11008, vocab: 32000 },
  clip: { hidden: 1024, layers: 24, heads: 16, ffn: 4096, image: 336, patch: 14 },
  labelFraction: 0.5,
  dtype: 'bfloat16',
  warmup: 2,
  threads: 8,
  accelerator,
};
const TINY = {
  llm: { hidden: 64, layers: 2, heads: 4, ffn: 128, vocab: 256 },
  clip: { hidden: 32, layers: 2, heads: 2, ffn: 64, image: 56, patch: 14 },
  threads: 2,
};
/**
 * What fits 80 GB and 141 GB: the whole 7B with AdamW takes 18 bytes a weight, 126 GB, so finetune is measured with as many layers as
 * fit and all shapes else those of 7B. MFU hardly depends on the number of layers.
 */
const CASES: readonly (readonly [string, Partial<StepSpec> & Pick<StepSpec, 'stage' | 'batch' | 'textTokens'>])[] = [
  ['pretrain', { stage: 'pretrain', batch: 16, textTokens: 64 }],
  ['finetune-16-layers', { stage: 'finetune', batch: 4, textTokens: 1472, llm: { ...LLAVA_7B.llm, layers: 16 } }],
  [
    'finetune-16-layers-recomputed',
    { stage: 'finetune', batch: 8, textTokens: 1472, recompute: true, llm: { ...LLAVA_7B.llm, layers: 16 } },
  ],
  ['finetune-32-layers-recomputed', { stage: 'finetune', batch: 4, textTokens: 1472, recompute: true }],
];

async function measure(name: string, peer: Peer, tokens: number, flops: number) {
  const seconds: number[] = [];
  for (let step = 0; step < Number(flags.steps); step++) seconds.push((await peer.ask('step')).seconds);
  const { peak_rss_bytes, peak_tensor_bytes = 0 } = await peer.ask('quit');
  const middle = median(seconds);
  const bytes = flags.cpu ? peak_rss_bytes : peak_tensor_bytes;
  const figures = {
    median_s: middle,
    tokens_per_s: tokens / middle,
    mfu: flops / middle / Number(flags.peak),
    peak_gb: bytes / 1e9,
  };
  console.log(
    `   ${name}: ${figures.tokens_per_s.toFixed(0)} tokens/s, MFU ${(100 * figures.mfu).toFixed(1)} %, ${figures.peak_gb.toFixed(1)} GB`,
  );
  return { ...figures, seconds };
}

for (const [name, choice] of CASES) {
  await part(`step-${name}`, async () => {
    const tiny = flags.tiny ? { ...TINY, batch: 2, textTokens: 24 } : {};
    const spec: StepSpec = { ...LLAVA_7B, ...choice, ...tiny };
    const tokens = spec.batch * (spec.textTokens + (spec.clip.image / spec.clip.patch) ** 2);
    // One after the other: both at once would not fit.
    const neva = new Peer('neva', process.execPath, [
      join(import.meta.dirname, '../step/neva_peer.js'),
      JSON.stringify(spec),
    ]);
    const { flops } = await neva.answer();
    const own = await measure('neva', neva, tokens, flops!);
    try {
      const python = { ...spec, device: flags.cpu ? 'cpu' : 'cuda' };
      const peer = new Peer('transformers', 'python3', [
        join(packageRoot, 'bench/step/hf_peer.py'),
        JSON.stringify(python),
      ]);
      await peer.answer();
      const other = await measure('transformers', peer, tokens, flops!);
      return { spec, tokens, flops, neva: own, transformers: other, speed_ratio: other.median_s / own.median_s };
    } catch (error) {
      failures.push({ part: `step-${name} transformers`, message: (error as Error).message });
      return { spec, tokens, flops, neva: own };
    }
  });
}

writeFileSync(join(out, 'summary.json'), `${JSON.stringify({ failures }, null, 2)}\n`);
console.log(failures.length === 0 ? 'all parts done' : `failed: ${failures.map((each) => each.part).join(', ')}`);
process.exitCode = failures.length === 0 ? 0 : 1;
