/** A composed configuration made visible: YAML with or without origins, the history of a key, the merge order. */
import { stringify } from 'yaml';
import type { ComposedTree } from './compose.ts';
import { ConfigError, problem } from './error.ts';
import { nearest } from './nearest.ts';
import { at, join, type Node, originText, scalarText, toValue } from './tree.ts';

/** Plain values as YAML that OmegaConf (YAML 1.1: `on` is a boolean) reads back as they were. */
export function printYaml(value: unknown): string {
  return stringify(value, { version: '1.1', lineWidth: 0, nullStr: 'null', aliasDuplicateObjects: false });
}

/**
 * `--cfg job`, with `--package` a part of it; `optim` stands for `model.optim` where nothing at the top is called so.
 * @param root a composed tree, or plain values such as a resolved configuration
 */
export function showYaml(root: unknown, pkg = ''): string {
  const [path, part] = findPart(isNode(root) ? toValue(root) : root, pkg);
  const text = printYaml(part);
  return path === '' ? text : `# @package ${path}\n${text}`;
}

function isNode(value: unknown): value is Node {
  return typeof value === 'object' && value !== null && 'kind' in value && 'origin' in value;
}

function findPart(root: unknown, pkg: string): [path: string, part: unknown] {
  if (pkg === '' || pkg === '_global_') return ['', root];
  for (const path of [pkg, `model.${pkg}`]) {
    let part: unknown = root;
    for (const name of path.split('.')) {
      part = typeof part === 'object' && part !== null ? (part as Record<string, unknown>)[name] : undefined;
    }
    if (part !== undefined) return [path, part];
  }
  throw new ConfigError(problem(pkg, 'there is no such package'));
}

/** One line a leaf, with where its value came from; `all` includes what is at its default. */
export function showOrigins(root: Node, all = false, pkg = ''): string {
  const [below = ''] = [pkg, `model.${pkg}`].filter((path) => at(root, path) !== undefined);
  const node = at(root, below);
  if (node === undefined || (pkg !== '' && below === '')) {
    throw new ConfigError(problem(pkg, 'there is no such package'));
  }
  const rows: [string, string][] = [];
  const walk = (inner: Node, path: string): void => {
    if (inner.kind === 'dict') for (const [key, value] of inner.entries) walk(value, join(path, key));
    else if (all || inner.origin.kind !== 'default') rows.push([`${path}: ${shown(inner)}`, originText(inner.origin)]);
  };
  walk(node, below);
  const width = Math.min(60, Math.max(0, ...rows.map(([left]) => left.length)));
  return rows.map(([left, right]) => `${left.padEnd(width)}  # ${right}`).join('\n');
}

function shown(node: Node): string {
  if (node.kind === 'scalar') {
    return node.value.kind === 'null'
      ? 'null'
      : node.value.kind === 'bool'
        ? String(node.value.value)
        : scalarText(node.value);
  }
  return JSON.stringify(toValue(node), (_, value) => (typeof value === 'bigint' ? String(value) : value));
}

/** `config why KEY`: every value that the key was given, the one in force last. */
export function why(composed: ComposedTree, key: string): string {
  const keys = [...composed.history.keys()];
  const found = composed.history.has(key) ? key : composed.history.has(`model.${key}`) ? `model.${key}` : key;
  const node = at(composed.tree, found);
  if (node === undefined) {
    const close = nearest(key, keys);
    throw new ConfigError(
      problem(key, 'there is no such key', close.length > 0 ? { fix: `did you mean ${close.join(' or ')}?` } : {}),
    );
  }
  if (node.kind === 'dict') {
    return keys
      .filter((name) => name.startsWith(`${found}.`))
      .map((name) => why(composed, name))
      .join('\n');
  }
  const settings = composed.history.get(found) ?? [];
  if (settings.length === 0) return `${found}: ${shown(node)}, the default`;
  const lines = settings.map((setting, i) => {
    const last = i === settings.length - 1;
    return `  ${last ? '→' : ' '} ${JSON.stringify(setting.value)}  ${originText(setting.origin)}${last ? '' : '  (overridden)'}`;
  });
  return [`${found}: ${shown(node)}`, ...lines].join('\n');
}

/** `--info defaults`: the files in merge order. */
export function showDefaults({ defaults, sources }: ComposedTree): string {
  const rows = defaults.files.map(({ name, package: pkg, parent }) => [
    name,
    pkg || '(root)',
    parent ?? '',
    sources.find(name) ?? '',
  ]);
  const header = ['config', 'package', 'asked for by', 'file'];
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  return [header, ...rows]
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

/** `--info defaults-tree`: which configuration asked for which, each in the order in which they are merged. */
export function showDefaultsTree({ defaults }: ComposedTree): string {
  const lines: string[] = [];
  const print = (name: string, depth: number): void => {
    lines.push(`${'  '.repeat(depth)}${name}`);
    // A configuration that asks for others stands among them at its _self_.
    const children = childrenOf(defaults.files, name);
    if (children.length === 0) return;
    for (const child of children) {
      if (child === name) lines.push(`${'  '.repeat(depth + 1)}_self_`);
      else print(child, depth + 1);
    }
  };
  const primary = defaults.files.find((file) => file.parent === null);
  if (primary !== undefined) print(primary.name, 0);
  return lines.join('\n');
}

/** The names below `name`, and `name` itself where its own content is merged; empty when it asks for no others. */
function childrenOf(files: ComposedTree['defaults']['files'], name: string): string[] {
  const parents = new Map(files.map((file) => [file.name, file.parent]));
  const found: string[] = [];
  for (const file of files) {
    let below: string = file.name;
    for (
      let above = file.parent;
      above !== null && below !== name && above !== name;
      above = parents.get(above) ?? null
    )
      below = above;
    if (below !== name && parents.get(below) !== name) continue;
    if (!found.includes(below)) found.push(below);
  }
  return found.length === 1 && found[0] === name ? [] : found;
}
