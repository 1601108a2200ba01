/**
 * A rank is killed at a random step, twenty times in one run, for each way of sharing the work: never a hang or an orphan, and it
 * always goes on. `--test-name-pattern=tp2` takes one of them.
 */
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
/** More than twenty kills within 15 steps each can reach. */
const STEPS = 320;
const LAYOUTS: readonly (readonly [string, number, string[]])[] = [
  ['dp2', 2, ['model.micro_batch_size=4']],
  ['tp2', 2, ['model.tensor_model_parallel_size=2']],
  ['pp2', 2, ['model.micro_batch_size=4', 'model.pipeline_model_parallel_size=2']],
  ['dp2+tp2', 4, ['model.micro_batch_size=4', 'model.tensor_model_parallel_size=2']],
];
const args = (name: string, ranks: number, layout: readonly string[]) => [
  'pretrain',
  `trainer.max_steps=${STEPS}`,
  `exp_manager.exp_dir=${name}`,
  'exp_manager.version=version_0',
  'exp_manager.checkpoint_callback_params.every_n_train_steps=5',
  `trainer.devices=${ranks}`,
  ...tiny,
  ...layout,
  'trainer.precision=32',
  'trainer.log_every_n_steps=1',
];
const runFile = (name: string, file: string) => join(folder, name, 'neva_pretrain/version_0', file);
const read = (name: string, file: string) =>
  readFileSync(runFile(name, file), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

for (const [name, ranks, layout] of LAYOUTS) {
  test(`${name}: killed twenty times`, () => killedTwentyTimes(name, ranks, layout));
}

async function killedTwentyTimes(name: string, ranks: number, layout: readonly string[]): Promise<void> {
  const [run, whole] = [`${name}-run`, `${name}-whole`];
  const command = (folder: string) => args(folder, ranks, layout);
  let killed = 0;
  let reached = 0;
  while (killed < 20) {
    const child = spawn(process.execPath, nevaArgs(command(run)), { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
    const [victim, steps] = [Math.floor(ranks * Math.random()), 1 + Math.floor(Math.random() * 15)];
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
      const lines = read(run, 'neva.log') as { rank: number; pid: number }[];
      pids = Array.from({ length: ranks }, (_, rank) => lines.findLast((line) => line.rank === rank)!.pid);
      process.kill(pids[victim]!, 'SIGKILL');
    });
    const [status] = await once(child, 'close');
    if (at === 0) {
      assert.equal(status, 0, text);
      break;
    }
    killed++;
    assert.equal(status, 1, text);
    assert.match(text, new RegExp(`^neva: rank ${victim} of ${ranks} on \\S+ was killed by SIGKILL`, 'm'));
    assert.ok(performance.now() - at < 15_000);
    for (const pid of pids) assert.throws(() => process.kill(pid, 0), /ESRCH/);
    reached = first;
  }
  assert.equal(killed, 20, `it reached its end after step ${reached}`);
  assert.equal(neva(command(run), options).status, 0);
  assert.equal(neva(command(whole), options).status, 0);
  const losses = (of: string) => read(of, 'metrics.jsonl').map(({ step, loss }) => [step, loss]);
  assert.deepEqual(losses(run), losses(whole));
}

for (const victim of [1, 0]) {
  test(`stopped: rank ${victim} is named by the other, and does not outlive the run`, async () => {
    const name = `stopped-${victim}`;
    const [, , layout] = LAYOUTS[0]!;
    const timeouts = ['trainer.collective_timeout=5', 'trainer.failure_timeout=5'];
    const command = [...args(name, 2, layout), 'trainer.max_steps=100000', ...timeouts];
    const child = spawn(process.execPath, nevaArgs(command), { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
    let text = '';
    let pids: number[] = [];
    child.stderr.on('data', (piece) => {
      text += piece;
      if (pids.length > 0 || !/^pretrain +3\//m.test(text)) return;
      const lines = read(name, 'neva.log') as { rank: number; pid: number }[];
      pids = [0, 1].map((rank) => lines.findLast((line) => line.rank === rank)!.pid);
      process.kill(pids[victim]!, 'SIGSTOP');
    });
    const [status] = await once(child, 'close');
    assert.equal(status, 1, text);
    const found =
      victim === 1 ? 'rank 1 of 2 on \\S+ does not answer any more' : 'rank 0, at whose store the ranks meet';
    const waited = `^neva: rank ${1 - victim} of 2 on \\S+ waited for .*, at step \\d+: nothing came in time .*; ${found}`;
    assert.match(text, new RegExp(waited, 'm'));
    for (const pid of pids) assert.throws(() => process.kill(pid, 0), /ESRCH/);
  });
}
