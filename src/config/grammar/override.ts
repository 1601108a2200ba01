/** One override: prefix, key, package, value. */
import type { ConfigError } from '../error.ts';
import { Cursor, nameCharacter, overrideError, shellQuote } from './cursor.ts';
import { floatText, isSweep, printElement, type Sweep, type Value } from './element.ts';
import { parseValue } from './value.ts';

export type Prefix = '' | '+' | '++' | '~';

export interface Override {
  /** none: change an existing key; `+`: add one; `++`: either; `~`: delete. */
  readonly prefix: Prefix;
  /** A dotted path (`model.optim.lr`) or a group (`model`, `db/schema`). */
  readonly key: string;
  /** What follows `@`; null without one, '' for a bare `@`. */
  readonly package: string | null;
  /** null only where there is no `=`, which `~key` alone allows. */
  readonly value: Value | null;
  /** As typed. */
  readonly text: string;
  /** Index in `text` of what follows the first `=`, or its length. */
  readonly valueAt: number;
}

const IDENTIFIER = '[A-Za-z_][A-Za-z0-9_-]*';
const SPECIAL = '[A-Za-z_$][A-Za-z0-9_$-]*';
const SEGMENT = `(?:${SPECIAL}|0|[1-9](?:_?[0-9])*)`;
const PACKAGE = new RegExp(`^(?:${SPECIAL}|${SEGMENT}(?:\\.${SEGMENT})+)?$`);
const GROUP = new RegExp(`^${IDENTIFIER}(?:/${IDENTIFIER})+$`);

/**
 * Parses one override of the Hydra grammar. Besides what Hydra 1.3 takes, these are accepted: nested interpolations,
 * quoted dict keys, characters beyond ASCII, blanks after a quoted string, a list or a dict.
 * @throws ConfigError with the column, the character and a form that works
 */
export function parseOverride(source: string): Override {
  const prefix = (/^(?:\+\+?|~)?/.exec(source)?.[0] ?? '') as Prefix;
  const equals = source.indexOf('=');
  const keyEnd = equals < 0 ? source.length : equals;
  const { key, packageName } = parseKey(source, prefix, keyEnd);
  if (equals < 0) {
    if (prefix !== '~') {
      throw overrideError(
        source,
        "an equals sign '=' is missing",
        source === '' ? 'write key=value' : `write ${shellQuote(`${source}=VALUE`)}, or ~${key} to delete the key`,
        source.length,
      );
    }
    return { prefix, key, package: packageName, value: null, text: source, valueAt: source.length };
  }
  const cursor = new Cursor(source, equals + 1);
  const value = parseValue(cursor);
  return { prefix, key, package: packageName, value, text: source, valueAt: equals + 1 };
}

export function parseOverrides(sources: readonly string[]): Override[] {
  return sources.map(parseOverride);
}

/** Prefix, key and package alone: the value may then be read by the declared type of the key. */
export function parseOverrideKey(source: string): Pick<Override, 'prefix' | 'key' | 'package'> & { equals: number } {
  const prefix = (/^(?:\+\+?|~)?/.exec(source)?.[0] ?? '') as Prefix;
  const equals = source.indexOf('=');
  const { key, packageName } = parseKey(source, prefix, equals < 0 ? source.length : equals);
  return { prefix, key, package: packageName, equals };
}

function parseKey(source: string, prefix: string, end: number): { key: string; packageName: string | null } {
  const at = source.indexOf('@');
  const split = at >= 0 && at < end;
  const key = source.slice(prefix.length, split ? at : end);
  const packageName = split ? source.slice(at + 1, end) : null;
  if (!PACKAGE.test(key) && !GROUP.test(key)) throw badKey(source, key, prefix.length);
  if (packageName !== null && !PACKAGE.test(packageName)) throw badKey(source, packageName, at + 1);
  return { key, packageName };
}

