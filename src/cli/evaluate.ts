/** `neva evaluate`: a data set with answers → metrics, as JSON. */
import type { Command } from 'commander';
import { mistake } from '../errors.ts';
import { LineFile } from '../files.ts';
import { addConfigFlags, type ConfigFlags } from './hydra.ts';
import { modelConfig, showProgress } from './inference.ts';

interface EvaluateFlags {
  model?: string;
  limit?: number;
  answers: boolean;
  out?: string;
}

export function define(command: Command): void {
  addConfigFlags(
    command
      .option('--model <path>', 'a checkpoint, a run, or an experiment (its newest run)')
      .option('--limit <n>', 'only the first so many records', count)
      .option('--no-answers', 'loss and token accuracy only: the model writes no answers of its own')
      .option('--out <file>', "write every answer beside the data's, a JSON object a line"),
  ).action(async (overrides: string[], flags: ConfigFlags & EvaluateFlags) => {
    const config = await modelConfig(overrides, flags);
    if (!config) return;
    const { evaluate } = await import('../generate/evaluate.ts');
    const answers = flags.out === undefined ? null : new LineFile(flags.out);
    try {
      const metrics = await evaluate(config, {
        limit: flags.limit ?? null,
        answers: flags.answers,
        ...(answers ? { onAnswer: (answer) => answers.write(answer) } : {}),
        ...(process.stderr.isTTY ? { progress: showProgress } : {}),
      });
      answers?.keep();
      console.log(JSON.stringify(metrics, null, 2));
    } finally {
      answers?.drop();
    }
  });
}

function count(value: string): number {
  if (/^[1-9]\d*$/.test(value)) return Number(value);
  throw mistake({ where: '--limit', problem: 'not a count', expected: 'a whole number from 1', found: value });
}
