/** Value overrides, applied to a composed tree with Hydra's rules of what must or must not exist. */
import { ConfigError, problem } from './error.ts';
import { isSweep } from './grammar/element.ts';
import { type Override, overrideKey } from './grammar/override.ts';
import { nearest } from './nearest.ts';
import { at, type Dict, fromElement, isMissing, isNull, join, merge, type Node, put, toValue, word } from './tree.ts';

/**
 * @param knownPaths candidates for did-you-mean
 * @param closed no key can be added: a schema says which there are
 */
export function applyOverride(root: Dict, override: Override, knownPaths: readonly string[], closed = false): void {
  const { key, prefix, value } = override;
  const origin = { kind: 'override', text: override.text } as const;
  if (override.package !== null) {
    throw new ConfigError(
      problem(overrideKey(override), 'a package after @ is for groups', {
        from: `override ${override.text}`,
        fix: `there is no group '${override.key}'; write the whole key with dots`,
      }),
    );
  }
  if (prefix === '~') {
    remove(root, override);
    return;
  }
  if (value === null || isSweep(value)) throw sweepError(override);
  const node = fromElement(value, origin);
  const existing = at(root, key);
  if (prefix === '') {
    if (existing === undefined) throw unknownKey(override, key, knownPaths, closed);
    const strangers = node.kind === 'dict' && existing.kind === 'dict' ? newKeys(existing, node, key) : [];
    if (strangers[0] !== undefined) throw unknownKey(override, strangers[0], knownPaths, closed);
  } else if (prefix === '+' && node.kind === 'scalar' && existing !== undefined) {
    // What only the schema's defaults know was not there for a NeMo user: + may set it.
    if (!isNull(existing) && !isMissing(existing) && existing.origin.kind !== 'default') {
      throw new ConfigError(
        problem(key, 'there is a value already, so + cannot add it', {
          found: word(existing),
          from: `override ${override.text}`,
          fix: `write ${override.text.slice(1)} to change it`,
        }),
      );
    }
  }
  // Merging also refuses a list in the place of a mapping and the other way round.
  put(root, key, existing === undefined || node.kind === 'scalar' ? node : merge(existing, node, key));
}

function newKeys(existing: Dict, given: Dict, path: string): string[] {
  const found: string[] = [];
  for (const [key, value] of given.entries) {
    const inner = existing.entries.get(key);
    if (inner === undefined) found.push(join(path, key));
    else if (inner.kind === 'dict' && value.kind === 'dict') found.push(...newKeys(inner, value, join(path, key)));
  }
  return found;
}

function remove(root: Dict, override: Override): void {
  const parts = override.key.split('.');
  const last = parts.pop() as string;
  const parent = at(root, parts.join('.'));
  const node = at(root, override.key);
  const from = `override ${override.text}`;
  if (node === undefined || isNull(node) || isMissing(node)) {
    throw new ConfigError(problem(override.key, 'there is nothing to delete', { from }));
  }
  if (override.value !== null && !isSweep(override.value)) {
    const expected = fromElement(override.value, node.origin);
    if (!same(node, expected)) {
      throw new ConfigError(
        problem(override.key, 'not deleted: it has another value', {
          expected: word(expected),
          found: word(node),
          from,
        }),
      );
    }
  }
  if (parent?.kind === 'list') parent.items.splice(Number(last), 1);
  else if (parent?.kind === 'dict') parent.entries.delete(last);
}

/** Python's ==: 1, 1.0 and True are equal, '1' is not. */
function same(a: Node, b: Node): boolean {
  const plain = (node: Node): string =>
    JSON.stringify(toValue(node), (_, value) =>
      typeof value === 'boolean' ? Number(value) : typeof value === 'bigint' ? String(value) : value,
    );
  return plain(a) === plain(b);
}

function sweepError({ text, value }: Override): ConfigError {
  const simple = value?.kind === 'choice' && value.simple;
  const [key = '', ...rest] = text.split('=');
  const list = `${key}=[${rest.join('=')}]`;
  return new ConfigError(
    problem(key.replace(/^\+*/, ''), 'several values are a sweep, and this is a single run', {
      from: `override ${text}`,
      fix: `add --multirun for one run each${simple ? `, write '${list}' for a list, or quote the value for text` : ''}`,
    }),
  );
}

function unknownKey(override: Override, key: string, knownPaths: readonly string[], closed: boolean): ConfigError {
  const close = nearest(key, knownPaths);
  const otherwise = closed
    ? 'see `neva config docs` for all keys; variables of your own go below vars'
    : `to add a key that no file has, write +${override.text}`;
  return new ConfigError(
    problem(key, 'there is no such key', {
      from: `override ${override.text}`,
      fix: close.length > 0 ? `did you mean ${close.join(' or ')}?` : otherwise,
    }),
  );
}
