/** Files, groups and overrides → one configuration. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join as joinPath } from 'node:path';
import { fileURLToPath } from 'node:url';
import { applyOverride } from './apply.ts';
import { buildDefaults, type DefaultsList, splitDefaults } from './defaults.ts';
import { ConfigError } from './error.ts';
import { text } from './grammar/element.ts';
import { type Override, parseOverride, parseOverrideKey } from './grammar/override.ts';
import { Evaluator } from './interpolation.ts';
import type { Resolver } from './resolvers.ts';
import type { Fields, Section } from './schema/field.ts';
import { type NevaConfig, schema as nevaSchema } from './schema/index.ts';
import { Sources } from './sources.ts';
import { expandJobs } from './sweep.ts';
import { at, type Dict, dict, join, merge, type Node, type Origin, put, toValue } from './tree.ts';
import { applySchema, fieldPaths, findSchema } from './typing.ts';

export interface ComposeOptions {
  /** Name of the primary file, without `.yaml`. */
  configName: string;
  /** Folders to look in, the first that has a file wins. Default: neva's own `conf/`, which is always looked in last. */
  configDirs?: readonly string[];
  overrides?: readonly string[];
  /** Keys that must be given (???) may be missing: they have the schema's defaults. */
  lenient?: boolean;
  /** Folder of package.json; found by walking up from here. */
  packageRoot?: string;
  env?: Readonly<Record<string, string | undefined>>;
  resolvers?: Readonly<Record<string, Resolver>>;
}

/** One value that a key was given, in the order in which they were merged. */
export interface Setting {
  readonly origin: Origin;
  readonly value: unknown;
}

export interface ComposedTree {
  /** Not yet interpolated. */
  readonly tree: Dict;
  readonly defaults: DefaultsList;
  /** Dotted key → everything that set it, the last one in force. */
  readonly history: ReadonlyMap<string, readonly Setting[]>;
  readonly sources: Sources;
}

export interface Composed extends ComposedTree {
  readonly config: NevaConfig;
  /** As composed, interpolations in place: what `--cfg job` shows. */
  readonly raw: unknown;
  /** Dotted key of every leaf that a file or an override set → where. */
  readonly origins: ReadonlyMap<string, Origin>;
  /** Keys that were given and have no effect here, one line each. */
  readonly notices: readonly string[];
  readonly overrides: readonly string[];
}

let foundRoot: string | undefined;

/** The folder of neva's package.json, above this file. */
export function findPackageRoot(): string {
  if (foundRoot !== undefined) return foundRoot;
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const manifest = joinPath(folder, 'package.json');
    if (existsSync(manifest) && /"name":\s*"neva"/.test(readFileSync(manifest, 'utf8'))) {
      foundRoot = folder;
      return folder;
    }
    if (dirname(folder) === folder) throw new Error('package.json of neva was not found above the configuration code');
  }
}

/**
 * Composes, resolves and types a configuration of neva.
 * @throws ConfigError that names every problem, each with its key, what was expected, found, and where it came from
 */
export function compose(options: ComposeOptions): Composed {
  const composed = composeTree(options, nevaSchema);
  const evaluator = new Evaluator(composed.tree, evaluatorOptions(options));
  const problems: string[] = [];
  const resolved = resolveEach(composed.tree, '', evaluator, problems) as Dict;
  const typed = applySchema(resolved, nevaSchema, options.lenient);
  problems.push(...typed.problems);
  if (problems.length > 0) throw new ConfigError(problems.join('\n'));
  const origins = new Map<string, Origin>();
  for (const [key, settings] of composed.history) {
    const last = settings.at(-1);
    if (last !== undefined) origins.set(key, last.origin);
  }
  return {
    ...composed,
    config: typed.config as NevaConfig,
    raw: toValue(composed.tree),
    origins,
    notices: [...typed.notices, ...evaluator.warnings],
    overrides: options.overrides ?? [],
  };
}

/** Composition alone, as Hydra does it; with a schema its keys exist from the start, at their defaults. */
export function composeTree(options: ComposeOptions, schema: Section<Fields> | null = null): ComposedTree {
  const root = options.packageRoot ?? (schema === null ? null : findPackageRoot());
  const own = root === null ? [] : [joinPath(root, 'conf')];
  const sources = new Sources([...new Set([...(options.configDirs ?? []), ...own])]);
  const primary = options.configName.replace(/\.ya?ml$/, '');
  const overrides = (options.overrides ?? []).map((source) => readOverride(source, sources, schema));
  const isGroup = (o: Override) => sources.isGroup(o.key) && o.value?.kind !== 'dict';
  const defaults = buildDefaults(sources, primary, overrides.filter(isGroup));
  const merged = dict({ kind: 'default' });
  const history = new Map<string, Setting[]>();
  for (const file of defaults.files) {
    const loaded = sources.load(file.name);
    if (loaded === null) continue;
    const { body } = splitDefaults(loaded.root);
    const packaged = wrap(body, file.package);
    merge(merged, packaged, '');
    record(packaged, '', history);
  }
  // Hydra's own settings have no place here; a NeMo file may carry them.
  if (schema !== null) merged.entries.delete('hydra');
  const tree = schema === null ? merged : (merge(defaultsTree(schema), merged, '') as Dict);
  const known = schema === null ? allPaths(tree) : [...fieldPaths(schema), ...allPaths(merged)];
  for (const override of overrides) {
    if (isGroup(override)) continue;
    applyOverride(tree, override, known, schema !== null);
    const node = at(tree, override.key);
    if (node !== undefined) record(node, override.key, history, { kind: 'override', text: override.text });
  }
  return { tree, defaults, history, sources };
}

/**
 * The overrides of every job of a multirun, in order; nothing is composed. A job's overrides go to `compose` as they are.
 * @throws ConfigError for an override that cannot be read
 */
