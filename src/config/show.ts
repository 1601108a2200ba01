/** A composed configuration made visible: YAML with or without origins, the history of a key, the merge order. */
import { stringify } from 'yaml';
import type { ComposedTree } from './compose.ts';
import { ConfigError, problem } from './error.ts';
import { nearest } from './nearest.ts';
import { at, join, type Node, originText, scalarText, toValue } from './tree.ts';

/** `--cfg job`, with `--package` a part of it. */
export function showYaml(node: Node, pkg = ''): string {
  const part = pkg === '' ? node : at(node, pkg);
  if (part === undefined) throw new ConfigError(problem(pkg, 'there is no such package'));
  const text = stringify(toValue(part), { version: '1.1', lineWidth: 0, nullStr: 'null' });
  return pkg === '' ? text : `# @package ${pkg}\n${text}`;
}

/** One line a leaf, with where its value came from; `all` includes what is at its default. */
export function showOrigins(node: Node, all = false): string {
  const rows: [string, string][] = [];
  const walk = (inner: Node, path: string): void => {
    if (inner.kind === 'dict') for (const [key, value] of inner.entries) walk(value, join(path, key));
    else if (all || inner.origin.kind !== 'default') rows.push([`${path}: ${shown(inner)}`, originText(inner.origin)]);
  };
  walk(node, '');
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
