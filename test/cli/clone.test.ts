/** bin/neva.js in a clone: it builds what is missing or out of date, once, and says in one sentence what it lacks. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { packageRoot } from '../../src/root.ts';

const clone = mkdtempSync(join(tmpdir(), 'neva-clone-'));
after(() => rmSync(clone, { recursive: true, force: true }));
for (const name of [
  'bin',
  'scripts',
  'package.json',
  'tsconfig.json',
  'src/cli',
  'src/config',
  'src/errors.ts',
  'src/root.ts',
]) {
  cpSync(join(packageRoot, name), join(clone, name), { recursive: true });
}
// One verb is enough here, and it keeps the compiler's work small: the others' modules are not in this clone.
for (const name of readdirSync(join(clone, 'src/cli'))) {
  if (!['main.ts', 'verbs.ts', 'fault.ts'].includes(name)) rmSync(join(clone, 'src/cli', name));
}
const verbsFile = join(clone, 'src/cli/verbs.ts');

const run = (...args: string[]) =>
  spawnSync(process.execPath, [join(clone, 'bin/neva.js'), ...args], { encoding: 'utf8' });
const modules = join(clone, 'node_modules');

test('without the compiler one sentence says what to run', () => {
  const { status, stderr } = run('--version');
  assert.equal(status, 2);
  assert.equal(stderr, 'neva: the TypeScript compiler is not installed; run `npm ci` in the folder of neva first.\n');
});

test('a fresh clone is built, and built again only when a source changed', () => {
  symlinkSync(join(packageRoot, 'node_modules'), modules);
  // The table without its rows, and what main.ts asks of the launcher's side.
  const table = readFileSync(verbsFile, 'utf8').replace(/const stage = [\s\S]*/, '');
  writeFileSync(verbsFile, `${table}export const verbs: readonly Verb[] = [];\n`);
  writeFileSync(join(clone, 'src/cli/ranks.ts'), 'export const tellLauncher = (..._: unknown[]) => false;\n');
  const first = run('--version');
  assert.equal(first.stderr, '');
  assert.match(first.stdout, /^\d+\.\d+\.\d+\n$/);
  const config = readFileSync(join(clone, 'dist/src/config/index.js'), 'utf8');
  assert.doesNotMatch(config, /from '\.\//, 'neva/config is one file');
  const stamp = join(clone, 'dist/.built');
  const builtAt = statSync(stamp).mtimeMs;
  run('--version');
  assert.equal(statSync(stamp).mtimeMs, builtAt);

  appendFileSync(verbsFile, '\nexport const changed = true;\n');
  assert.equal(run('--version').status, 0);
  assert.ok(statSync(stamp).mtimeMs > builtAt);
  assert.deepEqual(
    readdirSync(clone).filter((name) => name.startsWith('dist')),
    ['dist'],
  );
});

test('sources that do not compile are refused with what the compiler says; the last build stays', () => {
  appendFileSync(verbsFile, "\nexport const wrong: number = 'text';\n");
  const { status, stderr } = run('--version');
  assert.equal(status, 1);
  assert.match(stderr, /do not compile:\n.*verbs\.ts.*TS2322/);
  assert.ok(existsSync(join(clone, 'dist/src/cli/main.js')));
});
