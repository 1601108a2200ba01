/** `${…}` in values: parsed here, evaluated lazily against the whole configuration. */
import { ConfigError, problem } from './error.ts';
import { NULL, text } from './grammar/element.ts';
import { typed } from './grammar/value.ts';
import { nearest } from './nearest.ts';
import { RESOLVERS, type Resolver } from './resolvers.ts';
import { child, dict, isMissing, join, type Node, type Origin, originText, pythonText, type Scalar } from './tree.ts';

/** A text cut into literal pieces and interpolations. */
type Piece = { literal: string } | { inside: string };

/** Whether a value holds an interpolation (or an escaped one, which evaluation turns into text). */
export function isInterpolated(node: Node): boolean {
  return node.kind === 'scalar' && node.value.kind === 'string' && node.value.value.includes('${');
}

/** @throws ConfigError when a `${` is not closed */
export function split(source: string): Piece[] {
  const pieces: Piece[] = [];
  let literal = '';
  let i = 0;
  while (i < source.length) {
    const open = source.indexOf('${', i);
    if (open < 0) break;
    let slashes = 0;
    while (open - slashes > i && source[open - slashes - 1] === '\\') slashes++;
    literal += source.slice(i, open - slashes) + '\\'.repeat(Math.floor(slashes / 2));
    if (slashes % 2 === 1) {
      literal += '${';
      i = open + 2;
      continue;
    }
    const close = closing(source, open + 2);
    if (close < 0) throw new ConfigError(`the interpolation '${source.slice(open)}' is not closed`);
    if (literal !== '') pieces.push({ literal });
    literal = '';
    pieces.push({ inside: source.slice(open + 2, close) });
    i = close + 1;
  }
  literal += source.slice(i);
  if (literal !== '' || pieces.length === 0) pieces.push({ literal });
  return pieces;
}

/** Index of the brace that closes what began before `from`; −1 without one. */
function closing(source: string, from: number): number {
  let depth = 0;
  for (let i = from; i < source.length; i++) {
    const char = source[i];
    if (char === '\\') i++;
    else if (char === "'" || char === '"') {
      let end = i + 1;
      while (end < source.length && source[end] !== char) end += source[end] === '\\' ? 2 : 1;
      if (end < source.length) i = end;
    } else if (char === '{') depth++;
    else if (char === '}') {
      if (depth === 0) return i;
      depth--;
    }
  }
  return -1;
}

export interface EvaluatorOptions {
  packageRoot: string;
  env?: Readonly<Record<string, string | undefined>>;
  resolvers?: Readonly<Record<string, Resolver>>;
}

interface Place {
  node: Node;
  path: string;
}

export class Evaluator {
  readonly warnings: string[] = [];
  private readonly root: Node;
  private readonly options: EvaluatorOptions;
  private readonly resolvers: Readonly<Record<string, Resolver>>;
  /** Paths under evaluation, in order: a repeated one is a cycle. */
  private readonly active: string[] = [];

  constructor(root: Node, options: EvaluatorOptions) {
    this.root = root;
    this.options = options;
    this.resolvers = { ...RESOLVERS, ...options.resolvers };
  }

  /** The node with everything in it evaluated. */
  deep(node: Node, path: string): Node {
    const place = this.shallow(node, path);
    if (place.node.kind === 'scalar') return place.node;
    if (this.active.includes(`*${place.path}`)) this.cycle(`*${place.path}`);
    this.active.push(`*${place.path}`);
    try {
      const inner = place.node;
      if (inner.kind === 'list') {
        return { ...inner, items: inner.items.map((item, i) => this.deep(item, join(place.path, i))) };
      }
      return dict(
        inner.origin,
        [...inner.entries].map(([key, value]) => [key, this.deep(value, join(place.path, key))] as const),
      );
    } finally {
      this.active.pop();
    }
  }

  /** The value at a path; undefined when there is none. */
  select(path: string): Node | undefined {
    const place = this.locate(path.split('.'));
    return place === undefined ? undefined : this.deep(place.node, place.path);
  }

