/** The functions of the override grammar: sweeps, their modifiers, casts. */
import {
  type Element,
  floatText,
  isSweep,
  makeInt,
  type NumberElement,
  printElement,
  type Sweep,
  text,
  type Value,
} from './element.ts';
import { parseFloatText } from './value.ts';

type Fail = (what: string, fix?: string) => never;

interface Call {
  name: string;
  positional: readonly Value[];
  named: ReadonlyMap<string, Value>;
  fail: Fail;
}

interface Definition {
  /** Named parameters; the first `positional` of them may be given by place. */
  names: readonly string[];
  positional: number;
  /** Takes any number of arguments by place. */
  variadic?: boolean;
  usage: string;
  run(call: Call): Value;
}

const FUNCTIONS: Record<string, Definition> = {
  choice: { names: [], positional: 0, variadic: true, usage: 'choice(a,b,c)', run: choice },
  range: { names: ['start', 'stop', 'step'], positional: 3, usage: 'range(start,stop,step)', run: range },
  interval: { names: ['start', 'end'], positional: 2, usage: 'interval(start,end)', run: interval },
  glob: { names: ['include', 'exclude'], positional: 2, usage: 'glob(include,exclude=[…])', run: glob },
  sort: {
    names: ['sweep', 'list', 'reverse'],
    positional: 0,
    variadic: true,
    usage: 'sort(a,b,c,reverse=true)',
    run: sort,
  },
  shuffle: { names: ['sweep', 'list'], positional: 0, variadic: true, usage: 'shuffle(a,b,c)', run: shuffle },
  tag: { names: ['sweep'], positional: 0, variadic: true, usage: 'tag(name,choice(a,b))', run: tag },
  int: cast('int', toInt),
  float: cast('float', toFloat),
  str: cast('str', toStr),
  bool: cast('bool', toBool),
};

export const FUNCTION_NAMES: readonly string[] = Object.keys(FUNCTIONS).sort();

export function callFunction(
  name: string,
  positional: readonly Value[],
  named: ReadonlyMap<string, Value>,
  fail: Fail,
): Value {
  const definition = Object.hasOwn(FUNCTIONS, name) ? FUNCTIONS[name] : undefined;
  if (definition === undefined) {
    return fail(
      `there is no function '${name}'; there are ${FUNCTION_NAMES.join(', ')}`,
      `if '${name}(' is meant as text, quote the value`,
    );
  }
  for (const label of named.keys()) {
    const place = definition.names.indexOf(label);
    if (place < 0) fail(`${name}() has no argument '${label}'`, `write ${definition.usage}`);
    if (!definition.variadic && place < positional.length) fail(`${name}() got '${label}' twice`);
  }
  if (!definition.variadic && positional.length > definition.positional) {
    fail(`${name}() takes ${definition.positional} arguments, not ${positional.length}`, `write ${definition.usage}`);
  }
  return definition.run({ name, positional, named, fail });
}

function argument(call: Call, place: number, label: string): Value | undefined {
  const value = call.positional[place] ?? call.named.get(label);
  return value?.kind === 'null' ? undefined : value;
}

function describe(value: Value): string {
  return isSweep(value) ? `${value.kind}(…)` : printElement(value);
}

function choice({ positional, fail }: Call): Value {
  if (positional.length === 0) fail('choice() is empty', 'write choice(a,b)');
  const [first] = positional;
  if (positional.length === 1 && first?.kind === 'choice') {
    return first.simple ? { ...first, simple: false } : fail('choice() inside choice()', 'write one choice(a,b,c)');
  }
  return {
    kind: 'choice',
    items: elements(positional, fail, 'choice'),
    simple: false,
    shuffle: false,
    tags: [],
  };
}

function elements(values: readonly Value[], fail: Fail, name: string): Element[] {
  return values.map((value) => {
    if (isSweep(value) || value.kind === 'null') {
      return fail(`${name}() cannot take ${describe(value)} as one of its values`);
    }
    return value;
  });
}