export function multirunJobs(options: ComposeOptions): string[][] {
  const sources = new Sources([
    ...new Set([...(options.configDirs ?? []), joinPath(options.packageRoot ?? findPackageRoot(), 'conf')]),
  ]);
  const overrides = (options.overrides ?? []).map((source) => readOverride(source, sources, nevaSchema, true));
  return expandJobs(overrides, (group) => sources.options(group));
}

/** Evaluates every interpolation of a composed tree; throws at the first that fails. */
export function resolve(composed: ComposedTree, options: Partial<ComposeOptions> = {}): unknown {
  return toValue(resolveTree(composed, options));
}

export function resolveTree(composed: ComposedTree, options: Partial<ComposeOptions> = {}): Node {
  return new Evaluator(composed.tree, evaluatorOptions(options)).deep(composed.tree, '');
}

function evaluatorOptions(options: Partial<ComposeOptions>) {
  return {
    packageRoot: options.packageRoot ?? findPackageRoot(),
    ...(options.env === undefined ? {} : { env: options.env }),
    ...(options.resolvers === undefined ? {} : { resolvers: options.resolvers }),
  };
}

/** Everything that can be evaluated; what cannot is left out, and its problem noted. */
function resolveEach(node: Node, path: string, evaluator: Evaluator, problems: string[]): Node | null {
  if (node.kind === 'dict') {
    const result = dict(node.origin);
    for (const [key, value] of node.entries) {
      const resolved = resolveEach(value, join(path, key), evaluator, problems);
      if (resolved !== null) result.entries.set(key, resolved);
    }
    return result;
  }
  try {
    // The value may come from elsewhere; the decision to take it was made here.
    return { ...evaluator.deep(node, path), origin: node.origin } as Node;
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    problems.push(error.message);
    return null;
  }
}

/**
 * An override whose value is read by the declared type of its key: a string key takes its text as it stands.
 * `data.x` means `model.data.x`, likewise for the other sections of `model`, when no key at the top is called so.
 */
export function readOverride(
  source: string,
  sources: Sources,
  schema: Section<Fields> | null,
  multirun = false,
): Override {
  if (schema === null) return parseOverride(source);
  const { key: written, equals, prefix, package: pkg } = parseOverrideKey(source);
  const key = sources.isGroup(written) && !written.includes('.') ? written : longKey(written, schema);
  const field = findSchema(schema, key);
  const isText = field?.node === 'field' && (field.type === 'string' || field.type === 'choice');
  if (!isText || equals < 0) return { ...parseOverride(source), key };
  const rest = source.slice(equals + 1).trim();
  // In a sweep the value is printed again for each job: quotes keep whatever is in it.
  const whole = text(rest, multirun ? "'" : null);
  const verbatim: Override = { prefix, key, package: pkg, value: whole, text: source, valueAt: equals + 1 };
  let parsed: Override;
  try {
    parsed = { ...parseOverride(source), key };
  } catch (error) {
    // An unclosed quote or bracket at the start is a slip; anything else is text.
    if (/^['"[{]/.test(rest)) throw error;
    if (field.type === 'choice') throw error;
    return verbatim;
  }
  const { value } = parsed;
  if (value === null || value.kind === 'null' || value.kind === 'string') return parsed;
  if (value.kind === 'choice' && value.simple && field.type === 'string' && !multirun) return verbatim;
  const scalar = value.kind === 'int' || value.kind === 'float' || value.kind === 'bool';
  return scalar && !/[()]/.test(rest) ? verbatim : parsed;
}

export function longKey(key: string, schema: Section<Fields>): string {
  const [first = ''] = key.split('.');
  if (Object.hasOwn(schema.fields, first)) return key;
  return findSchema(schema, `model.${first}`)?.node === 'section' ? `model.${key}` : key;
}

/** The schema's defaults: the lowest layer, so that every key can be overridden and referred to. */
function defaultsTree(schema: Section<Fields>): Dict {
  const origin: Origin = { kind: 'default' };
  return dict(
    origin,
    Object.entries(schema.fields).map(([key, node]) => [
      key,
      node.node === 'section' ? defaultsTree(node) : fromPlain(node.default, node.type === 'float', origin),
    ]),
  );
}

function fromPlain(value: unknown, float: boolean, origin: Origin): Node {
  if (Array.isArray(value)) {
    return { kind: 'list', items: value.map((item) => fromPlain(item, float, origin)), origin };
  }
  if (value === null) return { kind: 'scalar', value: { kind: 'null' }, origin };
  if (typeof value === 'object') return dict(origin);
  if (typeof value === 'boolean') return { kind: 'scalar', value: { kind: 'bool', value }, origin };
  if (typeof value === 'number') {
    return { kind: 'scalar', value: { kind: float || !Number.isInteger(value) ? 'float' : 'int', value }, origin };
  }
  return { kind: 'scalar', value: text(String(value)), origin };
}

function wrap(body: Dict, pkg: string): Dict {
  if (pkg === '') return body;
  const root = dict(body.origin);
  put(root, pkg, body);
  return root;
}

function record(node: Node, path: string, history: Map<string, Setting[]>, origin = node.origin): void {
  if (node.kind === 'dict') {
    for (const [key, value] of node.entries) {
      record(value, join(path, key), history, origin.kind === 'override' ? origin : value.origin);
    }
    return;
  }
  const settings = history.get(path) ?? [];
  settings.push({ origin, value: toValue(node) });
  history.set(path, settings);
}

function allPaths(node: Node, path = ''): string[] {
  if (node.kind !== 'dict') return path === '' ? [] : [path];
  return [...node.entries].flatMap(([key, value]) => [join(path, key), ...allPaths(value, join(path, key))]);
}
