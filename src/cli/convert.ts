/** `neva convert-checkpoint`: a model in another layout. */
import { type Command, Option } from 'commander';
import type { DType } from '../engine/engine.ts';

const LAYOUTS = ['hf', 'hf-new', 'llava'] as const;
const PARTS = ['all', 'llm', 'vision', 'projector'] as const;
const DTYPES: Record<string, DType> = { fp32: 'float32', bf16: 'bfloat16', fp16: 'float16' };

interface Flags {
  from: string;
  to: (typeof LAYOUTS)[number];
  out: string;
  part: (typeof PARTS)[number];
  dtype?: string;
}

export function define(command: Command): void {
  command
    .requiredOption('--from <path>', 'checkpoint, run or Hugging Face folder; its kind is recognized from its content')
    .addOption(
      new Option(
        '--to <layout>',
        'hf (llava-hf, loads everywhere), hf-new (transformers 4.52 and later), llava (original)',
      )
        .choices(LAYOUTS)
        .makeOptionMandatory(),
    )
    .requiredOption('--out <folder>', 'folder to write; it must not exist yet')
    .addOption(new Option('--part <part>', 'only one part, as a model of its own').choices(PARTS).default('all'))
    .addOption(
      new Option('--dtype <dtype>', 'number format; without it every value stays as it is').choices(
        Object.keys(DTYPES),
      ),
    )
    .action(convertCheckpoint);
}

async function convertCheckpoint({ from, to, out, part, dtype }: Flags): Promise<void> {
  const { chooseEngine, openEngine } = await import('../engine/open.ts');
  const { convert } = await import('../checkpoint/convert.ts');
  const { modelFolder } = await import('../train/assemble.ts');
  const choice = { engine: 'auto', tfjs_backend: 'cpu', accelerator: 'cpu', num_threads: null };
  const engine = await openEngine(await chooseEngine(choice, (line) => console.error(line)));
  const options = { from: modelFolder(from), to, out, part, dtype: dtype ? DTYPES[dtype]! : null };
  const { tensors, bytes } = convert(engine, options);
  console.log(`${out}: ${tensors} tensors, ${(bytes / 1e6).toFixed(1)} MB`);
}
