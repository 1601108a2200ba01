/** Hydra's flags for the verbs that take a configuration, where Hydra users expect them. */
import type { Command } from 'commander';
import type { Composed, NevaConfig } from '../config/index.ts';
import { mistake } from '../errors.ts';

export interface ConfigFlags {
  configName?: string;
  configPath?: string;
  configDir?: string;
  cfg?: string;
  resolve?: boolean;
  package?: string;
  info?: string | true;
}

export function addConfigFlags(command: Command): Command {
  return command
    .argument('[overrides...]', 'key=value, +key=value, ++key=value, ~key, group=option')
    .option('--config-name <name>', 'configuration to start from, without .yaml (also -cn)')
    .option('--config-path <folder>', 'look for configurations here first (also -cp)')
    .option('--config-dir <folder>', 'look for configurations here, then in conf/ (also -cd)')
    .option('-c, --cfg <job>', 'print the configuration instead of running')
    .option('--resolve', 'with --cfg: interpolations resolved')
    .option('-p, --package <key>', 'with --cfg: only this part of it')
    .option('--info [topic]', 'print how the configuration came about: defaults or searchpath');
}

/**
 * The configuration of a verb — or null when a flag asked to see it instead: then it has been printed. Keys that were
 * given and have no effect are told on stderr. Throws a user error for anything that is wrong in files or overrides.
 */
export async function composeOrShow(
  configName: string,
  overrides: readonly string[],
  flags: ConfigFlags,
): Promise<NevaConfig | null> {
  const { compose } = await import('../config/index.ts');
  // `--info model.x=1`: the flag's topic is optional, and what follows it is an override.
  const infoTook = typeof flags.info === 'string' && /^[~+]|=/.test(flags.info) ? [flags.info] : [];
  const composed = compose({
    configName: flags.configName ?? configName,
    configDirs: [flags.configPath, flags.configDir].filter((folder) => folder !== undefined),
    overrides: [...infoTook, ...overrides],
  });
  if (flags.info !== undefined) {
    console.log(describe(composed, infoTook.length > 0 ? true : flags.info));
    return null;
  }
  if (flags.cfg !== undefined) {
    if (flags.cfg !== 'job') {
      throw mistake({ where: '--cfg', problem: 'no such part', expected: 'job', found: flags.cfg });
    }
    process.stdout.write(await show(composed, { resolve: flags.resolve ?? false, package: flags.package }));
    return null;
  }
  for (const notice of composed.notices) console.error(notice);
  return composed.config;
}

/** The composed configuration as YAML, whole or the part below `package`. */
export async function show(
  composed: Composed,
  { resolve, package: key }: { resolve: boolean; package?: string | undefined },
): Promise<string> {
  const { stringify } = await import('yaml');
  let part: unknown = resolve ? composed.config : composed.raw;
  for (const name of key?.split('.') ?? []) {
    part = typeof part === 'object' && part !== null ? (part as Record<string, unknown>)[name] : undefined;
    if (part === undefined) {
      throw mistake({ where: '--package', problem: 'the configuration has no such part', found: key as string });
    }
  }
  return stringify(part, { lineWidth: 0, aliasDuplicateObjects: false });
}

const topics = ['defaults', 'searchpath'] as const;

function describe({ defaults, sources }: Composed, topic: string | true): string {
  if (topic !== true && !topics.some((known) => known === topic)) {
    throw mistake({ where: '--info', problem: 'no such topic', expected: topics.join(' or '), found: topic });
  }
  const files = defaults.files.map(
    ({ name, package: key, parent }) =>
      `  ${name}${key === '' ? '' : `  below ${key}`}${parent === null ? '' : `  (named by ${parent})`}`,
  );
  const lines = {
    defaults: ['Merged in this order, later ones win; then the overrides:', ...files],
    searchpath: ['Looked in, the first that has a file wins:', ...sources.folders.map((folder) => `  ${folder}`)],
  };
  return (topic === true ? topics : [topic as (typeof topics)[number]]).flatMap((each) => lines[each]).join('\n');
}
