/** The whole way of a run, on the demo's records and a model of 170 thousand random weights. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'yaml';
import { neva, nevaArgs } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-train-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const pretrain = (steps: number, ...more: string[]) => ['pretrain', `trainer.max_steps=${steps}`, ...tiny, ...more];
const runFolder = (experiments: string, version: number) =>
  join(folder, experiments, 'neva_pretrain', `version_${version}`);
const losses = (dir: string) =>
  readFileSync(join(dir, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line))
    .filter((line) => line.loss !== undefined)
    .map(({ step, loss }) => [step, loss]);

test('a run writes its folder, and one that has finished is followed by the next version', () => {
  const args = pretrain(5, 'exp_manager.exp_dir=whole', 'trainer.log_every_n_steps=2');
  const first = neva(args, { cwd: folder });
  assert.equal(first.status, 0, first.stderr);
  assert.match(first.stderr, /bundled demo/);
  assert.match(first.stderr, /^pretrain 4\/5 {2}loss /m);
  const dir = runFolder('whole', 0);
  assert.deepEqual(parse(readFileSync(join(dir, 'overrides.yaml'), 'utf8')), args.slice(1));
  assert.equal(parse(readFileSync(join(dir, 'config.yaml'), 'utf8')).trainer.max_steps, 5);
  assert.deepEqual(
    losses(dir).map(([step]) => step),
    [1, 2, 3, 4, 5],
  );
  assert.equal(readFileSync(join(dir, 'checkpoints/last'), 'utf8').trim(), 'step=0000005');
  for (const line of readFileSync(join(dir, 'neva.log'), 'utf8').trimEnd().split('\n')) assert.ok(JSON.parse(line).msg);

  const second = neva(args, { cwd: folder });
  assert.match(second.stderr, /version_1 \(version_0 has finished\)/);
  assert.deepEqual(losses(runFolder('whole', 1)), losses(dir), 'same seed, same losses, bit for bit');
});

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  test(`${signal} saves and exits 143; starting again gives the losses of a run that was never stopped`, async () => {
    const steps = 40;
    const name = `exp_manager.exp_dir=stopped-${signal}`;
    const lines = 'trainer.log_every_n_steps=1';
    const child = spawn(process.execPath, nevaArgs(pretrain(steps, name, lines)), { cwd: folder, stdio: 'pipe' });
    let text = '';
    let asked = false;
    child.stderr.on('data', (piece) => {
      text += piece;
      if (!asked && /^pretrain +3\/40/m.test(text)) {
        asked = true;
        child.kill(signal);
      }
    });
    const [status] = await once(child, 'close');
    assert.equal(status, 143, text);
    const dir = runFolder(`stopped-${signal}`, 0);
    const done = losses(dir).length;
    assert.ok(done >= 3 && done < steps, `it stopped after step ${done}`);

    const again = neva(pretrain(steps, name, lines), { cwd: folder });
    assert.equal(again.status, 0, again.stderr);
    assert.match(again.stderr, /^Going on in .*version_0$/m);
    const whole = runFolder('uninterrupted', 0);
    // The first of the two signals' tests makes the run that both are compared with.
    if (!existsSync(whole)) {
      assert.equal(neva(pretrain(steps, 'exp_manager.exp_dir=uninterrupted', lines), { cwd: folder }).status, 0);
    }
    assert.deepEqual(losses(dir), losses(whole));
  });
}

test('a mistake ends with exit 2, one message and nothing half-written', () => {
  const cases: [string, RegExp][] = [
    ['model.optim.lrr=1', /^neva: model\.optim\.lrr: there is no such key[\s\S]*model\.optim\.lr/m],
    ['trainer.max_steps=many', /trainer\.max_steps: [\s\S]*expected: a whole number/],
    ['model.data.data_path=nowhere.json', /model\.data\.data_path: [\s\S]*nowhere\.json/],
    ['model.data.image_folder=nowhere', /nowhere/],
    ['exp_manager.create_mlflow_logger=true', /exp_manager\.create_mlflow_logger/],
  ];
  for (const [override, pattern] of cases) {
    const { status, stderr } = neva(pretrain(2, 'exp_manager.exp_dir=wrong', override), { cwd: folder });
    assert.equal(status, 2, `${override}: ${stderr}`);
    assert.match(stderr, pattern);
    assert.doesNotMatch(stderr, /\n +at /);
    const parent = join(folder, 'wrong/neva_pretrain');
    assert.deepEqual(existsSync(parent) ? readdirSync(parent) : [], [], override);
  }
});

test('a fault of the run exits 1 with one line; its stack stands in neva.log', () => {
  // A learning rate at which the second step's loss is not a number.
  const { status, stderr } = neva(pretrain(4, 'exp_manager.exp_dir=fault', 'model.optim.lr=1e30'), { cwd: folder });
  assert.equal(status, 1, stderr);
  const log = join(runFolder('fault', 0), 'neva.log');
  assert.match(
    stderr.trimEnd().split('\n').at(-1)!,
    /^neva: step \d: the loss is .* \(the whole story is in .*neva\.log\)$/,
  );
  const last = JSON.parse(readFileSync(log, 'utf8').trimEnd().split('\n').at(-1)!);
  assert.match(last.err.stack, /\n +at /);
});

test("Hydra's flags: the configuration instead of a run, as composed or resolved, or a part of it", () => {
  const shown = neva(['pretrain', '--cfg', 'job', '--resolve', 'model.optim.lr=0.5', '-p', 'model.optim']);
  assert.equal(parse(shown.stdout).lr, 0.5);
  const finetune = neva(['pretrain', '-cn', 'neva_finetune', '--cfg=job']);
  assert.equal(parse(finetune.stdout).name, 'neva_finetune');
  assert.equal(parse(finetune.stdout).exp_manager.name, '${' + 'name}');
  const info = neva(['pretrain', '--info', 'trainer.max_steps=1']);
  assert.match(info.stdout, /neva_pretrain[\s\S]*data\/demo/);
  assert.equal(neva(['pretrain', '--cfg', 'hydra']).status, 2);
  assert.equal(neva(['pretrain', '--info', 'weather']).status, 2);
  assert.equal(parse(neva(['config', 'show', 'neva_finetune', 'name=x']).stdout).name, 'x');
  assert.match(neva(['config', 'docs', 'optim.lr']).stdout, /^model\.optim\.lr: .*\n +type: +a number/);
  assert.match(
    neva(['config', 'docs', 'optim.lrr']).stderr,
    /there is no such key\n +fix: +did you mean model\.optim\.lr/,
  );
  assert.match(neva(['config', 'list']).stdout, /^ {2}neva_pretrain$[\s\S]*^model=$/m);
});

test('exp_manager.on_save_error: where checkpoints cannot be written, the run stops and says so, or trains on', async () => {
  for (const mode of ['stop', 'continue']) {
    const steps = 40;
    const args = pretrain(
      steps,
      `exp_manager.exp_dir=unwritable-${mode}`,
      `exp_manager.on_save_error=${mode}`,
      'exp_manager.checkpoint_callback_params.every_n_train_steps=2',
      'exp_manager.checkpoint_callback_params.save_top_k=-1',
      'trainer.log_every_n_steps=1',
    );
    const child = spawn(process.execPath, nevaArgs(args), { cwd: folder, stdio: 'pipe' });
    const checkpoints = join(runFolder(`unwritable-${mode}`, 0), 'checkpoints');
    let text = '';
    let blocked = false;
    child.stderr.on('data', (piece) => {
      text += piece;
      if (blocked || !existsSync(join(checkpoints, 'last'))) return;
      // What root, too, cannot write into: a file in the folder's place.
      blocked = true;
      renameSync(checkpoints, `${checkpoints}.aside`);
      writeFileSync(checkpoints, '');
    });
    const [status] = await once(child, 'close');
    assert.ok(blocked, text);
    assert.equal(status, 2, text);
    assert.match(text, /the checkpoint of step \d+ could not be written/);
    const done = losses(runFolder(`unwritable-${mode}`, 0)).length;
    if (mode === 'stop') assert.ok(done < steps, `it trained ${done} steps`);
    else assert.equal(done, steps);
    if (mode === 'continue') assert.match(text, /warning: [\s\S]*training goes on/);
    rmSync(checkpoints);
    renameSync(`${checkpoints}.aside`, checkpoints);
    const again = neva(args, { cwd: folder });
    assert.equal(again.status, 0, again.stderr);
    assert.match(again.stderr, /Going on in/);
    assert.equal(losses(runFolder(`unwritable-${mode}`, 0)).length, steps);
  }
});
