/** YAML as OmegaConf reads it: version 1.1's scalars with its changes, line numbers kept. */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseAllDocuments, type Node as YamlNode } from 'yaml';
import { ConfigError } from './error.ts';
import { makeInt, NULL, type ScalarElement, text } from './grammar/element.ts';
import { type Dict, dict, type Node, type Origin } from './tree.ts';

const BOOL = /^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$/;
const TRUTH = /^(?:yes|true|on)$/i;
const INT = /^[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|[1-9][0-9_]*(?::[0-5]?[0-9])+)$/;
const FLOAT =
  /^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9_]+(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$/;

export interface YamlFile {
  root: Dict;
  /** From a comment `# @package …` among the first lines. */
  package: string | null;
}

/** @param file its name in messages */
export function readYaml(source: string, file: string): YamlFile {
  const lines = new LineCounter();
  const documents = parseAllDocuments(source, { schema: 'failsafe', lineCounter: lines, merge: false });
  const fail = (line: number, what: string): never => {
    throw new ConfigError(`${file}:${line}: ${what}`);
  };
  if (!Array.isArray(documents)) return { root: dict({ kind: 'file', file, line: 1 }), package: header(source) };
  const [document] = documents;
  if (documents.length > 1) fail(lines.linePos(documents[1]?.range[0] ?? 0).line, 'only one YAML document is read');
  for (const error of document?.errors ?? []) {
    fail(error.linePos?.[0].line ?? 1, (error.message.split('\n')[0] ?? '').replace(/ at line \d+.*$/, ''));
  }
  const line = (node: YamlNode): number => lines.linePos(node.range?.[0] ?? 0).line;

  const convert = (node: YamlNode | null | undefined, fallback: Origin): Node => {
    if (node === null || node === undefined) return { kind: 'scalar', value: NULL, origin: fallback };
    if (isAlias(node)) return convert(node.resolve(document as never) as YamlNode | undefined, fallback);
    const origin: Origin = { kind: 'file', file, line: line(node) };
    if (isSeq(node)) return { kind: 'list', items: node.items.map((i) => convert(i as YamlNode, origin)), origin };
    if (isMap(node)) {
      const result = dict(origin);
      for (const { key, value } of node.items) {
        const keyNode = key as YamlNode;
        if (!isScalar(keyNode)) fail(line(node), 'a key must be a plain word');
        const name = convert(keyNode, origin);
        if (name.kind !== 'scalar' || name.value.kind === 'null') return fail(line(keyNode), 'null cannot be a key');
        const at: Origin = { kind: 'file', file, line: line(keyNode) };
        const converted = convert(value as YamlNode | null, at);
        const shown = name.value.kind === 'float' ? String(keyNode) : String(name.value.value);
        if (shown === '<<' && converted.kind === 'dict') {
          for (const [k, v] of converted.entries) if (!result.entries.has(k)) result.entries.set(k, v);
          continue;
        }
        // The line of a value is the line of its key: that is where one looks for it.
        result.entries.set(shown, { ...converted, origin: at } as Node);
      }
      return result;
    }
    if (isScalar(node)) {
      const raw = String(node.value ?? '');
      const isStringTag = node.tag === 'tag:yaml.org,2002:str';
      return { kind: 'scalar', value: node.type === 'PLAIN' && !isStringTag ? plain(raw) : text(raw), raw, origin };
    }
    return fail(line(node), 'this kind of node is not read');
  };

  const root = convert(document?.contents as YamlNode | null, { kind: 'file', file, line: 1 });
  if (root.kind === 'scalar' && root.value.kind === 'null') {
    return { root: dict({ kind: 'file', file, line: 1 }), package: header(source) };
  }
  if (root.kind !== 'dict') return fail(1, 'the file must hold a mapping of keys to values');
  return { root, package: header(source) };
}

function header(source: string): string | null {
  for (const line of source.split('\n')) {
    const match = /^#\s*@package\s+(\S+)\s*$/.exec(line.trimEnd());
    if (match) return match[1] as string;
    if (line.trim() !== '' && !line.startsWith('#')) return null;
  }
  return null;
}

/** The type of a plain scalar. */
export function plain(raw: string): ScalarElement {
  if (raw === '' || /^(?:~|null|Null|NULL)$/.test(raw)) return NULL;
  if (BOOL.test(raw)) return { kind: 'bool', value: TRUTH.test(raw) };
  if (INT.test(raw)) return yamlInt(raw.replaceAll('_', ''));
  if (FLOAT.test(raw)) return { kind: 'float', value: yamlFloat(raw.replaceAll('_', '').toLowerCase()) };
  return text(raw);
}

function yamlInt(raw: string): ScalarElement {
  const negative = raw.startsWith('-');
  const digits = raw.replace(/^[-+]/, '');
  let value: bigint;
  if (digits.includes(':')) value = digits.split(':').reduce((sum, part) => sum * 60n + BigInt(part), 0n);
  else if (/^0[0-7]+$/.test(digits)) value = BigInt(`0o${digits.slice(1)}`);
  else value = BigInt(digits);
  return makeInt(negative ? -value : value);
}

function yamlFloat(raw: string): number {
  if (raw.endsWith('.inf')) return raw.startsWith('-') ? -Infinity : Infinity;
  if (raw.endsWith('.nan')) return Number.NaN;
  if (!raw.includes(':')) return Number(raw);
  const sign = raw.startsWith('-') ? -1 : 1;
  return (
    sign *
    raw
      .replace(/^[-+]/, '')
      .split(':')
      .reduce((sum, part) => sum * 60 + Number(part), 0)
  );
}
