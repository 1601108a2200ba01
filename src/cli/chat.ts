/** `neva chat`: a conversation in the terminal. */
import type { Command } from 'commander';
import { addConfigFlags, type ConfigFlags } from './hydra.ts';
import { modelConfig } from './inference.ts';

export function define(command: Command): void {
  addConfigFlags(
    command
      .option('--model <path>', 'a checkpoint, a run, or an experiment (its newest run)')
      .option('--image <file>', 'a picture to begin with'),
  ).action(async (overrides: string[], flags: ConfigFlags & { model?: string; image?: string }) => {
    const config = await modelConfig(overrides, flags);
    if (!config) return;
    const { answerer } = await import('../generate/answer.ts');
    const { chat } = await import('../generate/chat.ts');
    const { openModel } = await import('../generate/load.ts');
    const { engine, loaded } = await openModel(config, 'chat');
    await chat(
      { answer: answerer(engine, loaded, config.inference), picture: loaded.picture },
      { input: process.stdin, output: process.stdout, interactive: process.stdin.isTTY === true },
      flags.image === undefined ? [] : [await loaded.picture(flags.image)],
    );
  });
}
