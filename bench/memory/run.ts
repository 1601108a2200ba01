/**
 * One step of `neva pretrain` with a LLaMA-2-7B-shaped folder (random bfloat16 weights, made on the spot, in shards as the hub has
 * them) and a CLIP-L-shaped tower: its peak of resident memory beside the size of the files. Frozen weights are mapped, so what is
 * wanted is less than 1.25 times the files.
 *
 *     npm run build && node dist/bench/memory/run.js [--layers 32] [--image 224] [--dir /tmp] [--keep] [--out FILE]
 *
 * Linux. Needs 14 GB of disk; fewer --layers where memory is short. Writes bench/results/DATE-memory.json.
 */
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { type TensorToWrite, writeTensors } from '../../src/checkpoint/safetensors.ts';
import { packageRoot } from '../../src/root.ts';
import { writeResult } from '../results.ts';

const { values: flags } = parseArgs({
  options: {
    layers: { type: 'string', default: '32' },
    image: { type: 'string', default: '224' },
    dir: { type: 'string', default: tmpdir() },
    keep: { type: 'boolean', default: false },
    out: { type: 'string' },
  },
});
const LLM = { hidden: 4096, ffn: 11008, heads: 32, layers: Number(flags.layers), vocab: 32_000 };
const CLIP = { hidden: 1024, ffn: 4096, heads: 16, layers: 24, image: Number(flags.image), patch: 14 };
const SHARD_BYTES = 5e9;

/** 16 MiB of bfloat16 between ±2⁻⁶ and ±2⁻⁵, written over and over: about the spread of LLaMA's own weights. */
const noise = (() => {
  const words = new Uint16Array(2 ** 23);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    words[i] = 0x3c80 | ((state >>> 16) & 0x807f);
  }
  return new Uint8Array(words.buffer);
})();
const ones = new Uint8Array(new Uint16Array(2 ** 16).fill(0x3f80).buffer);

function tensor(name: string, shape: readonly number[]): TensorToWrite {
  const bytes = shape.reduce((product, size) => product * size, 2);
  const source = /norm|layrnorm/.test(name) ? ones : noise;
  return {
    name,
    dtype: 'bfloat16',
    shape,
    data: () => source.subarray(0, bytes),
    stream: (take) => {
      for (let left = bytes; left > 0; left -= source.length) take(source.subarray(0, Math.min(left, source.length)));
    },
  };
}

function llmTensors(): TensorToWrite[] {
  const { hidden: C, ffn, layers, vocab } = LLM;
  const all = [tensor('model.embed_tokens.weight', [vocab, C])];
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    for (const part of ['q', 'k', 'v', 'o']) all.push(tensor(`${at}.self_attn.${part}_proj.weight`, [C, C]));
    for (const part of ['gate', 'up']) all.push(tensor(`${at}.mlp.${part}_proj.weight`, [ffn, C]));
    all.push(tensor(`${at}.mlp.down_proj.weight`, [C, ffn]));
    for (const part of ['input', 'post_attention']) all.push(tensor(`${at}.${part}_layernorm.weight`, [C]));
  }
  return [...all, tensor('model.norm.weight', [C]), tensor('lm_head.weight', [vocab, C])];
}

function clipTensors(): TensorToWrite[] {
  const { hidden: C, ffn, layers, image, patch } = CLIP;
  const root = 'vision_model';
  const both = (name: string, shape: readonly number[]) => [
    tensor(`${name}.weight`, shape),
    tensor(`${name}.bias`, [shape[0]!]),
  ];
  const all = [
    tensor(`${root}.embeddings.class_embedding`, [C]),
    tensor(`${root}.embeddings.patch_embedding.weight`, [C, 3, patch, patch]),
    tensor(`${root}.embeddings.position_embedding.weight`, [(image / patch) ** 2 + 1, C]),
    ...both(`${root}.pre_layrnorm`, [C]),
    ...both(`${root}.post_layernorm`, [C]),
  ];
  for (let layer = 0; layer < layers; layer++) {
    const at = `${root}.encoder.layers.${layer}`;
    for (const norm of ['layer_norm1', 'layer_norm2']) all.push(...both(`${at}.${norm}`, [C]));
    for (const part of ['q', 'k', 'v', 'out']) all.push(...both(`${at}.self_attn.${part}_proj`, [C, C]));
    all.push(...both(`${at}.mlp.fc1`, [ffn, C]), ...both(`${at}.mlp.fc2`, [C, ffn]));
  }
  return all;
}

const sizeOf = ({ shape }: TensorToWrite) => shape.reduce((product, size) => product * size, 2);

/** Shards and their index, as transformers' save_pretrained writes them. */
function writeFolder(folder: string, config: object, tensors: readonly TensorToWrite[]): void {
  mkdirSync(folder);
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  const shards: TensorToWrite[][] = [[]];
  let bytes = 0;
  for (const each of tensors) {
    if (bytes > 0 && bytes + sizeOf(each) > SHARD_BYTES) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)!.push(each);
    bytes += sizeOf(each);
  }
  const number = (n: number) => String(n).padStart(5, '0');
  const map: Record<string, string> = {};
  shards.forEach((shard, i) => {
    const name =
      shards.length === 1 ? 'model.safetensors' : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    for (const each of shard) map[each.name] = name;
    writeTensors(join(folder, name), shard);
  });
  if (shards.length === 1) return;
  const index = { metadata: { total_size: tensors.reduce((sum, each) => sum + sizeOf(each), 0) }, weight_map: map };
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index));
}

