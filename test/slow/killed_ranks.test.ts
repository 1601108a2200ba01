/** A rank is killed at a random step, twenty times in one run: never a hang or an orphan, and it always goes on. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { neva, nevaArgs } from '../cli/neva.ts';
import { tiny } from '../cli/tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-killed-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const options = { cwd: folder, env: { ...process.env, OMP_NUM_THREADS: '1' } };
const STEPS = 400;
const args = (name: string) => [
  'pretrain',
  `trainer.max_steps=${STEPS}`,
  `exp_manager.exp_dir=${name}`,
  'exp_manager.version=version_0',
  'exp_manager.checkpoint_callback_params.every_n_train_steps=5',
  'trainer.devices=2',
  ...tiny,
  'model.micro_batch_size=4',
  'trainer.precision=32',
  'trainer.log_every_n_steps=1',
];
const runFile = (name: string, file: string) => join(folder, name, 'neva_pretrain/version_0', file);
const read = (name: string, file: string) =>
  readFileSync(runFile(name, file), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

test('killed twenty times', async () => {
  let killed = 0;
  let reached = 0;
  while (killed < 20) {
    const child = spawn(process.execPath, nevaArgs(args('run')), { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
    const [victim, steps] = [Math.round(Math.random()), 1 + Math.floor(Math.random() * 15)];
    let text = '';
    let first = 0;
    let pids: number[] = [];
    let at = 0;
    child.stderr.on('data', (piece) => {
      text += piece;
      const done = Number([...text.matchAll(/^pretrain +(\d+)\//gm)].at(-1)?.[1] ?? 0);
      first ||= done;
      if (at > 0 || done === 0 || done < first + steps) return;
      at = performance.now();
      const lines = read('run', 'neva.log') as { rank: number; pid: number }[];
      pids = [0, 1].map((rank) => lines.findLast((line) => line.rank === rank)!.pid);
      process.kill(pids[victim]!, 'SIGKILL');
    });
    const [status] = await once(child, 'close');
    if (at === 0) {
      assert.equal(status, 0, text);
      break;
    }
    killed++;
    assert.equal(status, 1, text);
    assert.match(text, new RegExp(`^neva: rank ${victim} of 2 on \\S+ was killed by SIGKILL`, 'm'));
    assert.ok(performance.now() - at < 15_000);
    for (const pid of pids) assert.throws(() => process.kill(pid, 0), /ESRCH/);
    reached = first;
  }
  assert.equal(killed, 20, `it reached its end after step ${reached}`);
  assert.equal(neva(args('run'), options).status, 0);
  assert.equal(neva(args('whole'), options).status, 0);
  const losses = (name: string) => read(name, 'metrics.jsonl').map(({ step, loss }) => [step, loss]);
  assert.deepEqual(losses('run'), losses('whole'));
});
