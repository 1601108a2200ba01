/** Sweeps: jobs, their folders and records, failures, and a sweep that is started again. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'yaml';
import { neva, nevaArgs } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-multirun-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const sweep = (name: string, ...more: string[]) => ['pretrain', '-m', `exp_manager.exp_dir=${name}`, ...tiny, ...more];
const sweepFolder = (name: string) => join(folder, name, 'neva_pretrain/multirun');
const read = (...path: string[]) => readFileSync(join(...path), 'utf8');
/** The table at the end, a list of cells for each job. */
const rows = (stdout: string) =>
  stdout
    .trimEnd()
    .split('\n')
    .slice(1)
    .map((line) => line.trim().split(/ {2,}/));

test('a failed job shows its error at once, the others run, and a second start runs only what is not done', () => {
  const args = sweep('whole', 'trainer.max_steps=3', 'optim.lr=1e-3,1e30,2e-3');
  const first = neva(args, { cwd: folder });
  assert.equal(first.status, 1, first.stderr);
  assert.match(
    first.stderr,
    /job 2 of 3: model\.optim\.lr=1e\+30[\s\S]*neva: step \d: the loss is [\s\S]*job 2 of 3 failed with exit code 1[\s\S]*job 3 of 3/,
  );
  assert.match(first.stdout, /^job +overrides +final loss +tokens\/s +exit +status +folder\n/);
  const [one, two, three] = rows(first.stdout);
  for (const [row, lr] of [
    [one, '0.001'],
    [three, '0.002'],
  ] as const) {
    assert.equal(row?.[1], `model.optim.lr=${lr}`);
    assert.match(`${row?.[2]} ${row?.[3]}`, /^\d+\.\d{4} \d+$/);
    assert.deepEqual(row?.slice(4, 6), ['0', 'done']);
  }
  assert.deepEqual([two?.[1], two?.at(-3), two?.at(-2)], ['model.optim.lr=1e+30', '1', 'failed']);

  const record = parse(read(sweepFolder('whole'), 'multirun.yaml'));
  assert.deepEqual(record.command, ['neva', 'pretrain', '--multirun', ...args.slice(2)]);
  assert.deepEqual(
    record.jobs.map(({ exit, status }: { exit: number; status: string }) => [exit, status]),
    [
      [0, 'done'],
      [1, 'failed'],
      [0, 'done'],
    ],
  );
  const job = join(folder, one?.[6] ?? '');
  assert.match(job, /multirun\/lr=0\.001-[0-9a-f]{8}$/);
  const overrides = parse(read(job, 'overrides.yaml'));
  assert.deepEqual(overrides, record.jobs[0].overrides);
  assert.ok(overrides.includes('model.optim.lr=0.001') && !overrides.some((o: string) => /log_dir/.test(o)));
  const lines = read(job, 'metrics.jsonl').trimEnd().split('\n');
  assert.equal(JSON.parse(lines.at(-1) ?? '').loss.toFixed(4), one?.[2]);

  const again = neva(args, { cwd: folder });
  assert.equal(again.status, 1);
  assert.deepEqual(
    rows(again.stdout).map((row) => row.at(-2)),
    ['done before', 'failed', 'done before'],
  );
  // A larger sweep finds the jobs of the smaller one.
  const larger = neva(sweep('whole', 'trainer.max_steps=3', 'optim.lr=1e-3,2e-3,3e-3'), { cwd: folder });
  assert.equal(larger.status, 0, larger.stderr);
  assert.deepEqual(
    rows(larger.stdout).map((row) => row.at(-2)),
    ['done before', 'done before', 'done'],
  );
});

test('--fail-fast leaves the rest unrun; a job that cannot start is told before the first runs', () => {
  const wrong = sweep('fast', 'trainer.max_steps=many,2');
  const stopped = neva([...wrong, '--fail-fast'], { cwd: folder });
  assert.equal(stopped.status, 2, stopped.stderr);
  assert.match(stopped.stderr, /^neva: job 1 cannot run: trainer\.max_steps: [\s\S]*found: {4}'many'/);
  assert.deepEqual(
    rows(stopped.stdout).map((row) => row[row.length - (row.includes('refused') ? 1 : 2)]),
    ['refused', 'not run'],
  );
  assert.ok(!existsSync(sweepFolder('fast')), 'nothing was started');
  const on = neva(wrong, { cwd: folder });
  assert.equal(on.status, 2);
  assert.equal(rows(on.stdout)[1]?.at(-2), 'done');
});

