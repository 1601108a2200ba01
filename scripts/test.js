// `npm test [-- FILTER… | --flags of node --test]`: compiles, makes sure that LibTorch and the addon are there, and runs
// the tests in dist/test. A filter is a part of a test file's path: `npm test -- report` runs test/report alone.
// test/slow is left out unless a filter names it.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from './build.js';

const root = dirname(dirname(fileURLToPath(import.meta.url)));

// Two test files run at a time: each may use half of the cores, or OpenMP's waiting threads take them from one another.
const env = { OMP_NUM_THREADS: String(Math.max(1, Math.floor(availableParallelism() / 2))), ...process.env };

function run(args) {
  const { status, error } = spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit', env });
  if (error) throw error;
  if (status !== 0) process.exit(status ?? 1);
}

const filters = process.argv.slice(2).filter((arg) => !arg.startsWith('-'));
const flags = process.argv.slice(2).filter((arg) => arg.startsWith('-'));

const status = build();
if (status !== 0) process.exit(status);
run(['bin/neva.js', 'setup']);

const all = readdirSync(join(root, 'dist', 'test'), { recursive: true })
  .filter((name) => name.endsWith('.test.js'))
  .map((name) => relative(root, join(root, 'dist', 'test', name)))
  .sort();
const slow = (file) => file.startsWith(join('dist', 'test', 'slow'));
const files =
  filters.length === 0
    ? all.filter((file) => !slow(file))
    : all.filter((file) =>
        filters.some((filter) => file.includes(filter.replace(/^test\//, '').replace(/\.ts$/, '.js'))),
      );
if (files.length === 0) {
  console.error(`neva: no test file matches ${filters.join(' ')}`);
  process.exit(2);
}
// Two test files at a time: with two threads each, their OpenMP threads would spin waiting for cores that the other has.
process.env.OMP_NUM_THREADS ??= '1';
run(['--test', '--test-reporter=spec', '--test-concurrency=2', ...flags, ...files]);