function number(value: Value | undefined, what: string, fail: Fail): NumberElement {
  if (value?.kind === 'int' || value?.kind === 'float') return value;
  // Python's True is an int.
  if (value?.kind === 'bool') return { kind: 'int', value: Number(value.value) };
  return fail(`${what} must be a number, not ${value === undefined ? 'missing' : describe(value)}`);
}

function range(call: Call): Value {
  const zero: NumberElement = { kind: 'int', value: 0 };
  const first = number(call.positional[0] ?? call.named.get('start'), 'the start of range()', call.fail);
  const second = argument(call, 1, 'stop');
  const third = call.positional[2] ?? call.named.get('step');
  const step: NumberElement =
    third === undefined ? { kind: 'int', value: 1 } : number(third, 'the step of range()', call.fail);
  const [start, stop] =
    second === undefined ? [zero, first] : [first, number(second, 'the stop of range()', call.fail)];
  return { kind: 'range', start, stop, step, shuffle: false, tags: [] };
}

function interval(call: Call): Value {
  const start = number(call.positional[0] ?? call.named.get('start'), 'the start of interval()', call.fail);
  const end = number(call.positional[1] ?? call.named.get('end'), 'the end of interval()', call.fail);
  return { kind: 'interval', start: asFloat(start), end: asFloat(end), tags: [] };
}

function asFloat(value: NumberElement): Element {
  return { kind: 'float', value: Number(value.value) };
}

function glob(call: Call): Value {
  const patterns = (value: Value | undefined): string[] => {
    if (value === undefined) return [];
    const items = value.kind === 'list' ? value.items : [value];
    return items.map((item) =>
      item.kind === 'string' ? item.value : call.fail(`a pattern of glob() must be a string, not ${describe(item)}`),
    );
  };
  const include = argument(call, 0, 'include');
  if (include === undefined) return call.fail('glob() needs a pattern', 'write glob(*)');
  return { kind: 'glob', include: patterns(include), exclude: patterns(argument(call, 1, 'exclude')), tags: [] };
}

function tag({ positional, named, fail }: Call): Value {
  if (positional.length === 0) return fail('tag() needs a sweep', 'write tag(name,choice(a,b))');
  const sweep = named.get('sweep');
  const all = sweep === undefined || sweep.kind === 'null' ? positional : [...positional, sweep];
  const last = all.at(-1);
  if (last === undefined || !isSweep(last)) return fail('the last argument of tag() must be a sweep');
  const tags = all.slice(0, -1).map((value) => {
    return value.kind === 'string' ? value.value : fail(`a tag must be a string, not ${describe(value)}`);
  });
  return { ...last, tags: [...new Set(tags)].sort() };
}

function shuffle(call: Call): Value {
  const { positional, fail } = call;
  const target = call.named.get('list') ?? call.named.get('sweep') ?? (positional.length === 1 ? positional[0] : null);
  if (target === null || target === undefined) {
    return { kind: 'choice', items: elements(positional, fail, 'shuffle'), simple: true, shuffle: true, tags: [] };
  }
  if (target.kind === 'choice' || target.kind === 'range') return { ...target, shuffle: true };
  if (target.kind === 'list') {
    const items = [...target.items];
    shuffleInPlace(items);
    return { kind: 'list', items };
  }
  if (isSweep(target)) return fail(`${target.kind}() cannot be shuffled`);
  return { kind: 'list', items: [target] };
}

export function shuffleInPlace<T>(items: T[]): void {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [items[i], items[j]] = [items[j] as T, items[i] as T];
  }
}

function sort(call: Call): Value {
  const { positional, fail } = call;
  const reverseArgument = call.named.get('reverse');
  if (reverseArgument !== undefined && reverseArgument.kind !== 'bool') {
    fail('reverse must be true or false', 'write sort(a,b,reverse=true)');
  }
  const reverse = reverseArgument?.kind === 'bool' && reverseArgument.value;
  const target = call.named.get('list') ?? call.named.get('sweep') ?? (positional.length === 1 ? positional[0] : null);
  if (target === null || target === undefined) {
    if (positional.length === 0) return fail('sort() is empty');
    const items = elements(positional, fail, 'sort');
    return { kind: 'choice', items: sorted(items, reverse, fail), simple: true, shuffle: false, tags: [] };
  }
  if (target.kind === 'choice') return { ...target, items: sorted(target.items, reverse, fail) };
  if (target.kind === 'list') return { kind: 'list', items: sorted(target.items, reverse, fail) };
  if (target.kind === 'range') return sortedRange(target, reverse);
  if (isSweep(target)) return fail(`${target.kind}() cannot be sorted`);
  return target;
}

