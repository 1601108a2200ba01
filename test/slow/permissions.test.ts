/** A run that may not write its checkpoints any more, while it trains: permissions taken away, or the disk made read-only. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { checkpointsIn, verifyCheckpoint } from '../../src/checkpoint/folder.ts';
import { neva, nevaArgs } from '../cli/neva.ts';
import { lossesOf, runOf, savingArgs } from './unwritable.ts';

const root = mkdtempSync(join(tmpdir(), 'neva-permissions-'));
after(() => rmSync(root, { recursive: true, force: true }));
const STEPS = 60;
const args = (mode: string) => savingArgs(STEPS, mode);
const env = { OMP_NUM_THREADS: '1' };

/** Root may write everywhere, unless it is without the capability. */
const bounded = process.getuid?.() === 0 ? ['setpriv', '--bounding-set=-dac_override', '--inh-caps=-dac_override'] : [];
const bounding = bounded.length === 0 || spawnSync(bounded[0]!, [...bounded.slice(1), 'true']).status === 0;
const mounting = spawnSync('unshare', ['-rm', 'true']).status === 0;
/** Waits for a second checkpoint, and makes the folder read-only in a mount namespace of its own; the run ends the script. */
const READ_ONLY = `"$@" & run=$!
  while [ ! -e "$NEVA_CHECKPOINTS/step=0000004" ] && kill -0 $run; do sleep 0.02; done
  mount --bind "$NEVA_CHECKPOINTS" "$NEVA_CHECKPOINTS" && mount -o remount,ro,bind "$NEVA_CHECKPOINTS" || exit 99
  wait $run`;

let expected: unknown[] = [];
test('an undisturbed run to compare with', () => {
  const folder = join(root, 'whole');
  mkdirSync(folder);
  const { status, stderr } = neva(args('stop'), { cwd: folder, env });
  assert.equal(status, 0, stderr);
  expected = lossesOf(folder);
});

for (const { kind, problem, possible } of [
  { kind: 'permission', problem: /permission denied/, possible: bounding && 'chmod' },
  { kind: 'read-only', problem: /the disk is read-only/, possible: mounting && 'mount' },
]) {
  for (const mode of ['stop', 'continue'] as const) {
    test(`${kind}, on_save_error=${mode}`, { skip: !possible && 'not possible here' }, async () => {
      const folder = join(root, `${kind}-${mode}`);
      mkdirSync(folder);
      const checkpoints = join(runOf(folder), 'checkpoints');
      const words = [process.execPath, ...nevaArgs(args(mode))];
      const [program, ...rest] =
        kind === 'permission' ? [...bounded, ...words] : ['unshare', '-rm', 'sh', '-c', READ_ONLY, 'sh', ...words];
      const child = spawn(program!, rest, {
        cwd: folder,
        env: { ...process.env, ...env, NEVA_CHECKPOINTS: checkpoints },
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let text = '';
      child.stderr.on('data', (piece) => {
        text += piece;
      });
      const taken = setInterval(() => {
        if (kind !== 'permission' || !existsSync(join(checkpoints, 'step=0000004'))) return;
        chmodSync(checkpoints, 0o555);
        clearInterval(taken);
      }, 10);
      const [status] = await once(child, 'close');
      clearInterval(taken);
      chmodSync(checkpoints, 0o755);
      assert.equal(status, 2, text);
      assert.match(text, /checkpoint of step \d+ could not be written/);
      assert.match(text, problem);
      const names = checkpointsIn(checkpoints);
      assert.ok(names.length >= 2);
      for (const name of names) verifyCheckpoint(join(checkpoints, name));
      assert.ok(names.includes(readFileSync(join(checkpoints, 'last'), 'utf8').trim()));
      const done = lossesOf(folder);
      if (mode === 'stop') assert.ok(done.length < STEPS, `it trained ${done.length} steps`);
      else assert.deepEqual(done, expected, 'it trained on to the end');
      const again = neva(args('stop'), { cwd: folder, env });
      assert.equal(again.status, 0, again.stderr);
      assert.deepEqual(lossesOf(folder), expected);
      assert.deepEqual(
        readdirSync(checkpoints).filter((name) => name.endsWith('.partial')),
        [],
        'what was half-written is gone',
      );
    });
  }
}
