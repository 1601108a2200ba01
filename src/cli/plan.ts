/** `neva plan`: what a run will need and take, from its configuration alone. */
import { existsSync } from 'node:fs';
import { totalmem } from 'node:os';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { NevaConfig } from '../config/index.ts';
import { isUserError, mistake, UserError } from '../errors.ts';
import { HARDWARE_NAMES, type Hardware, hardwareOf } from '../plan/hardware.ts';
import { makePlan, type Plan } from '../plan/plan.ts';
import { type RecordSize, typicalRecord } from '../plan/record.ts';
import { microBatches, type Setting, settingOf, worldOf } from '../plan/setting.ts';
import { addConfigFlags, type ConfigFlags, composeOrShow } from './hydra.ts';
import { table } from './table.ts';

type Stage = 'pretrain' | 'finetune';

interface Flags extends ConfigFlags {
  stage?: Stage;
  hardware?: string;
  peakTflops?: number;
  memoryGb?: number;
  pricePerHour?: number;
  recordLength?: number;
  imagesPerRecord?: number;
  labelsPerRecord?: number;
  json?: true;
}

const number = (least: number) => (text: string) => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value < least)
    throw new InvalidArgumentError(`Expected a number from ${least}.`);
  return value;
};

export function define(command: Command): void {
  addConfigFlags(command)
    .usage('[pretrain|finetune] [flags] [overrides…]')
    .addOption(new Option('--stage <stage>', 'the same as the first word').choices(['pretrain', 'finetune']))
    .option('--hardware <name>', `${HARDWARE_NAMES.join(', ')}; default: h100 with trainer.accelerator=gpu, else cpu`)
    .option('--peak-tflops <n>', 'matrix products of a device, in TFLOP/s, in place of the table', number(0.001))
    .option('--memory-gb <n>', 'memory of a device, in place of the table', number(0.001))
    .option('--price-per-hour <x>', 'price of a device', number(0))
    .option('--record-length <n>', 'positions of an average record, pictures included', number(1))
    .option('--images-per-record <n>', 'pictures of an average record (1)', number(0))
    .option('--labels-per-record <n>', 'positions of it that are in the loss', number(1))
    .option('--json', 'everything, as one JSON object')
    .action(plan);
}

export async function help(): Promise<string> {
  return `
Neither weights nor LibTorch are needed: model=llama2_13b has all shapes. Formulas, and how far off they are: docs/scaling.md.
    neva plan finetune model=llama2_7b data=llava_mix665k trainer=node8 --hardware h100 --price-per-hour 3`;
}

async function plan(words: string[], flags: Flags): Promise<void> {
  const named = words[0] === 'pretrain' || words[0] === 'finetune' ? (words[0] as Stage) : null;
  const overrides = named ? words.slice(1) : words;
  const stage = named ?? flags.stage ?? (flags.configName === 'neva_finetune' ? 'finetune' : 'pretrain');
  const composed = await composeOrShow(`neva_${stage}`, overrides, flags, true);
  if (!composed) return;
  const { config } = composed;
  const world = await worldSize(config);
  const { shape, notes } = await shapeOf(config);
  const typical = typicalRecord(stage, shape, config.model.encoder_seq_length);
  const record: RecordSize = {
    length: flags.recordLength ?? typical.length,
    images: flags.imagesPerRecord ?? typical.images,
    labels: flags.labelsPerRecord ?? Math.min(typical.labels, flags.recordLength ?? typical.labels),
  };
  if (record.length > config.model.encoder_seq_length) {
    throw mistake({
      where: '--record-length',
      problem: 'longer than the context',
      expected: `at most model.encoder_seq_length=${config.model.encoder_seq_length}`,
      found: String(record.length),
    });
  }
  const name = flags.hardware ?? (config.trainer.accelerator === 'gpu' ? 'h100' : 'cpu');
  const setting = settingOf(config, shape, record, world, name === 'cpu' ? 'cpu' : 'gpu');
  const hardware = hardwareOf(name, flags.peakTflops === undefined ? null : flags.peakTflops * 1e12);
  const memory =
    flags.memoryGb === undefined ? (hardware.memory ?? totalmem() / setting.perNode) : flags.memoryGb * 1e9;
  const made = makePlan(setting, hardware, {
    contextLength: config.model.encoder_seq_length,
    memory,
    pricePerHour: flags.pricePerHour ?? null,
  });
  const { unsupported } = await import('../train/supported.ts');
  const all = [...notes, ...unsupported(config).map((text) => `not in this build: ${text}`)];
  if (flags.json) {
    const { tensor, layout, data, microBatch, globalBatch, steps } = setting;
    const sizes = { tensor, pipeline: layout.length, layout, data };
    const asked = { stage, hardware: hardware.name, ...sizes, microBatch, globalBatch, steps, record };
    console.log(JSON.stringify({ ...asked, ...made, notes: all }, null, 2));
  } else console.log(describe(stage, setting, hardware, made, all));
}

/** Ranks in all, after the rules between keys: nothing is checked that needs files. */
async function worldSize(config: NevaConfig): Promise<number> {
  const { devices, num_nodes: nodes } = config.trainer;
  if (devices < 1) {
    throw mistake({
      where: 'trainer.devices',
      problem: 'a plan must know how many',
      found: String(devices),
      fix: 'set trainer.devices=8',
    });
  }
  const { findProblems } = await import('../config/index.ts');
  const problems = findProblems(config, { worldSize: devices * nodes, purpose: 'inference' });
  if (problems.length > 0) throw new UserError(problems.join('\n'));
  return devices * nodes;
}