function sorted(items: readonly Element[], reverse: boolean, fail: Fail): Element[] {
  const compare = (a: Element, b: Element): number => {
    if (a.kind === 'string' && b.kind === 'string') return byCodePoint(a.value, b.value);
    const [x, y] = [numeric(a), numeric(b)];
    if (x !== null && y !== null) return x < y ? -1 : x > y ? 1 : 0;
    if (a.kind === 'list' && b.kind === 'list') {
      for (let i = 0; i < Math.min(a.items.length, b.items.length); i++) {
        const order = compare(a.items[i] as Element, b.items[i] as Element);
        if (order !== 0) return order;
      }
      return a.items.length - b.items.length;
    }
    return fail(`sort() cannot compare ${printElement(a)} with ${printElement(b)}`);
  };
  const ordered = [...items].sort((a, b) => (reverse ? compare(b, a) : compare(a, b)));
  return ordered;
}

/** Python compares strings by code point, JavaScript by UTF-16 unit. */
function byCodePoint(a: string, b: string): number {
  const [x, y] = [[...a], [...b]];
  for (let i = 0; i < Math.min(x.length, y.length); i++) {
    const order = (x[i]?.codePointAt(0) ?? 0) - (y[i]?.codePointAt(0) ?? 0);
    if (order !== 0) return order;
  }
  return x.length - y.length;
}

function numeric(value: Element): number | bigint | null {
  if (value.kind === 'int' || value.kind === 'float') return value.value;
  return value.kind === 'bool' ? Number(value.value) : null;
}

/** Turned round when it runs the other way: the same number of steps, between the shifted ends. */
function sortedRange(sweep: Sweep & { kind: 'range' }, reverse: boolean): Sweep {
  const [start, stop, step] = [sweep.start.value, sweep.stop.value, sweep.step.value].map(Number) as [
    number,
    number,
    number,
  ];
  if (reverse ? start >= stop : start <= stop) return sweep;
  const shift = reverse ? -Math.abs(step) : Math.abs(step);
  const kind =
    sweep.start.kind === 'int' && sweep.stop.kind === 'int' && sweep.step.kind === 'int' ? ('int' as const) : 'float';
  const keep = (value: number, like: NumberElement, other: NumberElement): NumberElement =>
    ({ kind: like.kind === 'float' || other.kind === 'float' ? 'float' : kind, value }) as NumberElement;
  return {
    ...sweep,
    start: keep(stop + shift, sweep.stop, sweep.step),
    stop: keep(start + shift, sweep.start, sweep.step),
    step: { kind: sweep.step.kind, value: -step } as NumberElement,
  };
}

type Convert = (value: Element, fail: Fail) => Element;

