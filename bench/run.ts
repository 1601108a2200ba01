/**
 * All benchmarks, one after the other: `npm run bench`. Each writes bench/results/DATE-NAME.json; the machine should have nothing else
 * to do. `npm run bench -- --tiny` tries all of them with small shapes, into a temporary folder. `--only step,attention` picks.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

const { values: flags } = parseArgs({
  options: { tiny: { type: 'boolean', default: false }, only: { type: 'string' } },
});

/** Name, script, flags of a small trial; null: it has no small shapes, and is left out of a trial. */
const BENCHMARKS: readonly (readonly [string, string, readonly string[] | null])[] = [
  ['step', 'step/run.js', ['--tiny', '--steps', '2']],
  ['attention', 'attention/run.js', ['--lengths', '64,128,256', '--heads', '2', '--repeats', '1']],
  [
    'scaling',
    'scaling/run.js',
    ['--steps', '2', '--hidden', '64', '--layers', '1,2', '--batches', '1,2', '--texts', '64,128'],
  ],
  ['parallel', 'parallel/run.js', ['--tiny', '--steps', '2', '--ranks', '1,2']],
  ['startup', 'startup/run.js', ['--repeats', '1']],
  ['data', 'data/run.js', null],
  ['checkpoint', 'checkpoint/run.js', null],
  ['memory', 'memory/run.js', null],
];

const known = BENCHMARKS.map(([name]) => name);
const wanted = flags.only?.split(',') ?? known;
const unknown = wanted.filter((name) => !known.includes(name));
if (unknown.length > 0) {
  console.error(`there is no benchmark ${unknown.join(', ')}; there are ${known.join(', ')}`);
  process.exit(2);
}
const folder = flags.tiny ? mkdtempSync(join(tmpdir(), 'neva-bench-')) : null;
const failed: string[] = [];
for (const [name, script, trial] of BENCHMARKS) {
  if (!wanted.includes(name) || (folder && !trial)) continue;
  console.log(`\n== ${name}`);
  const args = folder ? [...trial!, '--out', join(folder, `${name}.json`)] : [];
  const { status } = spawnSync(process.execPath, [join(import.meta.dirname, script), ...args], { stdio: 'inherit' });
  if (status !== 0) failed.push(name);
}
if (failed.length > 0) {
  console.error(`failed: ${failed.join(', ')}`);
  process.exitCode = 1;
}
