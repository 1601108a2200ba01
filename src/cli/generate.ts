/** `neva generate`: answers of a trained model. */
import type { Command } from 'commander';
import { addConfigFlags, type ConfigFlags } from './hydra.ts';
import { modelConfig, showProgress } from './inference.ts';

interface GenerateFlags {
  model?: string;
  image: string[];
  prompt?: string;
  json?: boolean;
}

export function define(command: Command): void {
  addConfigFlags(
    command
      .option('--model <path>', 'a checkpoint, a run, or an experiment (its newest run)')
      .option('--image <file>', 'a picture; again for more, in the order of the <image> tags', collect, [])
      .option('--prompt <text>', 'the question; without it, inference.prompt_file=FILE.jsonl')
      .option('--json', 'print one JSON object a prompt'),
  ).action(async (overrides: string[], flags: ConfigFlags & GenerateFlags) => {
    const config = await modelConfig(overrides, flags);
    if (!config) return;
    const { generate } = await import('../generate/run.ts');
    await generate(config, {
      images: flags.image,
      prompt: flags.prompt ?? null,
      json: flags.json ?? false,
      print: (line) => console.log(line),
      ...(process.stderr.isTTY ? { progress: showProgress } : {}),
    });
  });
}

const collect = (value: string, before: string[]) => [...before, value];