const folder = mkdtempSync(join(flags.dir, 'neva-memory-'));
const [llm, vision] = [join(folder, 'llm'), join(folder, 'vision')];
const fileBytes = () =>
  [llm, vision]
    .flatMap((at) => readdirSync(at).map((name) => statSync(join(at, name)).size))
    .reduce((sum, size) => sum + size, 0);

/** Runs the command and keeps the greatest of what /proc says of it, in bytes. */
async function watch(args: readonly string[]) {
  const child = spawn(process.execPath, args, { stdio: 'inherit' });
  const peak = { resident: 0, mapped: 0, own: 0 };
  const look = () => {
    try {
      const text = readFileSync(`/proc/${child.pid}/status`, 'utf8');
      const read = (key: string) => Number(new RegExp(`^${key}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0) * 1024;
      // VmHWM is the kernel's own record; the other two are seen at these moments alone.
      peak.resident = Math.max(peak.resident, read('VmHWM'));
      peak.mapped = Math.max(peak.mapped, read('RssFile'));
      peak.own = Math.max(peak.own, read('RssAnon'));
    } catch {
      // It has just ended.
    }
  };
  const timer = setInterval(look, 100);
  const code = await new Promise<number | null>((resolve) => child.on('exit', resolve));
  clearInterval(timer);
  if (code !== 0) throw new Error(`the run ended with ${code}`);
  return peak;
}

try {
  console.log(`making the folders below ${folder}`);
  const shape = { hidden_size: LLM.hidden, intermediate_size: LLM.ffn, num_hidden_layers: LLM.layers };
  const heads = { num_attention_heads: LLM.heads, num_key_value_heads: LLM.heads, vocab_size: LLM.vocab };
  const rest = { model_type: 'llama', hidden_act: 'silu', rms_norm_eps: 1e-5, max_position_embeddings: 4096 };
  writeFolder(
    llm,
    { architectures: ['LlamaForCausalLM'], dtype: 'bfloat16', ...rest, ...shape, ...heads },
    llmTensors(),
  );
  const demo = join(packageRoot, 'data/demo');
  // Its vocabulary is smaller than LLaMA's; the rows beyond it stay unused.
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json']) {
    copyFileSync(join(demo, 'llm', name), join(llm, name));
  }
  writeFolder(
    vision,
    {
      architectures: ['CLIPVisionModel'],
      model_type: 'clip_vision_model',
      hidden_act: 'quick_gelu',
      image_size: CLIP.image,
      patch_size: CLIP.patch,
      hidden_size: CLIP.hidden,
      intermediate_size: CLIP.ffn,
      num_hidden_layers: CLIP.layers,
      num_attention_heads: CLIP.heads,
      layer_norm_eps: 1e-5,
    },
    clipTensors(),
  );
  const files = fileBytes();
  const startedAt = performance.now();
  const peak = await watch([
    join(packageRoot, 'bin/neva.js'),
    'pretrain',
    'model=llama2_7b',
    'trainer=cpu',
    'trainer.precision=bf16',
    'trainer.max_steps=1',
    `model.num_layers=${LLM.layers}`,
    `model.mm_cfg.llm.from_pretrained=${llm}`,
    `model.mm_cfg.vision_encoder.from_pretrained=${vision}`,
    `model.mm_cfg.vision_encoder.image_size=${CLIP.image}`,
    'model.tensor_model_parallel_size=1',
    'model.micro_batch_size=1',
    'model.global_batch_size=1',
    'model.optim.sched.warmup_steps=0',
    `exp_manager.explicit_log_dir=${join(folder, 'run')}`,
  ]);
  const seconds = (performance.now() - startedAt) / 1000;
  const step = JSON.parse(readFileSync(join(folder, 'run/metrics.jsonl'), 'utf8').split('\n')[0]!);
  const gb = (bytes: number) => Number((bytes / 1e9).toFixed(2));
  const figures = {
    llm: LLM,
    clip: CLIP,
    files_gb: gb(files),
    peak_resident_gb: gb(peak.resident),
    ratio: Number((peak.resident / files).toFixed(3)),
    peak_mapped_gb: gb(peak.mapped),
    peak_own_gb: gb(peak.own),
    positions: step.tokens,
    loss: step.loss,
    step_time_s: step.step_time_s,
    run_s: Number(seconds.toFixed(1)),
  };
  console.log(JSON.stringify(figures, null, 2));
  writeResult('memory', figures, flags.out);
  if (peak.resident > 1.25 * files) process.exitCode = 1;
} finally {
  if (flags.keep) console.log(`kept: ${folder}`);
  else rmSync(folder, { recursive: true, force: true });
}
