/** A run whose disk fills up, on a small tmpfs in a mount namespace of its own: no root is needed where user namespaces are allowed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { checkpointsIn, verifyCheckpoint } from '../../src/checkpoint/folder.ts';
import { neva, nevaArgs } from '../cli/neva.ts';
import { lossesOf, savingArgs } from './unwritable.ts';

const root = mkdtempSync(join(tmpdir(), 'neva-full-'));
after(() => rmSync(root, { recursive: true, force: true }));
const STEPS = 40;
const args = (mode: string) => savingArgs(STEPS, mode, 'exp_manager.create_tensorboard_logger=false');
const env = { OMP_NUM_THREADS: '1' };

/** Runs neva in a tmpfs of that size, and copies what it left to `out`: the tmpfs ends with its namespace. */
function inTmpfs(options: string, words: readonly string[], out: string) {
  const disk = join(root, 'disk');
  mkdirSync(disk, { recursive: true });
  mkdirSync(out, { recursive: true });
  const script =
    'disk=$1; out=$2; shift 2; mount -t tmpfs -o "$NEVA_TMPFS" none "$disk" || exit 99; cd "$disk"; "$@"; code=$?; cp -a "$disk/." "$out/"; exit $code';
  return spawnSync('unshare', ['-rm', 'sh', '-c', script, 'sh', disk, out, process.execPath, ...nevaArgs(words)], {
    encoding: 'utf8',
    env: { ...process.env, ...env, NEVA_TMPFS: options },
  });
}

const possible = spawnSync('unshare', ['-rm', 'mount', '-t', 'tmpfs', 'none', tmpdir()]).status === 0;

let expected: [number, number][] = [];
test('an undisturbed run to compare with', () => {
  const folder = join(root, 'whole');
  mkdirSync(folder);
  const { status, stderr } = neva(args('stop'), { cwd: folder, env });
  assert.equal(status, 0, stderr);
  expected = lossesOf(folder) as [number, number][];
});

// Told before writing, from the free space; and met in the middle of a folder, where no file can be made any more.
for (const [what, tmpfs] of [
  ['no room', 'size=16m'],
  ['no inodes', 'size=256m,nr_inodes=60'],
] as const) {
  for (const mode of ['stop', 'continue'] as const) {
    test(`${what}, on_save_error=${mode}`, { skip: !possible && 'no user namespaces here' }, () => {
      const out = join(root, `${what}-${mode}`);
      const { status, stderr } = inTmpfs(tmpfs, args(mode), out);
      assert.equal(status, 2, stderr);
      assert.match(stderr, /checkpoint of step \d+ could not be written: the disk is full/);
      const checkpoints = join(out, 'run/neva_finetune/version_0/checkpoints');
      const names = checkpointsIn(checkpoints);
      assert.ok(names.length > 0);
      for (const name of names) verifyCheckpoint(join(checkpoints, name));
      assert.deepEqual(readdirSync(checkpoints).sort(), ['last', ...names].sort(), 'nothing half-written stays');
      assert.equal(readFileSync(join(checkpoints, 'last'), 'utf8').trim(), names.at(-1));
      if (mode === 'stop') assert.ok(lossesOf(out).length < STEPS);
      else assert.deepEqual(lossesOf(out), expected, 'it trained on to the end');
      const elsewhere = join(root, `${what}-${mode}-again`);
      cpSync(out, elsewhere, { recursive: true });
      const again = neva(args('stop'), { cwd: elsewhere, env });
      assert.equal(again.status, 0, again.stderr);
      assert.deepEqual(lossesOf(elsewhere), expected);
    });
  }
}