  /** The node that an interpolation stands for, its own content not yet evaluated. */
  private shallow(node: Node, path: string): Place {
    if (!isInterpolated(node)) return { node, path };
    const scalar = node as Scalar;
    if (this.active.includes(path)) this.cycle(path);
    this.active.push(path);
    try {
      return this.evaluateText(String((scalar.value as { value: string }).value), path, node.origin);
    } catch (error) {
      throw error instanceof ConfigError ? this.located(error, path, node) : error;
    } finally {
      this.active.pop();
    }
  }

  private located(error: ConfigError, path: string, node: Node): ConfigError {
    if (error.message.includes('\n')) return error;
    const found = node.kind === 'scalar' && node.value.kind === 'string' ? node.value.value : undefined;
    return new ConfigError(
      problem(path, error.message, { from: originText(node.origin), ...(found === undefined ? {} : { found }) }),
    );
  }

  private cycle(path: string): never {
    const from = this.active.indexOf(path);
    const names = [...this.active.slice(from), path].map((name) => name.replace('*', ''));
    throw new ConfigError(`interpolations go round in a circle: ${names.join(' → ')}`);
  }

  private evaluateText(source: string, path: string, origin: Origin): Place {
    const pieces = split(source);
    const [only] = pieces;
    if (pieces.length === 1 && only !== undefined && 'inside' in only) return this.evaluate(only.inside, path, origin);
    const parts = pieces.map((piece) => ('literal' in piece ? piece.literal : this.asText(piece.inside, path, origin)));
    return { node: { kind: 'scalar', value: text(parts.join('')), origin }, path };
  }

  private asText(inside: string, path: string, origin: Origin): string {
    const place = this.evaluate(inside, path, origin);
    return pythonText(this.deep(place.node, place.path));
  }

  private evaluate(inside: string, path: string, origin: Origin): Place {
    const call = /^\s*([A-Za-z_][\w.]*)\s*:/.exec(inside);
    if (call) return { node: this.callResolver(call[1] as string, inside.slice(call[0].length), path, origin), path };
    const key = inside.trim();
    const parts = this.pathParts(key, path, origin);
    const place = this.locate(parts);
    if (place === undefined) {
      const absolute = parts.join('.');
      const close = nearest(absolute, this.allPaths());
      throw new ConfigError(
        `the interpolation \${${key}} names no key${close.length > 0 ? `; did you mean ${close.join(' or ')}?` : ''}`,
      );
    }
    if (isMissing(place.node)) throw new ConfigError(`the interpolation \${${key}} names a key that is still ???`);
    return place;
  }