/** Tokens where neither a tokenizer nor model.vocab_size says: LLaMA-2's, and Nemotron's SentencePiece model. */
const TOKENS = { llama: 32000, nvgpt: 256000 };

/** Of OpenAI's CLIP ViT-L/14, the tower that all LLaVAs begin with. */
const CLIP_L = {
  patch_dim: 14,
  hidden_size: 1024,
  num_layers: 24,
  num_attention_heads: 16,
  ffn_hidden_size: 4096,
} as const;

/** Shapes from checkpoints that are there, from the configuration where they are not. */
async function shapeOf(config: NevaConfig) {
  const { resolveSources } = await import('../train/assemble.ts');
  const { resolveShape } = await import('../train/shape.ts');
  const { model: m } = config;
  const { mm_cfg: mm } = m;
  const notes: string[] = [];
  const given = [m.restore_from_path, mm.llm.from_pretrained, mm.vision_encoder.from_pretrained];
  if (given.some((path) => path !== null && existsSync(path))) {
    try {
      return { shape: resolveSources(config).shape, notes };
    } catch (error) {
      if (!isUserError(error)) throw error;
      notes.push(`shapes are the configuration's, as the checkpoints do not give all: ${error.message.split('\n')[0]}`);
    }
  }
  const vocabulary = m.vocab_size ?? TOKENS[mm.llm.model_type === 'nvgpt' ? 'nvgpt' : 'llama'];
  if (m.vocab_size === null) notes.push(`${vocabulary} tokens are assumed; model.vocab_size=… says otherwise`);
  const size = /clip-vit-large-patch14(-336)?$/.exec(mm.vision_encoder.from_pretrained ?? '');
  const v = mm.vision_encoder;
  const tower = size ? { ...CLIP_L, image_size: size[1] ? 336 : 224 } : {};
  const own = Object.fromEntries(Object.entries(v).filter(([, value]) => value !== null));
  const vision_encoder = { ...v, ...tower, ...own };
  const complete = { ...config, model: { ...m, mm_cfg: { ...mm, vision_encoder } } } as NevaConfig;
  return { shape: resolveShape(complete, {}, vocabulary), notes };
}

const gb = (bytes: number) => (bytes >= 1e8 ? (bytes / 1e9).toFixed(2) : (bytes / 1e9).toFixed(4));
const seconds = (value: number) => value.toPrecision(3);

function describe(stage: Stage, setting: Setting, hardware: Hardware, made: Plan, notes: readonly string[]): string {
  const { tensor, layout, data, microBatch, globalBatch, record, precision, steps } = setting;
  const pipeline = layout.length > 1 ? `${layout.length} (${layout.join(' + ')} layers)` : '1';
  const { memory, longest, available, step, hours, cost } = made;
  const optimizer = setting.sharded && data > 1 ? 'Adam, this rank’s part' : 'Adam';
  const bytes: [string, number][] = [
    ['weights', memory.weights],
    [setting.remainders ? 'remainders of main weights' : 'main weights, float32', memory.mainWeights],
    [`${setting.ema ? 'moments and average' : 'moments'} (${optimizer})`, memory.moments],
    ['gradients, float32', memory.gradients],
    ['activations kept', memory.activations],
    ['for a moment', memory.moment],
    ['peak at once', memory.peak],
    ['peak, all records as long as the context', longest.peak],
  ];
  const times: [string, number][] = [
    ['products', step.compute],
    ['tensor-parallel messages', step.tensor],
    ['pipeline', step.pipeline],
    ['data-parallel messages, not hidden', step.data],
    ['update', step.update],
    ['step', step.total],
  ];
  const verdict =
    available === null
      ? ''
      : made.fits
        ? `It fits: ${gb(memory.peak)} of ${gb(available)} GB.`
        : `It does NOT fit: ${gb(memory.peak)} GB, and there are ${gb(available)}. Smaller: model.micro_batch_size, model.activations_checkpoint_granularity=full model.activations_checkpoint_method=uniform, model.optim.name=distributed_fused_adam, model.tensor_model_parallel_size.`;
  const total =
    hours === null
      ? 'How many steps there are depends on the data: trainer.max_steps says it.'
      : `${steps} steps: ${hours.toFixed(hours < 1 ? 3 : 1)} h${cost === null ? '' : `, ${(hours * worldOf(setting)).toFixed(1)} device hours, ${cost.toFixed(2)} at the price given`}`;
  return [
    `neva ${stage} on ${worldOf(setting)} × ${hardware.name}, ${precision}: tensor ${tensor} × pipeline ${pipeline} × data ${data}; ${microBatches(setting)} micro batches of ${microBatch} a rank, ${globalBatch} records a step`,
    `Assumed of an average record: ${record.length} positions, ${record.images} pictures, ${record.labels} labels (--record-length …)`,
    '',
    table(
      ['memory of a rank', 'GB'],
      bytes.filter(([, n]) => n > 0).map(([what, n]) => [what, gb(n)]),
    ),
    verdict,
    '',
    table(
      ['time of a step', 's'],
      times.filter(([, n]) => n > 0).map(([what, n]) => [what, seconds(n)]),
    ),
    `${made.samplesPerSecond.toPrecision(3)} records/s, ${made.tokensPerSecond.toPrecision(3)} positions/s, ${(100 * made.mfu).toFixed(1)} % of the peak`,
    total,
    ...notes.map((note) => `- ${note}`),
  ].join('\n');
}
