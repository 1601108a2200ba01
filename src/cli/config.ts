/** `neva config show | list | docs`: what can be set, and what a set of overrides makes of it. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { mistake } from '../errors.ts';
import { packageRoot } from '../root.ts';
import { addConfigFlags, type ConfigFlags, composeOrShow } from './hydra.ts';

export function define(command: Command): void {
  addConfigFlags(
    command
      .command('show')
      .usage('[NAME] [flags] [overrides…]')
      .description('print a composed configuration: of neva_pretrain, or of NAME'),
  ).action(async (overrides: string[], flags: ConfigFlags) => {
    const [first, ...rest] = overrides;
    const named = first !== undefined && !/[=~+]/.test(first);
    await composeOrShow(named ? first : 'neva_pretrain', named ? rest : overrides, { cfg: 'job', ...flags });
  });
  command.command('list').description('list the configurations, and the groups with their options').action(list);
  command
    .command('docs')
    .argument('[key]', 'a key such as model.optim.lr, or a section; without one, the sections at the top')
    .description('say what a key does: type, default, range')
    .action(docs);
}

async function list(): Promise<void> {
  const { Sources } = await import('../config/sources.ts');
  const sources = new Sources([join(packageRoot, 'conf')]);
  const lines = ['configurations', ...sources.options('').map((name) => `  ${name}`)];
  const walk = (parent: string) => {
    for (const name of sources.groups(parent)) {
      const group = parent === '' ? name : `${parent}/${name}`;
      const options = sources.options(group);
      if (options.length > 0) lines.push(`${group}=`, ...options.map((option) => `  ${option}`));
      walk(group);
    }
  };
  walk('');
  console.log(lines.join('\n'));
}

async function docs(written: string | undefined): Promise<void> {
  const { schema } = await import('../config/schema/index.ts');
  const { longKey } = await import('../config/compose.ts');
  const { describeField, fieldPaths, findSchema } = await import('../config/typing.ts');
  const { nearest } = await import('../config/nearest.ts');
  const key = written === undefined ? '' : longKey(written, schema);
  const node = key === '' ? schema : findSchema(schema, key);
  if (!node) {
    throw mistake({
      where: written as string,
      problem: 'there is no such key',
      fix: `nearest: ${nearest(key, fieldPaths(schema)).join(', ')}`,
    });
  }
  if (node.node === 'section') {
    const entries = Object.entries(node.fields);
    const width = Math.max(...entries.map(([name]) => name.length));
    console.log(
      [
        ...(key === '' ? [] : [`${key}: ${node.help}`]),
        ...entries.map(([name, { help }]) => `  ${name.padEnd(width)}  ${help}`),
      ].join('\n'),
    );
    return;
  }
  const lines = [
    `${key}: ${node.help}`,
    `  type:    ${describeField(node)}`,
    `  default: ${JSON.stringify(node.default)}`,
  ];
  if (node.synonyms) {
    lines.push(
      `  also:    ${Object.entries(node.synonyms)
        .map(([from, to]) => `${from} for ${to}`)
        .join(', ')}`,
    );
  }
  if (node.nemo) lines.push(`  in NeMo: ${node.nemo}`);
  if (node.status.kind === 'no-effect') lines.push(`  no effect here: ${node.status.reason}`);
  if (node.status.kind === 'refused') lines.push(`  only its default is accepted: ${node.status.instead}`);
  console.log(lines.join('\n'));
}
