/** `neva convert-checkpoint`: a model in another layout. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { Float } from '../checkpoint/cast.ts';
import { parseSize } from '../checkpoint/write_model.ts';
import { progressBar } from './progress_bar.ts';

const LAYOUTS = ['hf', 'hf-new', 'llava', 'nemo', 'nemo-mcore'] as const;
const PARTS = ['all', 'llm', 'vision', 'projector'] as const;
const DTYPES: Record<string, Float> = { fp32: 'float32', bf16: 'bfloat16', fp16: 'float16' };

interface Flags {
  from: string;
  to: (typeof LAYOUTS)[number];
  out: string;
  part: (typeof PARTS)[number];
  dtype?: string;
  tp: number;
  pp: number;
  maxShardSize: number;
  ema?: boolean;
}

const AFTER = `
What is read: Hugging Face folders of LLaMA, CLIP and LLaVA (safetensors or pytorch_model.bin, sharded or not, or by their
names of the hub where the local cache has them), LLaVA's own folders and mm_projector.bin, neva's checkpoints and runs,
.nemo archives (tar, gzipped or unpacked; any parallel size) and Lightning checkpoints of NeMo's.

Examples:
  neva convert-checkpoint --from llama2-chat-tp4.nemo --to hf --part llm --out llama2-chat
  neva convert-checkpoint --from liuhaotian/llava-v1.5-7b --to nemo --tp 4 --out llava.nemo
  neva convert-checkpoint --from neva_experiments/neva_finetune --to llava --out for-llava
`;

export function define(command: Command): void {
  command
    .requiredOption('--from <path>', 'model to read; its kind is recognized from its content')
    .addOption(
      new Option(
        '--to <layout>',
        'hf (llava-hf, loads everywhere), hf-new (transformers 4.52 and later), llava (original), ' +
          "nemo (mcore_gpt=False), nemo-mcore (Megatron-core's names)",
      )
        .choices(LAYOUTS)
        .makeOptionMandatory(),
    )
    .requiredOption('--out <path>', 'what to write, not there yet: a folder, or an archive where it ends in .nemo')
    .addOption(new Option('--part <part>', 'only one part, as a model of its own').choices(PARTS).default('all'))
    .addOption(new Option('--tp <n>', 'nemo: tensor parallel size').argParser(count).default(1))
    .addOption(new Option('--pp <n>', 'nemo: pipeline parallel size').argParser(count).default(1))
    .addOption(
      new Option('--dtype <dtype>', 'number format; without it every value stays as it is').choices(
        Object.keys(DTYPES),
      ),
    )
    .addOption(
      new Option(
        '--max-shard-size <size>',
        'hf, hf-new, llava: largest file of weights, as 5GB or 2GiB; more files get an index',
      )
        .argParser(size)
        .default(5e9, '5GB'),
    )
    .option('--ema', "the moving averages of a checkpoint of neva's instead of its weights (exp_manager.ema)")
    .addHelpText('after', AFTER)
    .action(convertCheckpoint);
}

function count(text: string): number {
  if (/^[1-9]\d{0,3}$/.test(text)) return Number(text);
  throw new InvalidArgumentError('expected a whole number above 0');
}

function size(text: string): number {
  const bytes = parseSize(text);
  if (bytes !== null) return bytes;
  throw new InvalidArgumentError('expected a size as 5GB, 500MB or 2GiB');
}

async function convertCheckpoint({ from, to, out, part, dtype, tp, pp, maxShardSize, ema }: Flags): Promise<void> {
  const { convert } = await import('../checkpoint/convert.ts');
  const { modelFolder } = await import('../train/assemble.ts');
  const bar = await progressBar(`${out} {bar} {value}/{total} MB`, 1e6);
  const options = {
    from: modelFolder(from),
    to,
    out,
    part,
    dtype: dtype ? DTYPES[dtype]! : null,
    tp,
    pp,
    maxShardBytes: maxShardSize,
    ema: ema === true,
  };
  try {
    const { tensors, bytes, notes } = convert({ ...options, onProgress: bar.update });
    bar.stop();
    for (const note of notes) console.error(note);
    console.log(`${out}: ${tensors} tensors, ${(bytes / 1e6).toFixed(1)} MB`);
  } finally {
    bar.stop();
  }
}
