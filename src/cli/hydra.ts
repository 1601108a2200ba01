/** Hydra's flags for the verbs that take a configuration, where Hydra users expect them. */
import { existsSync } from 'node:fs';
import type { Command } from 'commander';
import type { Composed, ComposeOptions } from '../config/index.ts';
import { mistake, UserError } from '../errors.ts';

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
    .option(
      '--info [topic]',
      'print how the configuration came about: defaults, defaults-tree, config or searchpath; without a topic, all but config',
    );
}

/** What `compose` takes, out of a verb's flags and overrides. */
export function composeOptions(configName: string, overrides: readonly string[], flags: ConfigFlags): ComposeOptions {
  return {
    configName: flags.configName ?? configName,
    configDirs: [flags.configPath, flags.configDir].filter((folder) => folder !== undefined),
    overrides,
  };
}

/** The flags that choose a configuration, as they would be typed again. */
export function flagWords({ configName, configPath, configDir }: ConfigFlags): string[] {
  const given: [string, string | undefined][] = [
    ['--config-name', configName],
    ['--config-path', configPath],
    ['--config-dir', configDir],
  ];
  return given.flatMap(([flag, value]) => (value === undefined ? [] : [flag, value]));
}

/**
 * The configuration of a verb — or null when a flag asked to see it instead: then it has been printed.
 * Throws a user error for anything that is wrong in files or overrides; `lenient` lets keys that must be given be missing.
 */
export async function composeOrShow(
  configName: string,
  overrides: readonly string[],
  flags: ConfigFlags,
  lenient = false,
): Promise<Composed | null> {
  const { compose, showYaml } = await import('../config/index.ts');
  // `--info model.x=1`: the flag's topic is optional, and what follows it is an override.
  const infoTook = typeof flags.info === 'string' && /^[~+]|=/.test(flags.info) ? [flags.info] : [];
  const composed = compose({ ...composeOptions(configName, [...infoTook, ...overrides], flags), lenient });
  if (flags.info !== undefined) {
    console.log(await describe(composed, infoTook.length > 0 ? true : flags.info));
    return null;
  }
  if (flags.cfg !== undefined) {
    if (flags.cfg !== 'job') {
      throw mistake({ where: '--cfg', problem: 'no such part', expected: 'job', found: flags.cfg });
    }
    process.stdout.write(showYaml(flags.resolve ? composed.config : composed.raw, flags.package));
    return null;
  }
  return composed;
}

/** Keys that were given and have no effect, and what is probably not meant: one line each on stderr. */
export async function tellNotices({ notices, config }: Composed, purpose: 'train' | 'inference'): Promise<void> {
  const { findRemarks } = await import('../config/index.ts');
  for (const line of [...notices, ...(purpose === 'train' ? findRemarks(config) : [])]) console.error(line);
}

/**
 * The rules that join several keys, and what this build cannot do, before anything is loaded.
 * @returns one message for everything that is broken, or null
 */
export async function brokenRules(
  { config }: Pick<Composed, 'config'>,
  purpose: 'train' | 'inference',
): Promise<string | null> {
  const { findProblems } = await import('../config/index.ts');
  const { readPlace } = await import('../parallel/environment.ts');
  const { unsupported } = await import('../train/supported.ts');
  const place = readPlace(process.env);
  const rules = findProblems(config, {
    purpose,
    exists: existsSync,
    ...(place === null ? {} : { worldSize: place.world }),
  });
  const problems = purpose === 'train' ? [...rules, ...unsupported(config)] : rules;
  return problems.length === 0 ? null : problems.join('\n');
}

/** @throws a user error that names everything that is broken */
export async function checkRules(composed: Pick<Composed, 'config'>, purpose: 'train' | 'inference'): Promise<void> {
  const message = await brokenRules(composed, purpose);
  if (message !== null) throw new UserError(message);
}

async function describe(composed: Composed, asked: string | true): Promise<string> {
  const { printYaml, showDefaults, showDefaultsTree } = await import('../config/index.ts');
  const topics: Record<string, () => string> = {
    defaults: () => `Merged in this order, later ones win; then the overrides:\n${showDefaults(composed)}`,
    'defaults-tree': () => showDefaultsTree(composed),
    searchpath: () =>
      ['Looked in, the first that has a file wins:', ...composed.sources.folders.map((f) => `  ${f}`)].join('\n'),
    config: () => printYaml(composed.raw).trimEnd(),
  };
  if (asked === true) return ['defaults', 'defaults-tree', 'searchpath'].map((each) => topics[each]!()).join('\n\n');
  const topic = Object.hasOwn(topics, asked) ? topics[asked] : undefined;
  if (!topic) {
    const expected = Object.keys(topics).join(', ');
    throw mistake({ where: '--info', problem: 'no such topic', expected, found: asked });
  }
  return topic();
}
