/** A configuration before its interpolations are resolved. Every node knows where it came from. */
import { ConfigError, problem } from './error.ts';
import { type Element, floatText, keyText, type ScalarElement } from './grammar/element.ts';

export type Origin =
  | { readonly kind: 'file'; readonly file: string; readonly line: number }
  | { readonly kind: 'override'; readonly text: string }
  | { readonly kind: 'default' };

export interface Scalar {
  readonly kind: 'scalar';
  readonly value: ScalarElement;
  /** As written, where that may differ: a string key takes 1.10 and 007 whole. */
  readonly raw?: string;
  readonly origin: Origin;
}
export interface Dict {
  readonly kind: 'dict';
  readonly entries: Map<string, Node>;
  origin: Origin;
}
export interface List {
  readonly kind: 'list';
  readonly items: Node[];
  readonly origin: Origin;
}
export type Node = Scalar | Dict | List;

/** OmegaConf's mark of a value that must be given. */
export const MISSING = '???';

export function dict(origin: Origin, entries: Iterable<readonly [string, Node]> = []): Dict {
  return { kind: 'dict', entries: new Map(entries), origin };
}

export function isMissing(node: Node): boolean {
  return node.kind === 'scalar' && node.value.kind === 'string' && node.value.value === MISSING;
}

export function isNull(node: Node): boolean {
  return node.kind === 'scalar' && node.value.kind === 'null';
}

export function fromElement(element: Element, origin: Origin): Node {
  if (element.kind === 'list') {
    return { kind: 'list', items: element.items.map((item) => fromElement(item, origin)), origin };
  }
  if (element.kind === 'dict') {
    return dict(
      origin,
      element.entries.map(([key, value]) => {
        if (key.kind === 'null') throw new ConfigError('null cannot be the key of a mapping; quote it');
        return [keyText(key), fromElement(value, origin)] as const;
      }),
    );
  }
  return { kind: 'scalar', value: element, origin };
}

export function clone(node: Node): Node {
  if (node.kind === 'dict') {
    return dict(
      node.origin,
      [...node.entries].map(([key, value]) => [key, clone(value)] as const),
    );
  }
  return node.kind === 'list' ? { ...node, items: node.items.map(clone) } : node;
}

/**
 * OmegaConf's merge: mappings merge key by key, lists and scalars replace, `???` leaves what is there.
 * @returns `base`, changed in place when both are mappings, otherwise what takes its place
 */
export function merge(base: Node | undefined, over: Node, path: string): Node {
  if (base === undefined) return clone(over);
  // A default of the schema is no value that someone gave: ??? asks for one.
  if (isMissing(over)) return base.origin.kind === 'default' ? over : base;
  if (base.kind === 'dict' && over.kind === 'dict') {
    for (const [key, value] of over.entries)
      base.entries.set(key, merge(base.entries.get(key), value, join(path, key)));
    return base;
  }
  if ((base.kind === 'dict' && over.kind === 'list') || (base.kind === 'list' && over.kind === 'dict')) {
    throw new ConfigError(
      problem(path, 'a list and a mapping cannot be merged', {
        expected: `${word(base)}, as in ${originText(base.origin)}`,
        found: word(over),
        from: originText(over.origin),
      }),
    );
  }
  return clone(over);
}

export function join(path: string, key: string | number): string {
  return path === '' ? String(key) : `${path}.${key}`;
}

/** The node at a dotted path, or undefined. */
export function at(root: Node, path: string): Node | undefined {
  let node: Node | undefined = root;
  if (path === '') return node;
  for (const part of path.split('.')) node = node === undefined ? undefined : child(node, part);
  return node;
}

export function child(node: Node, key: string): Node | undefined {
  if (node.kind === 'dict') return node.entries.get(key);
  if (node.kind === 'list' && /^\d+$/.test(key)) return node.items[Number(key)];
  return undefined;
}

/** Sets a path, making mappings on the way (and over null). */
export function put(root: Dict, path: string, value: Node): void {
  const parts = path.split('.');
  const last = parts.pop() as string;
  let node: Node = root;
  for (const part of parts) {
    let next = child(node, part);
    if (next === undefined || next.kind === 'scalar') {
      next = dict(value.origin);
      setChild(node, part, next, path);
    }
    node = next;
  }
  setChild(node, last, value, path);
}

function setChild(node: Node, key: string, value: Node, path: string): void {
  if (node.kind === 'dict') node.entries.set(key, value);
  else if (node.kind === 'list' && /^\d+$/.test(key) && Number(key) < node.items.length)
    node.items[Number(key)] = value;
  else throw new ConfigError(problem(path, `'${key}' is not an index of this list`));
}

export function word(node: Node): string {
  return node.kind === 'dict' ? 'a mapping' : node.kind === 'list' ? 'a list' : `the value ${scalarText(node.value)}`;
}

export function originText(origin: Origin): string {
  if (origin.kind === 'file') return `${origin.file}:${origin.line}`;
  return origin.kind === 'override' ? `override ${origin.text}` : 'default';
}

/** As Python's str() writes it: what an interpolation inside text becomes. */
export function pythonText(node: Node): string {
  if (node.kind === 'list') return `[${node.items.map(pythonRepr).join(', ')}]`;
  if (node.kind === 'dict') {
    return `{${[...node.entries].map(([key, value]) => `${quote(key)}: ${pythonRepr(value)}`).join(', ')}}`;
  }
  return scalarText(node.value);
}

export function scalarText(value: ScalarElement): string {
  switch (value.kind) {
    case 'null':
      return 'None';
    case 'bool':
      return value.value ? 'True' : 'False';
    case 'float':
      return floatText(value.value);
    default:
      return String(value.value);
  }
}

function pythonRepr(node: Node): string {
  return node.kind === 'scalar' && node.value.kind === 'string' ? quote(node.value.value) : pythonText(node);
}

function quote(value: string): string {
  const mark = value.includes("'") && !value.includes('"') ? '"' : "'";
  const escaped = value.replaceAll('\\', '\\\\').replaceAll('\n', '\\n').replaceAll('\t', '\\t');
  return mark + (mark === "'" ? escaped.replaceAll("'", "\\'") : escaped) + mark;
}

/** Plain JavaScript values; interpolations stay text. */
export function toValue(node: Node): unknown {
  if (node.kind === 'list') return node.items.map(toValue);
  if (node.kind === 'dict') return Object.fromEntries([...node.entries].map(([key, value]) => [key, toValue(value)]));
  return node.value.kind === 'null' ? null : node.value.value;
}
