/** `neva evaluate`: a data set with answers → metrics, as JSON. */
import { closeSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import type { Command } from 'commander';
import { mistake } from '../errors.ts';
import { besideName } from '../files.ts';
import type { GivenAnswer } from '../generate/evaluate.ts';
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
    const answers = flags.out === undefined ? null : answerFile(flags.out);
    try {
      const metrics = await evaluate(config, {
        model: config.neva_model_file,
        limit: flags.limit ?? null,
        answers: flags.answers,
        ...(answers ? { onAnswer: answers.write } : {}),
        ...(process.stderr.isTTY ? { progress: showProgress } : {}),
      });
      answers?.keep();
      console.log(JSON.stringify(metrics, null, 2));
    } finally {
      answers?.drop();
    }
  });
}

/** Written beside, renamed when it is whole. */
function answerFile(path: string) {
  const beside = besideName(path);
  const file = openSync(beside, 'w');
  let open = true;
  const close = () => {
    if (open) closeSync(file);
    open = false;
  };
  return {
    write: (answer: GivenAnswer) => void writeSync(file, `${JSON.stringify(answer)}\n`),
    keep: () => {
      close();
      renameSync(beside, path);
    },
    drop: () => {
      close();
      rmSync(beside, { force: true });
    },
  };
}

function count(value: string): number {
  if (/^[1-9]\d*$/.test(value)) return Number(value);
  throw mistake({ where: '--limit', problem: 'not a count', expected: 'a whole number from 1', found: value });
}
