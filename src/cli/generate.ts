/** `neva generate`: answers of a trained model. */
import type { Command } from 'commander';
import { addConfigFlags, type ConfigFlags, checkRules, composeOrShow, tellNotices } from './hydra.ts';

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
    const composed = await composeOrShow('neva_inference', overrides, flags);
    if (!composed) return;
    await tellNotices(composed, 'inference');
    const { config } = composed;
    // --model takes its place, and is looked for when it is opened.
    const neva_model_file = flags.model === undefined ? config.neva_model_file : null;
    await checkRules({ config: { ...config, neva_model_file } }, 'inference');
    const { chooseEngine } = await import('../engine/open.ts');
    const trainer = await chooseEngine(config.trainer, (line) => console.error(line));
    const { generate } = await import('../generate/run.ts');
    await generate(
      { ...config, trainer },
      {
        model: flags.model ?? null,
        images: flags.image,
        prompt: flags.prompt ?? null,
        json: flags.json ?? false,
        print: (line) => console.log(line),
        ...(process.stderr.isTTY ? { progress: showProgress } : {}),
      },
    );
  });
}

const collect = (value: string, before: string[]) => [...before, value];

function showProgress(done: number, total: number): void {
  process.stderr.write(`\r${done}/${total}${done === total ? '\n' : ''}`);
}