function cast(name: string, convert: Convert): Definition {
  const apply = (value: Value, fail: Fail): Value => {
    switch (value.kind) {
      case 'list':
        return { kind: 'list', items: value.items.map((item) => apply(item, fail) as Element) };
      case 'dict':
        return { kind: 'dict', entries: value.entries.map(([k, v]) => [k, apply(v, fail) as Element]) };
      case 'choice':
        return {
          kind: 'choice',
          items: value.items.map((item) => apply(item, fail) as Element),
          simple: value.simple,
          shuffle: false,
          tags: [],
        };
      case 'range':
        if (name !== 'int' && name !== 'float') return fail(`a range cannot be cast by ${name}()`);
        return {
          kind: 'range',
          start: apply(value.start, fail) as NumberElement,
          stop: apply(value.stop, fail) as NumberElement,
          step: apply(value.step, fail) as NumberElement,
          shuffle: false,
          tags: [],
        };
      case 'interval':
        if (name !== 'int' && name !== 'float') return fail(`an interval cannot be cast by ${name}()`);
        return {
          kind: 'interval',
          start: apply(value.start, fail) as Element,
          end: apply(value.end, fail) as Element,
          tags: value.tags,
        };
      case 'glob':
        return fail(`a glob cannot be cast by ${name}()`);
      default:
        return convert(value, fail);
    }
  };
  return {
    names: ['value'],
    positional: 0,
    variadic: true,
    usage: `${name}(value)`,
    run: ({ positional, named, fail }) => {
      const value = named.get('value');
      const given = value?.kind === 'null' ? undefined : value;
      if (given !== undefined && positional.length > 0) fail(`${name}() takes its value by place or by name, not both`);
      if (given !== undefined) return apply(given, fail);
      const [first] = positional;
      if (first === undefined) return fail(`${name}() needs a value`, `write ${name}(1)`);
      if (positional.length === 1) return apply(first, fail);
      const items = positional.map((item) =>
        isSweep(item) ? fail(`${name}() cannot take ${describe(item)} among several values`) : item,
      );
      return apply({ kind: 'choice', items, simple: true, shuffle: false, tags: [] }, fail);
    },
  };
}

const PYTHON_INT = /^\s*[+-]?[0-9](?:_?[0-9])*\s*$/;
const PYTHON_FLOAT =
  /^\s*[+-]?(?:(?:[0-9](?:_?[0-9])*\.?(?:[0-9](?:_?[0-9])*)?|\.[0-9](?:_?[0-9])*)(?:[eE][+-]?[0-9](?:_?[0-9])*)?|inf(?:inity)?|nan)\s*$/i;

function toInt(value: Element, fail: Fail): Element {
  switch (value.kind) {
    case 'int':
      return value;
    case 'bool':
      return makeInt(BigInt(value.value));
    case 'float':
      if (!Number.isFinite(value.value)) return fail(`int() cannot convert ${floatText(value.value)}`);
      return makeInt(BigInt(Math.trunc(value.value)));
    case 'string':
      if (PYTHON_INT.test(value.value)) return makeInt(BigInt(value.value.trim().replace(/[_+]/g, '')));
      return fail(`int() cannot convert '${value.value}'`, 'convert in two steps: int(float(…))');
    default:
      return fail(`int() cannot convert ${printElement(value)}`);
  }
}

function toFloat(value: Element, fail: Fail): Element {
  switch (value.kind) {
    case 'int':
    case 'bool':
      return { kind: 'float', value: Number(value.value) };
    case 'float':
      return value;
    case 'string':
      if (PYTHON_FLOAT.test(value.value)) {
        return { kind: 'float', value: parseFloatText(value.value.trim().replace(/infinity$/i, 'inf')) };
      }
      return fail(`float() cannot convert '${value.value}'`);
    default:
      return fail(`float() cannot convert ${printElement(value)}`);
  }
}

function toStr(value: Element, fail: Fail): Element {
  switch (value.kind) {
    case 'bool':
      return text(String(value.value));
    case 'string':
      return text(value.value);
    case 'int':
    case 'float':
      return text(printElement(value));
    default:
      return fail(`str() cannot convert ${printElement(value)}`, "write 'null' in quotes");
  }
}

function toBool(value: Element, fail: Fail): Element {
  switch (value.kind) {
    case 'bool':
      return value;
    case 'null':
      return { kind: 'bool', value: false };
    case 'string': {
      const lower = value.value.toLowerCase();
      if (lower === 'true' || lower === 'false') return { kind: 'bool', value: lower === 'true' };
      return fail(`bool() cannot convert '${value.value}'`, 'write true or false');
    }
    case 'int':
    case 'float':
      // nan is true, as in Python.
      return { kind: 'bool', value: Number.isNaN(value.value) || Number(value.value) !== 0 };
    default:
      return fail(`bool() cannot convert ${printElement(value)}`);
  }
}
