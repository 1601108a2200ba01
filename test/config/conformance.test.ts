/** neva's answers against those that Hydra 1.3.5 and OmegaConf 2.3.1 gave to the same questions. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { composeTree, resolveTree } from '../../src/config/compose.ts';
import { ConfigError } from '../../src/config/error.ts';
import { isSweep, printElement } from '../../src/config/grammar/element.ts';
import { parseOverride, parseOverrides } from '../../src/config/grammar/override.ts';
import { Evaluator } from '../../src/config/interpolation.ts';
import { expandJobs } from '../../src/config/sweep.ts';
import { dict, merge, type Node } from '../../src/config/tree.ts';
import { readYaml } from '../../src/config/yaml.ts';
import { DIFFERENCES } from './differences.ts';
import { fixture, stringKeys, typedNode, typedValue } from './fixtures.ts';

interface OverrideCase {
  text: string;
  error?: true;
  prefix?: string;
  key?: string;
  package?: string | null;
  value?: unknown;
  printed?: string;
  jobs?: string[];
}

/** The outcome of `run`, or 'error' for our own kind of error; anything else thrown is a fault. */
function outcome<T>(run: () => T): T | 'error' {
  try {
    return run();
  } catch (error) {
    if (error instanceof ConfigError) return 'error';
    throw error;
  }
}

function report(failures: string[], total: number, used: Set<string>, table: Record<string, string>): void {
  const stale = Object.keys(table).filter((key) => !used.has(key));
  assert.deepEqual(stale, [], 'differences that are none any more');
  assert.equal(failures.length, 0, `${failures.length} of ${total} differ:\n${failures.join('\n')}`);
}

test('overrides: value and type, or an error', () => {
  const { cases } = fixture<{ cases: OverrideCase[] }>('overrides');
  assert.ok(cases.length >= 400);
  const failures: string[] = [];
  const used = new Set<string>();
  for (const row of cases) {
    const expected = row.error
      ? 'error'
      : {
          prefix: row.prefix,
          key: row.key,
          package: row.package,
          value: row.value ?? null,
          printed: row.printed ?? null,
        };
    const found = outcome(() => {
      const o = parseOverride(row.text);
      const shuffledList = row.text.startsWith('k=shuffle([');
      return {
        prefix: o.prefix,
        key: o.key,
        package: o.package,
        value: o.value === null || shuffledList ? o.value && typedValue(o.value) : typedValue(o.value),
        printed: o.value === null || isSweep(o.value) ? null : printElement(o.value),
      };
    });
    const same = JSON.stringify(found) === JSON.stringify(expected);
    if (row.text in DIFFERENCES.overrides) {
      used.add(row.text);
      if (same) failures.push(`${row.text}: listed as a difference, but agrees`);
    } else if (!same)
      failures.push(`${row.text}\n    hydra ${JSON.stringify(expected)}\n    neva  ${JSON.stringify(found)}`);
    if (row.jobs !== undefined && found !== 'error') {
      const jobs = outcome(() => expandJobs([parseOverride(row.text)]).map(([job]) => job?.slice(2)));
      if (JSON.stringify(jobs) !== JSON.stringify(row.jobs))
        failures.push(`${row.text}: jobs ${jobs}, not ${row.jobs}`);
    }
  }
  report(failures, cases.length, used, DIFFERENCES.overrides);
});

test('merging, YAML scalars, interpolation, resolvers', () => {
  const { cases } = fixture<{ cases: { documents: string[]; error?: string; value?: unknown }[] }>('merges');
  assert.ok(cases.length >= 150);
  const failures: string[] = [];
  const used = new Set<string>();
  for (const { documents, error, value } of cases) {
    const expected = error ? 'error' : stringKeys(value);
    const found = outcome(() => {
      const root = dict({ kind: 'default' });
      for (const [i, source] of documents.entries()) merge(root, readYaml(source, `${i}.yaml`).root, '');
      const evaluator = new Evaluator(root, { packageRoot: '/root', env: { NEVA_TEST: '7' } });
      return typedNode(evaluator.deep(root as Node, ''));
    });
    const name = documents.join(' + ');
    const same = JSON.stringify(found) === JSON.stringify(expected);
    if (name in DIFFERENCES.merges) {
      used.add(name);
      if (same) failures.push(`${name}: listed as a difference, but agrees`);
    } else if (!same) {
      failures.push(
        `${JSON.stringify(name)}\n    omegaconf ${JSON.stringify(expected)} ${error ?? ''}\n    neva      ${JSON.stringify(found)}`,
      );
    }
  }
  report(failures, cases.length, used, DIFFERENCES.merges);
});

test('compositions', () => {
  interface Case {
    files: string;
    config: string;
    overrides: string[];
    error?: string;
    value?: unknown;
  }
  const { cases, files } = fixture<{ cases: Case[]; files: Record<string, Record<string, string>> }>('compositions');
  assert.ok(cases.length >= 60);
  const failures: string[] = [];
  const used = new Set<string>();
  const folder = mkdtempSync(join(tmpdir(), 'neva-config-'));
  for (const [set, contents] of Object.entries(files)) {
    for (const [path, content] of Object.entries(contents)) {
      const file = join(folder, set, path);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, content);
    }
  }
  for (const row of cases) {
    const expected = row.error ? 'error' : stringKeys(row.value);
    const found = outcome(() => {
      const composed = composeTree({
        configName: row.config,
        configDirs: [join(folder, row.files)],
        overrides: row.overrides,
      });
      return typedNode(resolveTree(composed, { packageRoot: '/root' }));
    });
    const name = `${row.config} ${row.overrides.join(' ')}`.trim();
    const same = JSON.stringify(sorted(found)) === JSON.stringify(sorted(expected));
    if (name in DIFFERENCES.compositions) {
      used.add(name);
      if (same) failures.push(`${name}: listed as a difference, but agrees`);
    } else if (!same) {
      failures.push(
        `${name}\n    hydra ${JSON.stringify(expected)} ${row.error ?? ''}\n    neva  ${JSON.stringify(found)}`,
      );
    }
  }
  rmSync(folder, { recursive: true });
  report(failures, cases.length, used, DIFFERENCES.compositions);
});

/** The order of keys is no part of the comparison: mappings are sorted. */
function sorted(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  const record = value as { dict?: [string, unknown][]; list?: unknown[] };
  if (record.dict) {
    return {
      dict: record.dict.map(([k, v]) => [k, sorted(v)]).sort((a, b) => String(a[0]).localeCompare(String(b[0]))),
    };
  }
  return record.list ? { list: record.list.map(sorted) } : value;
}

test('sweeps expand to the same jobs in the same order', () => {
  const { cases } = fixture<{ cases: { overrides: string[]; jobs: string[][] }[] }>('jobs');
  for (const { overrides, jobs } of cases)
    assert.deepEqual(expandJobs(parseOverrides(overrides)), jobs, overrides.join(' '));
});
