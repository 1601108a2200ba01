/** From a resolved tree to a typed configuration, by the schema; all problems at once. */
import { problem } from './error.ts';
import { nearest } from './nearest.ts';
import type { Field, Fields, SchemaNode, Section } from './schema/field.ts';
import { type Dict, isMissing, join, type Node, originText, pythonText, type Scalar, toValue, word } from './tree.ts';

export interface Typed {
  config: unknown;
  problems: string[];
  /** One line for each key that was given and has no effect. */
  notices: string[];
}

/** @param lenient what must be given (???) may be missing, and has the schema's default */
export function applySchema(root: Dict, schema: Section<Fields>, lenient = false): Typed {
  const state: State = { problems: [], notices: [], missing: [], paths: fieldPaths(schema) };
  const config = section(root, schema, '', state);
  if (state.missing.length > 0 && !lenient) {
    state.problems.push(
      problem(state.missing.map(({ key }) => key).join(', '), 'must be given (???)', {
        from: [...new Set(state.missing.map(({ from }) => from))].join(', '),
        fix: `add ${state.missing.map(({ key }) => `${key}=…`).join(' ')}`,
      }),
    );
  }
  return { config, problems: state.problems, notices: state.notices };
}

interface State {
  problems: string[];
  notices: string[];
  missing: { key: string; from: string }[];
  paths: readonly string[];
}

/** Every key of a schema, dotted. */
export function fieldPaths(schema: Section<Fields>, prefix = ''): string[] {
  return Object.entries(schema.fields).flatMap(([key, node]) => {
    const path = join(prefix, key);
    return node.node === 'section' ? [path, ...fieldPaths(node, path)] : [path];
  });
}

export function findSchema(schema: Section<Fields>, path: string): SchemaNode | undefined {
  let node: SchemaNode | undefined = schema;
  for (const part of path.split('.')) {
    node = node?.node === 'section' && Object.hasOwn(node.fields, part) ? node.fields[part] : undefined;
  }
  return node;
}

/** The default values of a schema as plain data. */
export function schemaDefaults(schema: Section<Fields>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(schema.fields).map(([key, node]) => [
      key,
      node.node === 'section' ? schemaDefaults(node) : structuredClone(node.default),
    ]),
  );
}

function section(node: Node | undefined, schema: Section<Fields>, path: string, state: State): unknown {
  const result: Record<string, unknown> = {};
  // A whole section set to null has its defaults: NeMo writes `wandb_logger_kwargs: null`.
  if (node !== undefined && node.kind !== 'dict' && !(node.kind === 'scalar' && node.value.kind === 'null')) {
    state.problems.push(
      problem(path, 'a mapping of keys is expected here', { found: word(node), from: originText(node.origin) }),
    );
    return schemaDefaults(schema);
  }
  for (const [key, inner] of Object.entries(schema.fields)) {
    const given = node?.kind === 'dict' ? node.entries.get(key) : undefined;
    const at = join(path, key);
    if (inner.node === 'section') result[key] = section(given, inner, at, state);
    else result[key] = given === undefined ? structuredClone(inner.default) : leaf(given, inner, at, state);
  }
  if (node?.kind === 'dict') {
    for (const [key, given] of node.entries) {
      if (!Object.hasOwn(schema.fields, key)) state.problems.push(unknown(join(path, key), given, state.paths));
    }
  }
  return result;
}

function unknown(path: string, node: Node, paths: readonly string[]): string {
  const close = nearest(path, paths);
  return problem(path, 'there is no such key', {
    from: originText(node.origin),
    fix:
      close.length > 0
        ? `did you mean ${close.join(' or ')}?`
        : 'see `neva config docs` for all keys; variables of your own go below vars',
  });
}

function leaf(node: Node, field: Field<unknown>, path: string, state: State): unknown {
  if (isMissing(node)) {
    state.missing.push({ key: path, from: originText(node.origin) });
    return field.default;
  }
  const { each } = field;
  if (each !== undefined && node.kind === 'list') {
    return node.items.map((item, i) => section(item, each, `${path}[${i}]`, state));
  }
  const outcome = coerce(node, field);
  const from = originText(node.origin);
  if ('expected' in outcome) {
    const close = field.choices !== undefined ? nearest(outcome.found, field.choices) : [];
    state.problems.push(
      problem(path, outcome.what, {
        expected: outcome.expected,
        found: outcome.found,
        from,
        ...(close.length > 0 ? { fix: `did you mean ${path}=${close[0]}?` } : {}),
      }),
    );
    return field.default;
  }
  const differs = JSON.stringify(outcome.value) !== JSON.stringify(field.default);
  if (differs && node.origin.kind !== 'default') {
    if (field.status.kind === 'refused') {
      state.problems.push(problem(path, 'not available here', { found: show(node), from, fix: field.status.instead }));
    } else if (field.status.kind === 'no-effect') {
      state.notices.push(`${path} has no effect: ${field.status.reason} (${from})`);
    }
  }
  return outcome.value;
}

