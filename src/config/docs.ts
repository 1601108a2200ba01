/** Everything that is written out of the schema: docs/config.md, `config docs KEY`, --help, completion. */
import { ConfigError, problem } from './error.ts';
import { nearest } from './nearest.ts';
import type { Field, Fields, Section } from './schema/field.ts';
import { schema } from './schema/index.ts';
import type { SearchPath } from './search_path.ts';
import { describeField, fieldPaths, findSchema } from './typing.ts';

/** A default as one would type it. */
export function defaultText(field: Field<unknown>): string {
  const { default: value } = field;
  if (value === null) return 'null';
  if (typeof value === 'object') return JSON.stringify(value).replaceAll('"', '').replaceAll(',', ', ');
  return value === '' ? "''" : String(value);
}

function statusText(field: Field<unknown>): string {
  switch (field.status.kind) {
    case 'works':
      return 'works';
    case 'no-effect':
      return `no effect: ${field.status.reason}`;
    case 'refused':
      return `only the default; ${field.status.instead}`;
  }
}

/**
 * What `neva config docs KEY` prints; a section lists its keys.
 * @throws ConfigError for a key that does not exist, with the nearest ones
 */
export function keyDocs(key: string): string {
  const path = findSchema(schema, key) === undefined && findSchema(schema, `model.${key}`) ? `model.${key}` : key;
  const node = path === '' ? schema : findSchema(schema, path);
  if (node === undefined) {
    const close = nearest(key, fieldPaths(schema));
    throw new ConfigError(
      problem(key, 'there is no such key', close.length > 0 ? { fix: `did you mean ${close.join(' or ')}?` } : {}),
    );
  }
  if (node.node === 'section') {
    const rows = Object.entries(node.fields).map(([name, inner]): [string, string] => [
      path === '' ? name : `${path}.${name}`,
      inner.node === 'section' ? `${inner.help} (section)` : `${inner.help} [${defaultText(inner)}]`,
    ]);
    return [`${path || 'neva'}: ${node.help}`, ...columns(rows)].join('\n');
  }
  const lines = [`${path}: ${node.help}`, `  type:     ${describeField(node)}`, `  default:  ${defaultText(node)}`];
  if (node.synonyms !== undefined) {
    const also = Object.entries(node.synonyms).map(([word, value]) => `${word} = ${value}`);
    lines.push(`  also:     ${also.join(', ')}`);
  }
  lines.push(`  status:   ${statusText(node)}`, `  since:    ${node.since}`);
  if (node.nemo !== undefined) lines.push(`  NeMo:     ${node.nemo}`);
  return lines.join('\n');
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...rows.map(([name]) => name.length));
  return rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`);
}

const MAIN_KEYS = [
  'trainer.devices',
  'trainer.num_nodes',
  'trainer.precision',
  'trainer.max_steps',
  'model.micro_batch_size',
  'model.global_batch_size',
  'model.tensor_model_parallel_size',
  'model.pipeline_model_parallel_size',
  'model.restore_from_path',
  'model.mm_cfg.llm.from_pretrained',
  'model.mm_cfg.vision_encoder.from_pretrained',
  'model.mm_cfg.pretrain_mm_mlp_adapter',
  'model.data.data_path',
  'model.data.image_folder',
  'model.data.conv_template',
  'model.optim.lr',
  'model.activations_checkpoint_granularity',
  'exp_manager.exp_dir',
  'exp_manager.name',
  'exp_manager.resume_if_exists',
];

/** The part of `neva pretrain --help` below the flags: groups with their options, and the main keys. */
export function helpText(sources: SearchPath): string {
  const groups = sources.groups().map((group): [string, string] => [`${group}=`, sources.options(group).join(', ')]);
  const keys = MAIN_KEYS.map((key): [string, string] => {
    const field = findSchema(schema, key) as Field<unknown>;
    return [`${key}=`, `${field.help} [${defaultText(field)}]`];
  });
  return [
    'Groups (choose one option each):',
    ...columns(groups),
    '',
    'Main keys (all of them: neva config docs, one: neva config docs KEY):',
    ...columns(keys),
  ].join('\n');
}

/** docs/config.md */
export function renderDocs(): string {
  const lines = [
    '# Configuration keys',
    '',
    'Written from `src/config/schema/` by `scripts/config-docs.js`; do not edit. How files, groups and overrides come',
    'together, and where that differs from Hydra, is in [hydra-differences.md](hydra-differences.md).',
    '',
    'Status: **works**; *no effect* — accepted for compatibility, with a notice; **refused** — only the default may be given.',
    '`data.x`, `optim.x`, `tokenizer.x` and `mm_cfg.x` on the command line mean `model.data.x` and so on.',
  ];
  sectionDocs(schema, '', lines);
  return `${lines.join('\n')}\n`;
}

function sectionDocs(section: Section<Fields>, path: string, lines: string[]): void {
  const leaves = Object.entries(section.fields).filter(([, node]) => node.node === 'field') as [
    string,
    Field<unknown>,
  ][];
  if (leaves.length > 0) {
    lines.push(
      '',
      `## ${path || 'Top level'}`,
      '',
      section.help === 'neva' ? 'Keys outside of any section.' : `${section.help}.`,
      '',
    );
    lines.push('| key | type | default | meaning | status |', '|---|---|---|---|---|');
    for (const [key, field] of leaves) {
      const cells = [`\`${key}\``, describeField(field), `\`${defaultText(field)}\``, field.help, markedStatus(field)];
      lines.push(`| ${cells.map((cell) => cell.replaceAll('|', '\\|')).join(' | ')} |`);
    }
  }
  for (const [key, node] of Object.entries(section.fields)) {
    if (node.node === 'section') sectionDocs(node, path === '' ? key : `${path}.${key}`, lines);
  }
}

