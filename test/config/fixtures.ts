/** Recorded answers of Hydra and OmegaConf (test/tools/hydra_reference.py), and neva's values in the same form. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findPackageRoot } from '../../src/config/compose.ts';
import { floatText, isSweep, type Value } from '../../src/config/grammar/element.ts';
import type { Node } from '../../src/config/tree.ts';

export function fixture<T>(name: string): T {
  return JSON.parse(readFileSync(join(findPackageRoot(), 'test/fixtures/config', `${name}.json`), 'utf8')) as T;
}

/** Python's repr of a float has the shortest digits that read back; `floatText` must agree with it exactly. */
export function typedValue(value: Value): unknown {
  if (isSweep(value)) {
    const tags = value.kind === 'glob' ? {} : { tags: value.tags };
    switch (value.kind) {
      case 'choice':
        return {
          sweep: 'choice',
          items: value.items.map(typedValue),
          simple: value.simple,
          shuffle: value.shuffle,
          ...tags,
        };
      case 'range':
        return {
          sweep: 'range',
          bounds: [value.start, value.stop, value.step].map(typedValue),
          shuffle: value.shuffle,
          ...tags,
        };
      case 'interval':
        return { sweep: 'interval', bounds: [value.start, value.end].map(typedValue), ...tags };
      case 'glob':
        return { sweep: 'glob', include: value.include, exclude: value.exclude };
    }
  }
  switch (value.kind) {
    case 'null':
      return { null: true };
    case 'bool':
      return { bool: value.value };
    case 'int':
      return { int: String(value.value) };
    case 'float':
      return { float: floatText(value.value) };
    case 'string':
      return { str: value.value };
    case 'list':
      return { list: value.items.map(typedValue) };
    case 'dict':
      return { dict: value.entries.map(([k, v]) => [typedValue(k), typedValue(v)]) };
  }
}

/** Keys are strings here, whatever they were in Python. */
export function typedNode(node: Node): unknown {
  if (node.kind === 'list') return { list: node.items.map(typedNode) };
  if (node.kind === 'dict') return { dict: [...node.entries].map(([k, v]) => [k, typedNode(v)]) };
  return typedValue(node.value);
}

/** A recorded value with the keys of its mappings as strings. */
export function stringKeys(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const record = value as { dict?: [Record<string, unknown>, unknown][]; list?: unknown[] };
  if (record.dict) return { dict: record.dict.map(([k, v]) => [String(Object.values(k)[0]), stringKeys(v)]) };
  if (record.list) return { list: record.list.map(stringKeys) };
  return value;
}