type Outcome = { value: unknown } | { what: string; expected: string; found: string };

function show(node: Node): string {
  return node.kind === 'scalar' ? scalarShown(node) : node.kind === 'list' ? pythonText(node) : word(node);
}

function scalarShown(node: Scalar): string {
  if (node.value.kind === 'null') return 'null';
  if (node.value.kind === 'bool') return String(node.value.value);
  return node.value.kind === 'string' ? `'${node.value.value}'` : (node.raw ?? pythonText(node));
}

/** In words: `a whole number from 1`, `one of: a, b`. */
export function describeField(field: Field<unknown>): string {
  const range =
    field.min !== undefined && field.max !== undefined
      ? ` from ${field.min} to ${field.max}`
      : field.min !== undefined
        ? field.exclusiveMin
          ? ` above ${field.min}`
          : ` from ${field.min}`
        : field.max !== undefined
          ? ` up to ${field.max}`
          : '';
  const names: Record<Field<unknown>['type'], string> = {
    int: `a whole number${range}`,
    float: `a number${range}`,
    bool: 'true or false',
    string: field.path ? 'a path' : 'text',
    choice: `one of: ${field.choices?.join(', ')}`,
    list: `a list${field.length === undefined ? '' : ` of ${field.length}`}${field.items ? `, each ${describeField(field.items)}` : ''}${field.each ? `, each with ${Object.keys(field.each.fields).join(', ')}` : ''}`,
    mapping: 'a mapping',
  };
  return names[field.type] + (field.nullable ? ', or null' : '');
}

function coerce(node: Node, field: Field<unknown>): Outcome {
  const wrong = (what = 'wrong type of value'): Outcome => ({
    what,
    expected: describeField(field),
    found: show(node),
  });
  if (node.kind === 'scalar' && node.value.kind === 'null')
    return field.nullable ? { value: null } : wrong('null is not a value of this key');
  if (field.type === 'mapping') return node.kind === 'dict' ? { value: toValue(node) } : wrong();
  if (field.type === 'list') return node.kind === 'list' ? coerceList(node.items, field, wrong) : wrong();
  if (node.kind !== 'scalar') return wrong();
  const word = scalarRaw(node);
  const synonym =
    field.synonyms !== undefined && Object.hasOwn(field.synonyms, word) ? field.synonyms[word] : undefined;
  if (synonym !== undefined) return { value: synonym };
  // NeMo writes "" where there is no path.
  if (word === '' && field.nullable && field.type !== 'bool') return { value: null };
  switch (field.type) {
    case 'string':
      return { value: word };
    case 'choice':
      return field.choices?.includes(word) ? { value: word } : wrong('not one of the choices');
    case 'bool':
      return truth(node, wrong);
    default:
      return number(node, field, wrong);
  }
}

function scalarRaw(node: Scalar): string {
  return node.value.kind === 'string' ? node.value.value : (node.raw ?? pythonText(node));
}

function truth(node: Scalar, wrong: () => Outcome): Outcome {
  if (node.value.kind === 'bool') return { value: node.value.value };
  const word = String(node.value.kind === 'null' ? '' : node.value.value).toLowerCase();
  if (/^(?:true|yes|y|on|1)$/.test(word)) return { value: true };
  if (/^(?:false|no|n|off|0)$/.test(word)) return { value: false };
  return wrong();
}

function number(node: Scalar, field: Field<unknown>, wrong: (what?: string) => Outcome): Outcome {
  const { value } = node;
  let result: number;
  if (value.kind === 'int' || value.kind === 'float') result = Number(value.value);
  else if (value.kind === 'string' && /^[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(value.value)) {
    result = Number(value.value.replaceAll('_', ''));
  } else return wrong();
  if (field.type === 'int' && (value.kind === 'float' || !Number.isInteger(result))) return wrong();
  const low = field.min !== undefined && (field.exclusiveMin ? result <= field.min : result < field.min);
  if (low || Number.isNaN(result) || (field.max !== undefined && result > field.max)) return wrong('out of range');
  return { value: result };
}

function coerceList(items: readonly Node[], field: Field<unknown>, wrong: (what?: string) => Outcome): Outcome {
  if (field.length !== undefined && items.length !== field.length) return wrong('wrong number of elements');
  const values: unknown[] = [];
  for (const item of items) {
    const outcome = coerce(item, field.items as Field<unknown>);
    if ('expected' in outcome) return { ...outcome, what: 'wrong element in the list' };
    values.push(outcome.value);
  }
  return { value: values };
}
