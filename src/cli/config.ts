/** `neva config …`: what can be set, what a set of overrides makes of it, where each value came from; a run again. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { packageRoot } from '../root.ts';
import { addConfigFlags, type ConfigFlags, composeOptions, composeOrShow } from './hydra.ts';

export function define(command: Command): void {
  addConfigFlags(
    command
      .command('show')
      .usage('[NAME] [flags] [overrides…]')
      .description('print a composed configuration: of neva_pretrain, or of NAME')
      .option('--origin', 'one line a key, with the file and line, or the override, that its value came from')
      .option('--all', 'with --origin: also the keys that are at their default'),
  ).action(show);
  command.command('list').description('list the configurations, and the groups with their options').action(list);
  command
    .command('docs')
    .argument('[key]', 'a key such as model.optim.lr, or a section; without one, the sections at the top')
    .description('say what a key does: type, default, range, status')
    .action(docs);
  addConfigFlags(
    command
      .command('why')
      .usage('KEY [NAME] [flags] [overrides…]')
      .argument('<key>', 'a key or a section')
      .description('every value that a key was given, by which file or override, the one in force last'),
  ).action(why);
  command
    .command('rerun')
    .argument('<run>', 'the folder of a run')
    .argument('[overrides...]', 'further overrides')
    .description('print the command of a run')
    .option('--run', 'repeat it')
    .action(async (run: string, overrides: string[], flags: { run?: boolean }) => {
      const { rerun } = await import('./rerun.ts');
      await rerun(run, overrides, flags.run ?? false);
    });
}

/** A first word that is no override is the name of a configuration. */
function named(words: readonly string[]): { name: string; overrides: string[] } {
  const [first, ...rest] = words;
  if (first !== undefined && !/[=~+]/.test(first)) return { name: first, overrides: rest };
  return { name: 'neva_pretrain', overrides: [...words] };
}

async function show(words: string[], flags: ConfigFlags & { origin?: boolean; all?: boolean }): Promise<void> {
  const { name, overrides } = named(words);
  if (!flags.origin) {
    await composeOrShow(name, overrides, { cfg: 'job', ...flags });
    return;
  }
  const { compose, showOrigins } = await import('../config/index.ts');
  const { tree } = compose(composeOptions(name, overrides, flags));
  console.log(showOrigins(tree, flags.all, flags.package));
}

async function why(key: string, words: string[], flags: ConfigFlags): Promise<void> {
  const config = await import('../config/index.ts');
  const { name, overrides } = named(words);
  // The tree alone: a key can be asked about although another value is wrong.
  console.log(config.why(config.composeTree(composeOptions(name, overrides, flags), config.schema), key));
}

async function list(): Promise<void> {
  const { SearchPath } = await import('../config/search_path.ts');
  const path = new SearchPath([join(packageRoot, 'conf')]);
  const lines = ['configurations', ...path.options('').map((name) => `  ${name}`)];
  const walk = (parent: string) => {
    for (const name of path.groups(parent)) {
      const group = parent === '' ? name : `${parent}/${name}`;
      const options = path.options(group);
      if (options.length > 0) lines.push(`${group}=`, ...options.map((option) => `  ${option}`));
      walk(group);
    }
  };
  walk('');
  console.log(lines.join('\n'));
}

async function docs(key = ''): Promise<void> {
  const { keyDocs } = await import('../config/docs.ts');
  console.log(keyDocs(key));
}