function markedStatus(field: Field<unknown>): string {
  switch (field.status.kind) {
    case 'works':
      return 'works';
    case 'no-effect':
      return `*no effect*: ${field.status.reason}`;
    case 'refused':
      return `**refused**: ${field.status.instead}`;
  }
}

/** What a shell can complete: every key with the words that its value may be, and every group with its options. */
export interface CompletionIndex {
  groups: Record<string, string[]>;
  /** Key → choices; empty when any value will do, null when it is a path. */
  keys: Record<string, string[] | null>;
}

export function completionIndex(sources: SearchPath): CompletionIndex {
  const keys: Record<string, string[] | null> = {};
  for (const path of fieldPaths(schema)) {
    const node = findSchema(schema, path);
    if (node?.node !== 'field') continue;
    keys[path] = node.path ? null : node.type === 'bool' ? ['true', 'false'] : [...(node.choices ?? [])];
  }
  return { groups: Object.fromEntries(sources.groups().map((group) => [group, sources.options(group)])), keys };
}

/** Completions of one half-typed word: `model=ll`, `+data=`, `~opt`, `trainer.prec`, `trainer.precision=b`. */
export function complete(word: string, index: CompletionIndex): string[] {
  const prefix = /^(?:\+\+?|~)?/.exec(word)?.[0] ?? '';
  const rest = word.slice(prefix.length);
  const equals = rest.indexOf('=');
  if (equals >= 0) {
    const key = rest.slice(0, equals);
    const values = index.groups[key] ?? index.keys[key] ?? index.keys[`model.${key}`] ?? [];
    return values.filter((v) => v.startsWith(rest.slice(equals + 1))).map((v) => `${prefix}${key}=${v}`);
  }
  const ending = prefix === '~' ? '' : '=';
  const names = [...Object.keys(index.groups), ...Object.keys(index.keys)].filter((name) => name.startsWith(rest));
  // Down to the next dot only, as a shell completes folders.
  const steps = names.map((name) => {
    const dot = name.indexOf('.', rest.length);
    return dot < 0 ? `${prefix}${name}${ending}` : `${prefix}${name.slice(0, dot + 1)}`;
  });
  return [...new Set(steps)].sort();
}