function badKey(source: string, key: string, start: number): ConfigError {
  if (/^--?[A-Za-z]/.test(source)) {
    return overrideError(source, 'this looks like a flag, not an override', 'see --help for the flags', 0);
  }
  const blank = key.search(/\s/);
  if (blank >= 0) {
    const squeezed = source.replace(/^([^=]*)=/, (_, k: string) => `${k.replace(/\s+/g, '')}=`);
    return overrideError(source, 'a blank cannot stand in a key', `write ${shellQuote(squeezed)}`, start + blank);
  }
  const bracket = /\[(\d+)\]/.exec(key);
  if (bracket) {
    const dotted = source.replace(/\[(\d+)\]/g, '.$1');
    return overrideError(
      source,
      'an index is written with a dot',
      `write ${shellQuote(dotted)}`,
      start + bracket.index,
    );
  }
  const colon = key.indexOf(':');
  if (colon >= 0) {
    return overrideError(
      source,
      source.includes('=') ? "a colon ':' cannot stand in a key" : "key and value are joined by '=', not by ':'",
      source.includes('=')
        ? 'a package is written group@package=option'
        : `write ${shellQuote(source.replace(/:\s*/, '='))}`,
      start + colon,
    );
  }
  const slash = key.indexOf('/');
  if (slash >= 0 && key.includes('.')) {
    return overrideError(source, 'a key is dotted (a.b) or a group (a/b), not both', undefined, start + slash);
  }
  if (slash === 0) {
    return overrideError(
      source,
      "a group does not begin with '/' here",
      `write ${shellQuote(source.replace('/', ''))}`,
      start,
    );
  }
  const illegal = key.search(/[^\w$./-]/);
  if (illegal >= 0) {
    const char = String.fromCodePoint(key.codePointAt(illegal) ?? 0);
    return overrideError(
      source,
      `${nameCharacter(char)} cannot stand in a key`,
      'keys are letters, digits, _ and -, joined by dots',
      start + illegal,
    );
  }
  const segment = key.split(/[./]/).find((part) => !new RegExp(`^${SEGMENT}$`).test(part)) ?? '';
  const offset = segment === '' ? Math.max(0, key.search(/\.\.|^\.|\.$|\/\/|\/$/)) : key.indexOf(segment);
  return overrideError(
    source,
    segment === '' ? 'a part of the key is empty' : `'${segment}' cannot be a part of a key`,
    'a part begins with a letter or _, or is a list index',
    start + offset,
  );
}

/** An override in words that parse to the same thing. */
export function printOverride(override: Pick<Override, 'prefix' | 'key' | 'package' | 'value'>): string {
  const name = overrideKey(override);
  return override.value === null ? name : `${name}=${printValue(override.value)}`;
}

/** Prefix, key and package: the dimension that the override belongs to in a sweep. */
export function overrideKey(override: Pick<Override, 'prefix' | 'key' | 'package'>): string {
  return `${override.prefix}${override.key}${override.package === null ? '' : `@${override.package}`}`;
}

export function printValue(value: Value): string {
  return isSweep(value) ? printSweep(value) : printElement(value);
}

function printSweep(sweep: Sweep): string {
  return sweep.tags.length === 0
    ? printUntagged(sweep)
    : // Tags are quoted: bare they could read as numbers.
      `tag(${sweep.tags.map((tag) => printElement({ kind: 'string', value: tag, quote: "'" })).join(',')},${printUntagged(sweep)})`;
}

function printUntagged(sweep: Sweep): string {
  const shuffled = (inner: string, shuffle: boolean) => (shuffle ? `shuffle(${inner})` : inner);
  switch (sweep.kind) {
    case 'choice': {
      const items = sweep.items.map(printElement).join(',');
      if (sweep.simple && sweep.shuffle) return `shuffle(${items})`;
      return sweep.simple ? items : shuffled(`choice(${items})`, sweep.shuffle);
    }
    case 'range': {
      const [start, stop, step] = [sweep.start, sweep.stop, sweep.step].map(printElement);
      return shuffled(`range(${start},${stop},${step})`, sweep.shuffle);
    }
    case 'interval': {
      const end = (element: typeof sweep.start) =>
        element.kind === 'float' ? floatText(element.value) : printElement(element);
      const text = `interval(${end(sweep.start)},${end(sweep.end)})`;
      return sweep.start.kind === 'int' ? `int(${text})` : text;
    }
    case 'glob': {
      const list = (patterns: readonly string[]) =>
        `[${patterns.map((p) => printElement({ kind: 'string', value: p, quote: "'" })).join(',')}]`;
      return `glob(${list(sweep.include)},exclude=${list(sweep.exclude)})`;
    }
  }
}