test('--dry-run lists the jobs and writes nothing', () => {
  const args = ['--dry-run', 'optim.lr=1e-3,2e-3', 'model.seed=range(0,2)'];
  const { status, stdout, stderr } = neva(sweep('dry', ...args), { cwd: folder });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^4 jobs; nothing was run\.\njob +overrides +state +folder\n/);
  assert.deepEqual(
    [...stdout.matchAll(/lr=(\S+) model\.seed=(\d) +would run +dry\/neva_pretrain\/multirun\/lr=\1,seed=\2-/g)].map(
      ([, lr, seed]) => [lr, seed],
    ),
    [
      ['0.001', '0'],
      ['0.001', '1'],
      ['0.002', '0'],
      ['0.002', '1'],
    ],
  );
  assert.ok(!existsSync(join(folder, 'dry')));
  const single = neva(['pretrain', '--dry-run', ...tiny, 'trainer.precision=bf61'], { cwd: folder });
  assert.equal(single.status, 2);
  assert.match(single.stderr, /^neva: trainer\.precision: not one of the choices/);
});

test('what is wrong with every job is one message, as for a single run', () => {
  const typo = neva(sweep('typo', 'optim.lr=1e-3,2e-3', 'model.sed=1'), { cwd: folder });
  assert.deepEqual([typo.status, typo.stdout], [2, '']);
  assert.match(
    typo.stderr,
    /^neva: model\.sed: there is no such key\n.*\n {2}fix: {6}did you mean model\.seed or inference\.seed\?\n$/,
  );
  const empty = neva(sweep('typo', 'model.seed=range(3,3)'), { cwd: folder });
  assert.equal(empty.status, 2);
  assert.match(empty.stderr, /there is no job to run/);
  assert.ok(!existsSync(join(folder, 'typo')));
});

test('SIGTERM lets the running job save and ends the sweep; started again it goes on in the middle of the job', async () => {
  const args = sweep('stopped', 'trainer.max_steps=30', 'optim.lr=1e-3,2e-3', 'trainer.log_every_n_steps=1');
  const child = spawn(process.execPath, nevaArgs(args), { cwd: folder, stdio: 'pipe' });
  let text = '';
  let asked = false;
  child.stderr.on('data', (piece) => {
    text += piece;
    if (!asked && /^pretrain +3\/30/m.test(text)) {
      asked = true;
      child.kill('SIGTERM');
    }
  });
  let table = '';
  child.stdout.on('data', (piece) => {
    table += piece;
  });
  const [status] = await once(child, 'close');
  assert.equal(status, 143, text);
  assert.equal(rows(table)[0]?.at(-2), 'stopped');
  assert.match(table, /not run/);

  const again = neva(args, { cwd: folder });
  assert.equal(again.status, 0, again.stderr);
  assert.match(again.stderr, /^Going on in .*lr=0\.001-/m);
  for (const name of readdirSync(sweepFolder('stopped')).filter((entry) => entry.startsWith('lr='))) {
    const steps = read(sweepFolder('stopped'), name, 'metrics.jsonl')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line).step);
    assert.deepEqual(
      steps,
      Array.from({ length: 30 }, (_, i) => i + 1),
      name,
    );
  }
});

test('of two sweeps of one folder at once, the second is refused and says who runs the first', async () => {
  const args = sweep('twice', 'trainer.max_steps=100000', 'optim.lr=1e-3,2e-3');
  const first = spawn(process.execPath, nevaArgs(args), { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  await new Promise<void>((resolve) => {
    first.stderr.on('data', (piece) => {
      text += piece;
      if (/^pretrain +1\//m.test(text)) resolve();
    });
    first.once('close', () => resolve());
  });
  const second = neva(args, { cwd: folder });
  assert.equal(second.status, 2, second.stderr);
  assert.match(second.stderr, new RegExp(`sweep\\.lock: a sweep runs .*\\n.*process ${first.pid} on `));
  // A run in the folder of the job that goes on is refused as well.
  const [job] = readdirSync(sweepFolder('twice')).filter((name) => name.startsWith('lr='));
  const inside = `exp_manager.explicit_log_dir='${join(sweepFolder('twice'), job!)}'`;
  const single = neva(
    ['pretrain', ...tiny, inside, 'exp_manager.resume_if_exists=true', 'exp_manager.resume_ignore_no_checkpoint=true'],
    { cwd: folder },
  );
  assert.equal(single.status, 2, single.stderr);
  assert.match(single.stderr, /run\.lock: a run goes on in this folder already/);
  first.kill('SIGTERM');
  const [status] = await once(first, 'close');
  assert.equal(status, 143, text);
  assert.equal(existsSync(join(sweepFolder('twice'), 'sweep.lock')), false);
});
