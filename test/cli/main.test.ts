import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { verbs } from '../../src/cli/verbs.ts';
import { neva, nevaArgs } from './neva.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-cli-'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('help and version', () => {
  const help = neva(['--help']);
  assert.equal(help.status, 0);
  for (const { name, hidden } of verbs) {
    const listed = new RegExp(`^  ${name} `, 'm').test(help.stdout);
    assert.equal(listed, !hidden, name);
  }
  assert.equal(neva([]).stdout, help.stdout);
  assert.match(neva(['--version']).stdout, /^\d+\.\d+\.\d+\n$/);
});

/** Time in ms of one process from start to end. */
function timed(args: readonly string[]): { ms: number; stdout: string; status: number | null } {
  const startedAt = performance.now();
  const { stdout, status } = spawnSync(process.execPath, args, { encoding: 'utf8' });
  return { ms: performance.now() - startedAt, stdout, status };
}

/** What an empty Node process takes on a quiet machine of the kind that the 150 ms were set on. */
const quietStart = 45;

test('every verb has help, in less than 150 ms from the start of the process', () => {
  for (const { name } of [{ name: '' }, ...verbs]) {
    const bare: number[] = [];
    const help: number[] = [];
    for (let i = 0; i < 5; i++) {
      bare.push(timed(['-e', '0']).ms);
      const { ms, stdout, status } = timed(nevaArgs([name, '--help'].filter(Boolean)));
      help.push(ms);
      assert.equal(status, 0);
      assert.match(stdout, /^Usage: neva/);
    }
    // Fastest of five, and allowed more where even an empty process takes longer: other tests share the machine.
    const limit = 150 * Math.max(1, Math.min(...bare) / quietStart);
    assert.ok(
      Math.min(...help) < limit,
      `neva ${name} --help took ${help.map(Math.round)} ms, an empty one ${bare.map(Math.round)} ms`,
    );
  }
});

test('help loads no package but the flag parser', () => {
  const list = `
    import { createRequire } from 'node:module';
    process.on('exit', () => {
      const files = Object.keys(createRequire(import.meta.url).cache);
      console.error(JSON.stringify(files.map((file) => /node_modules.((?:@[^\\/]+.)?[^\\/]+)/.exec(file)?.[1])));
    });`;
  for (const { name } of verbs) {
    const args = nevaArgs([name, '--help']).map((arg) => (arg.startsWith('import ') ? `${list}${arg}` : arg));
    const { stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
    assert.deepEqual([...new Set(JSON.parse(stderr))], ['commander'], `neva ${name} --help`);
  }
});

test('unknown verbs and flags are the user’s mistake, with the nearest name', () => {
  const verb = neva(['dcotor']);
  assert.deepEqual([verb.status, verb.stdout], [2, '']);
  assert.match(verb.stderr, /^neva: unknown command 'dcotor'\n\(Did you mean doctor\?\)\n$/);
  const flag = neva(['doctor', '--jsn']);
  assert.equal(flag.status, 2);
  assert.match(flag.stderr, /unknown option '--jsn'\n\(Did you mean --json\?\)/);
});

test('doctor reports in words and as JSON, and tells what to do about a wrong NEVA_LIBTORCH', () => {
  const found = JSON.parse(neva(['doctor', '--json']).stdout);
  assert.equal(found.node, process.version);
  assert.ok(found.cpu.cores >= 1 && found.memory.totalBytes > 0);
  assert.match(neva(['doctor']).stdout, new RegExp(`^Node +${process.version}`));
  const wrong = neva(['doctor'], { env: { NEVA_LIBTORCH: join(folder, 'nowhere') } });
  assert.equal(wrong.status, 0);
  assert.match(
    wrong.stdout,
    /LibTorch +not found[\s\S]*Not ready[\s\S]*NEVA_LIBTORCH: no LibTorch[\s\S]*nowhere does not exist/,
  );
});

test('a user error is one message without a stack and exit 2', () => {
  const { status, stderr } = neva(['setup'], { env: { NEVA_LIBTORCH: join(folder, 'nowhere') } });
  assert.equal(status, 2);
  assert.match(stderr, /^neva: NEVA_LIBTORCH: /);
  assert.doesNotMatch(stderr, /\n +at /);
});

test('any other error exits 1 with one line that names the file with the stack', () => {
  // A closed standard output is nobody's mistake: writing the help to it throws.
  const breakIt = "process.stdout.write = () => { throw new TypeError('broken for the test'); };";
  const args = nevaArgs(['--help']);
  const { status, stderr } = spawnSync(
    process.execPath,
    args.map((arg) => (arg.startsWith('import ') ? `${breakIt} ${arg}` : arg)),
    {
      encoding: 'utf8',
      env: { ...process.env, TMPDIR: folder },
    },
  );
  assert.equal(status, 1);
  const file = /^neva: broken for the test \(the whole story is in (.*)\)\n$/.exec(stderr)?.[1] ?? '';
  assert.ok(file.startsWith(folder), stderr);
  assert.match(readFileSync(file, 'utf8'), /TypeError: broken for the test\n +at /);
});

test('a reader that leaves early is nobody’s fault', async () => {
  const child = spawn(process.execPath, nevaArgs(['config', 'show']), { stdio: ['ignore', 'pipe', 'pipe'] });
  child.stdout.destroy();
  let complaints = '';
  child.stderr.on('data', (piece) => {
    complaints += piece;
  });
  const [status] = await once(child, 'close');
  assert.deepEqual([status, complaints], [0, '']);
});