  /** Absolute segments of `a.b`, `.a`, `..a`, `a[0]`, `a.${b}`. */
  private pathParts(key: string, path: string, origin: Origin): string[] {
    const dots = /^\.*/.exec(key)?.[0].length ?? 0;
    const segments: string[] = [];
    let i = dots;
    const bad = (): never => {
      throw new ConfigError(`the interpolation \${${key}} is not a path of keys`);
    };
    while (i < key.length) {
      const bracket = key[i] === '[';
      if (bracket) i++;
      let segment: string;
      if (key.startsWith('${', i)) {
        const end = closing(key, i + 2);
        if (end < 0) bad();
        const place = this.evaluate(key.slice(i + 2, end), path, origin);
        if (place.node.kind !== 'scalar' || place.node.value.kind !== 'string') {
          throw new ConfigError(`\${${key.slice(i + 2, end)}} must be a string to be part of a path`);
        }
        segment = place.node.value.value;
        i = end + 1;
      } else {
        const match = /^[^.[\]{}'":=,\s()]+/.exec(key.slice(i));
        if (match === null) return bad();
        segment = match[0];
        i += segment.length;
      }
      if (bracket) {
        if (key[i] !== ']') bad();
        i++;
      }
      segments.push(segment);
      if (i < key.length && key[i] === '.') {
        i++;
        if (i === key.length) bad();
      } else if (i < key.length && key[i] !== '[') bad();
    }
    if (dots === 0) return segments.length === 0 ? bad() : segments;
    const base = path.split('.').slice(0, -dots);
    if (path.split('.').length < dots) bad();
    return [...base, ...segments];
  }

  private locate(parts: readonly string[]): Place | undefined {
    let place: Place = { node: this.root, path: '' };
    for (const part of parts) {
      const inner = this.shallow(place.node, place.path);
      const next = child(inner.node, part);
      if (next === undefined) return undefined;
      place = { node: next, path: join(inner.path, part) };
    }
    return this.shallow(place.node, place.path);
  }

  private callResolver(name: string, source: string, path: string, origin: Origin): Node {
    const resolver = Object.hasOwn(this.resolvers, name) ? this.resolvers[name] : undefined;
    if (resolver === undefined) {
      throw new ConfigError(`there is no resolver '${name}'; there are ${Object.keys(this.resolvers).join(', ')}`);
    }
    const args = this.parseArguments(source, path, origin);
    return resolver(args, {
      packageRoot: this.options.packageRoot,
      env: this.options.env ?? process.env,
      origin,
      select: (key) => {
        const place = this.locate(this.pathParts(key, path, origin));
        return place === undefined || isMissing(place.node) ? undefined : this.deep(place.node, place.path);
      },
      interpolate: (inner) => {
        const place = this.evaluateText(inner, path, origin);
        return this.deep(place.node, place.path);
      },
      warn: (message) => this.warnings.push(message),
    });
  }

  private parseArguments(source: string, path: string, origin: Origin): Node[] {
    if (source.trim() === '') return [];
    return topLevel(source, ',').map((part) => this.argument(part.trim(), path, origin));
  }

  private argument(source: string, path: string, origin: Origin): Node {
    const first = source[0];
    const last = source.at(-1);
    if (source.length > 1 && (first === '"' || first === "'") && last === first) {
      const inner = source.slice(1, -1).replace(/\\+(?=['"]|$)/g, (run) => '\\'.repeat(Math.floor(run.length / 2)));
      return this.asString(inner, path, origin);
    }
    if (first === '[' && last === ']') {
      const inside = source.slice(1, -1).trim();
      const items = inside === '' ? [] : topLevel(inside, ',').map((item) => this.argument(item.trim(), path, origin));
      return { kind: 'list', items, origin };
    }
    if (first === '{' && last === '}') {
      const result = dict(origin);
      const inside = source.slice(1, -1).trim();
      if (inside === '') return result;
      for (const pair of topLevel(inside, ',')) {
        const [key = '', ...rest] = topLevel(pair, ':');
        result.entries.set(
          key.trim().replace(/^(['"])(.*)\1$/, '$2'),
          this.argument(rest.join(':').trim(), path, origin),
        );
      }
      return result;
    }
    if (source.includes('${')) {
      const place = this.evaluateText(source, path, origin);
      return this.deep(place.node, place.path);
    }
    const unescaped = source.replace(/\\([\\()[\]{}:=, \t])/g, '$1');
    const value = source === '' ? NULL : unescaped === source ? typed(source) : text(unescaped);
    return { kind: 'scalar', value: source === '' ? text('') : value, origin };
  }

  private asString(source: string, path: string, origin: Origin): Node {
    if (!source.includes('${')) return { kind: 'scalar', value: text(source), origin };
    const parts = split(source).map((p) => ('literal' in p ? p.literal : this.asText(p.inside, path, origin)));
    return { kind: 'scalar', value: text(parts.join('')), origin };
  }

  private allPaths(): string[] {
    const paths: string[] = [];
    const walk = (node: Node, path: string): void => {
      if (path !== '') paths.push(path);
      if (node.kind === 'dict') for (const [key, value] of node.entries) walk(value, join(path, key));
    };
    walk(this.root, '');
    return paths;
  }
}

/** Cut at a separator that stands outside of brackets, braces, parentheses and quotes. */
function topLevel(source: string, separator: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let start = 0;
  for (let i = 0; i < source.length; i++) {
    const char = source[i] as string;
    if (char === '\\') i++;
    else if (char === "'" || char === '"') {
      let end = i + 1;
      while (end < source.length && source[end] !== char) end += source[end] === '\\' ? 2 : 1;
      if (end < source.length) i = end;
    } else if ('[{('.includes(char)) depth++;
    else if (']})'.includes(char)) depth--;
    else if (char === separator && depth === 0) {
      parts.push(source.slice(start, i));
      start = i + 1;
    }
  }
  parts.push(source.slice(start));
  return parts;
}
