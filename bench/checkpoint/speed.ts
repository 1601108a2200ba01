/** Save, check, convert: seconds and peak memory against `cp` of the same bytes, all synced to the disk. Every round does each once, between copies. */
import { spawnSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { llmConfig } from '../../src/checkpoint/hf_llm.ts';
import { damageOf } from '../../src/checkpoint/manifest.ts';
import { type TensorToWrite, writeTensors } from '../../src/checkpoint/safetensors.ts';
import { writeCheckpoint } from '../../src/checkpoint/write_folder.ts';
import type { LlmShape } from '../../src/model/shapes.ts';
import { packageRoot } from '../../src/root.ts';
import { median } from '../peer.ts';

const MB = 2 ** 20;

export function measureSpeed(folder: string, gigabytes: number, rounds: number) {
  const model = join(folder, 'model');
  const bytes = randomLlama(model, gigabytes);
  const file = join(model, 'model.safetensors');
  const out = join(folder, 'out');
  const sharded = join(folder, 'sharded');
  const neva =
    (...words: string[]) =>
    () =>
      child(`import { main } from ${JSON.stringify(join(packageRoot, 'dist/src/cli/main.js'))};
      process.exitCode = await main(${JSON.stringify(['convert-checkpoint', '--from', model, '--out', out, ...words])});`);
  const cp = () => timed(() => run('sh', ['-c', 'cp "$1" "$2" && sync "$2"', 'sh', file, out]));
  const tasks: Record<string, () => Figures> = {
    'convert to hf-new': neva('--to', 'hf-new'),
    'convert to nemo, tp 1': neva('--to', 'nemo', '--part', 'llm'),
    'convert to nemo-mcore, tp 4 pp 2': neva('--to', 'nemo-mcore', '--part', 'llm', '--tp', '4', '--pp', '2'),
    'convert to bf16': neva('--to', 'hf', '--dtype', 'bf16'),
    'convert from nemo-mcore, tp 4 pp 2': neva('--to', 'hf', '--part', 'llm', '--from', sharded),
  };
  run(process.execPath, [
    join(packageRoot, 'bin/neva.js'),
    ...['convert-checkpoint', '--from', model, '--out', sharded, '--to', 'nemo-mcore', '--part', 'llm'],
    ...['--tp', '4', '--pp', '2'],
  ]);
  // Each conversion stands between two copies: on a machine with other work, only what is near in time can be compared.
  const figures = new Map(Object.keys(tasks).map((name) => [name, [] as (Figures & { cp: number })[]]));
  const fresh = (task: () => Figures) => {
    run('sync', []);
    const result = task();
    rmSync(out, { recursive: true });
    return result;
  };
  const copies: number[] = [];
  for (let round = 0; round < rounds; round++) {
    copies.push(fresh(cp).seconds);
    for (const [name, task] of Object.entries(tasks)) {
      const result = fresh(task);
      copies.push(fresh(cp).seconds);
      figures.get(name)!.push({ ...result, cp: (copies.at(-2)! + copies.at(-1)!) / 2 });
    }
  }
  const table = [...figures].map(([task, list]) => ({
    task,
    median_s: median(list.map(({ seconds }) => seconds)),
    all_s: list.map(({ seconds }) => Number(seconds.toFixed(2))),
    speed_of_cp: median(list.map(({ seconds, cp }) => cp / seconds)),
    peak_rss_mb: Math.round(Math.max(...list.map(({ peak }) => peak))),
  }));
  table.unshift({
    task: 'cp',
    median_s: median(copies),
    all_s: copies.map((s) => Number(s.toFixed(2))),
    speed_of_cp: 1,
    peak_rss_mb: 0,
  });
  rmSync(sharded, { recursive: true });
  rmSync(model, { recursive: true });
  return { bytes, largest_tensor_mb: LARGEST / MB, table, checkpoint: saveAndCheck(folder, rounds) };
}

interface Figures {
  seconds: number;
  /** MB; 0 where it is not measured. */
  peak: number;
}

/** A checkpoint of 512 MB: written as the background thread writes it, and checked as resuming does. */
function saveAndCheck(folder: string, rounds: number) {
  const bytes = new Uint8Array(512 * MB);
  for (let at = 0; at < bytes.length; at += 64 * MB) randomFillSync(bytes, at, 64 * MB);
  const dir = join(folder, 'checkpoints');
  const list = [{ name: 'multi_modal_projector.w', dtype: 'float32' as const, shape: [bytes.length / 4], bytes }];
  const copy = join(folder, 'copy');
  const [save, check, cp]: [number[], number[], number[]] = [[], [], []];
  for (let round = 0; round < rounds; round++) {
    const write = () => writeCheckpoint(dir, { step: 1, tensors: [['model.safetensors', list]], texts: [], files: [] });
    save.push(timed(write).seconds);
    check.push(timed(() => void damageOf(join(dir, 'step=0000001'))).seconds);
    cp.push(
      timed(() => run('sh', ['-c', 'cp -r "$1" "$2" && sync "$2"/*', 'sh', join(dir, 'step=0000001'), copy])).seconds,
    );
    rmSync(copy, { recursive: true });
    rmSync(dir, { recursive: true });
  }
  return {
    bytes: bytes.length,
    save_s: median(save),
    check_s: median(check),
    cp_s: median(cp),
    save_speed_of_cp: median(save.map((seconds, i) => cp[i]! / seconds)),
    check_mb_per_s: bytes.length / MB / median(check),
  };
}

/** LLaMA-2-7B's widths, with as many blocks as fill `gigabytes` in float16. */
const SHAPE: LlmShape = {
  numLayers: 0,
  hiddenSize: 4096,
  ffnHiddenSize: 11008,
  numAttentionHeads: 32,
  numQueryGroups: 32,
  headDim: 128,
  vocabSize: 32000,
  normEpsilon: 1e-5,
  rotaryBase: 10000,
  maxPositions: 4096,
  tiedEmbeddings: false,
};
const LARGEST = SHAPE.vocabSize * SHAPE.hiddenSize * 2;

function randomLlama(folder: string, gigabytes: number): number {
  const { hiddenSize: h, ffnHiddenSize: f, vocabSize: v } = SHAPE;
  const blockBytes = 2 * (4 * h * h + 3 * h * f + 2 * h);
  const numLayers = 2 * Math.max(1, Math.round((gigabytes * 1e9 - 2 * LARGEST) / blockBytes / 2));
  const noise = randomFillSync(new Uint8Array(64 * MB));
  const tensor = (name: string, ...shape: number[]): TensorToWrite => {
    const nbytes = 2 * shape.reduce((product, size) => product * size, 1);
    const stream = (take: (part: Uint8Array) => void) => {
      for (let at = 0; at < nbytes; at += noise.length) take(noise.subarray(0, Math.min(noise.length, nbytes - at)));
    };
    return { name, dtype: 'float16', shape, data: () => new Uint8Array(nbytes), stream };
  };
  const block = (i: number) =>
    [
      ...['q', 'k', 'v', 'o'].map((p) => tensor(`self_attn.${p}_proj.weight`, h, h)),
      ...['gate', 'up'].map((p) => tensor(`mlp.${p}_proj.weight`, f, h)),
      tensor('mlp.down_proj.weight', h, f),
      ...['input_layernorm', 'post_attention_layernorm'].map((n) => tensor(`${n}.weight`, h)),
    ].map((t) => ({ ...t, name: `model.layers.${i}.${t.name}` }));
  mkdirSync(folder);
  const bytes = writeTensors(join(folder, 'model.safetensors'), [
    tensor('model.embed_tokens.weight', v, h),
    ...Array.from({ length: numLayers }, (_, i) => block(i)).flat(),
    tensor('model.norm.weight', h),
    tensor('lm_head.weight', v, h),
  ]);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(llmConfig({ ...SHAPE, numLayers })));
  const demo = join(packageRoot, 'data/demo/llm');
  for (const name of readdirSync(demo).filter((n) => /token/.test(n) && statSync(join(demo, n)).isFile())) {
    copyFileSync(join(demo, name), join(folder, name));
  }
  return bytes;
}

function timed(body: () => unknown): Figures {
  const began = performance.now();
  body();
  return { seconds: (performance.now() - began) / 1000, peak: 0 };
}

function run(program: string, args: string[]): string {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${program}: ${stderr}`);
  return stdout;
}

/** Runs an ES module's text in a process of its own; it says its peak memory at the end. */
function child(code: string): Figures {
  let peak = 0;
  const { seconds } = timed(() => {
    const said = run(process.execPath, [
      '--input-type=module',
      '-e',
      `${code}\nconsole.log(\`peak \${process.resourceUsage().maxRSS / 1024}\`);`,
    ]);
    peak = Number(/^peak ([\d.]+)$/m.exec(said)![1]);
  });
  return { seconds, peak };
}
