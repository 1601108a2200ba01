/** Functions that may stand in `${name:arguments}`. */
import { ConfigError } from './error.ts';
import { isSweep, makeInt, text } from './grammar/element.ts';
import { parseOverride } from './grammar/override.ts';
import { dict, fromElement, isNull, type Node, type Origin, pythonText, type Scalar } from './tree.ts';

export interface ResolverContext {
  /** Root folder of the package, for `neva.root`. */
  readonly packageRoot: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly origin: Origin;
  /** The resolved node at an absolute or (leading dot) relative path; undefined when absent or `???`. */
  select(path: string): Node | undefined;
  /** `${path}` as if it stood here, for `oc.decode` of text that is one. */
  interpolate(source: string): Node;
  warn(message: string): void;
}

export type Resolver = (args: readonly Node[], context: ResolverContext) => Node;

const scalar = (value: Scalar['value'], origin: Origin): Node => ({ kind: 'scalar', value, origin });

function numbers(name: string, args: readonly Node[]): { values: number[]; integral: boolean } {
  let integral = true;
  const values = args.map((node) => {
    if (node.kind !== 'scalar' || (node.value.kind !== 'int' && node.value.kind !== 'float')) {
      throw new ConfigError(`${name} takes numbers, not ${pythonText(node)}`);
    }
    if (node.value.kind === 'float') integral = false;
    return Number(node.value.value);
  });
  return { values, integral };
}

function arithmetic(name: string, compute: (values: number[]) => number, forceInt = false): Resolver {
  return (args, { origin }) => {
    const { values, integral } = numbers(name, args);
    const result = compute(values);
    const whole = forceInt || (integral && Number.isInteger(result));
    return scalar(whole ? makeInt(BigInt(Math.trunc(result))) : { kind: 'float', value: result }, origin);
  };
}

function need(name: string, args: readonly Node[], least: number, most: number): void {
  if (args.length < least || args.length > most) {
    throw new ConfigError(
      `${name} takes ${least === most ? least : `${least} to ${most}`} arguments, not ${args.length}`,
    );
  }
}

export const RESOLVERS: Record<string, Resolver> = {
  'oc.env': (args, context) => {
    need('oc.env', args, 1, 2);
    const name = pythonText(args[0] as Node);
    const value = context.env[name];
    if (value !== undefined) return scalar(text(value), context.origin);
    const fallback = args[1];
    if (fallback === undefined) throw new ConfigError(`the environment variable ${name} is not set`);
    return isNull(fallback) ? fallback : scalar(text(pythonText(fallback)), context.origin);
  },
  'oc.select': (args, context) => {
    need('oc.select', args, 1, 2);
    return context.select(pythonText(args[0] as Node)) ?? args[1] ?? scalar({ kind: 'null' }, context.origin);
  },
  'oc.decode': (args, context) => {
    need('oc.decode', args, 1, 1);
    const [node] = args as [Node];
    if (isNull(node)) return node;
    if (node.kind !== 'scalar' || node.value.kind !== 'string') {
      throw new ConfigError(`oc.decode takes a string, not ${pythonText(node)}`);
    }
    const raw = node.value.value;
    if (/^\$\{[^{}]*\}$/.test(raw.trim())) return context.interpolate(raw);
    const { value } = parseOverride(`value=${raw}`);
    if (value === null || isSweep(value)) throw new ConfigError(`oc.decode cannot read '${raw}'`);
    return fromElement(value, context.origin);
  },
  'oc.create': (args) => {
    need('oc.create', args, 1, 1);
    return args[0] as Node;
  },
  'oc.deprecated': (args, context) => {
    need('oc.deprecated', args, 1, 2);
    const key = pythonText(args[0] as Node);
    const node = context.select(key);
    if (node === undefined) throw new ConfigError(`oc.deprecated points at '${key}', which does not exist`);
    context.warn(args[1] === undefined ? `a deprecated key was used; use '${key}'` : pythonText(args[1]));
    return node;
  },
  'oc.dict.keys': (args, context) => {
    const node = mappingArgument('oc.dict.keys', args, context);
    const items = [...node.entries.keys()].map((key) => scalar(text(key), context.origin));
    return { kind: 'list', items, origin: context.origin };
  },
  'oc.dict.values': (args, context) => {
    const node = mappingArgument('oc.dict.values', args, context);
    return { kind: 'list', items: [...node.entries.values()], origin: context.origin };
  },
  'neva.root': (args, context) =>
    scalar(text([context.packageRoot, ...args.map(pythonText)].join('/').replace(/\/+/g, '/')), context.origin),
  multiply: arithmetic('multiply', (values) => values.reduce((a, b) => a * b, 1)),
  add: arithmetic('add', (values) => values.reduce((a, b) => a + b, 0)),
  subtract: arithmetic('subtract', ([a = 0, ...rest]) => rest.reduce((x, y) => x - y, a)),
  divide: arithmetic('divide', ([a = 0, b = 1]) => a / b),
  divide_ceil: arithmetic('divide_ceil', ([a = 0, b = 1]) => Math.ceil(a / b), true),
  divide_floor: arithmetic('divide_floor', ([a = 0, b = 1]) => Math.floor(a / b), true),
};

function mappingArgument(name: string, args: readonly Node[], context: ResolverContext) {
  need(name, args, 1, 1);
  const [first] = args as [Node];
  const node = first.kind === 'dict' ? first : context.select(pythonText(first));
  if (node?.kind !== 'dict') throw new ConfigError(`${name} takes the path of a mapping`);
  return node.kind === 'dict' ? node : dict(context.origin);
}
