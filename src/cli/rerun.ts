/** `neva config rerun`: the command that a run was started with, printed or given again. */
import { resolve } from 'node:path';
import { shellQuote } from '../config/grammar/cursor.ts';
import { mistake } from '../errors.ts';
import { readRecord } from '../report/run_record.ts';
import { packageVersion } from '../root.ts';
import { Children } from './children.ts';

export async function rerun(run: string, more: readonly string[], again: boolean): Promise<void> {
  const { command, cwd, versions, ranks } = readRecord(resolve(run));
  const words = [...command.slice(1), ...more];
  const line = ['neva', ...words].map(shellQuote).join(' ');
  // Paths that were typed are relative to the folder that they were typed in.
  const whole = cwd === process.cwd() ? line : `cd ${shellQuote(cwd)} && ${line}`;
  if (versions.neva !== packageVersion()) {
    console.error(`The run was made by neva ${versions.neva}; this is ${packageVersion()}.`);
  }
  if (ranks > 1 && !words.some((word) => /^\+*trainer\.devices=/.test(word))) {
    console.error(`The run had ${ranks} ranks, started from outside (neva launch, torchrun, srun or mpirun).`);
  }
  if (!again) {
    console.log(whole);
    return;
  }
  if (words[0] !== 'pretrain' && words[0] !== 'finetune') {
    throw mistake({ where: run, problem: 'its run.json names no verb that can be repeated', found: String(words[0]) });
  }
  console.error(whole);
  const children = new Children();
  try {
    process.exitCode = await children.run(words, cwd);
  } finally {
    children.release();
  }
}
