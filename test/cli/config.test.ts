/** `neva config …`, a run's record and its repetition, files of NeMo's, and how fast it all starts. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { packageRoot, packageVersion } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-config-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const fixtures = join(packageRoot, 'test/fixtures/config');

test('config why and --origin say which file and line, or which override, a value came from', () => {
  const why = neva(['config', 'why', 'optim.lr', 'optim.lr=3'], { cwd: packageRoot });
  assert.match(
    why.stdout,
    /^model\.optim\.lr: 3\n {4}0\.001 {2}conf\/neva_pretrain\.yaml:\d+ {2}\(overridden\)\n[\s\S]*\n {2}→ 3 {2}override optim\.lr=3\n$/,
  );
  const line = Number(/neva_pretrain\.yaml:(\d+)/.exec(why.stdout)?.[1]);
  assert.match(
    readFileSync(join(packageRoot, 'conf/neva_pretrain.yaml'), 'utf8').split('\n')[line - 1] ?? '',
    /lr: 1e-3/,
  );
  assert.match(
    neva(['config', 'why', 'model.optim.lr', 'neva_finetune'], { cwd: packageRoot }).stdout,
    /conf\/neva_finetune\.yaml:\d+ {2}\(overridden\)/,
  );
  assert.match(neva(['config', 'why', 'model.seed']).stdout, /^model\.seed: \d+, the default\n$/);
  const typo = neva(['config', 'why', 'optim.lrr']);
  assert.equal(typo.status, 2);
  assert.match(typo.stderr, /there is no such key\n {2}fix: {6}did you mean model\.optim\.lr\?/);

  const origin = neva(['config', 'show', '--origin', 'trainer.max_steps=3'], { cwd: packageRoot }).stdout;
  assert.match(origin, /^trainer\.max_steps: 3 +# override trainer\.max_steps=3$/m);
  assert.match(origin, /^model\.optim\.lr: 0\.0015 +# conf\/data\/demo\.yaml:\d+$/m);
  assert.doesNotMatch(origin, /# default/);
  const part = neva(['config', 'show', 'neva_finetune', '--origin', '--all', '-p', 'optim'], {
    cwd: packageRoot,
  }).stdout;
  assert.match(part, /^model\.optim\.eps: \S+ +# default$/m);
  assert.ok(
    part
      .trimEnd()
      .split('\n')
      .every((row) => row.startsWith('model.optim.')),
  );
});

test('--info shows the merge order, the tree, the search path and the configuration', () => {
  const info = (topic: string) => neva(['finetune', '--info', topic, '-cd', folder]).stdout;
  assert.match(info('defaults'), /^data\/demo +\(root\) +neva_finetune +.*conf\/data\/demo\.yaml$/m);
  assert.equal(
    info('defaults-tree'),
    'neva_finetune\n  _self_\n  trainer/workstation\n  optim/fused_adam\n  model/tiny\n  data/demo\n',
  );
  assert.ok(info('searchpath').includes(`  ${folder}\n  ${join(packageRoot, 'conf')}`));
  assert.equal(parse(info('config')).vars.stage, 'finetune');
  const wrong = neva(['finetune', '--info', 'weather']);
  assert.equal(wrong.status, 2);
  assert.match(wrong.stderr, /expected: defaults, defaults-tree, searchpath, config/);
});

test('the tree of a recipe: who asked for whom', () => {
  const { stdout } = neva(
    ['pretrain', '--info', 'defaults-tree', '+recipe=nemo_pretrain_13b'].concat([
      'model.mm_cfg.llm.from_pretrained=L',
      'data.data_path=D',
      'data.image_folder=I',
    ]),
  );
  assert.match(stdout, /^ {2}model\/llama2_13b$/m);
  assert.match(stdout, /^ {2}recipe\/nemo_pretrain_13b$/m);
});

test("NeMo's YAML file as it is, with one line for each key that has no effect here", () => {
  const data = join(folder, 'records.json');
  writeFileSync(data, '[]');
  const args = ['pretrain', '--config-path', fixtures, '--config-name', 'nemo_neva_config'];
  const shown = neva([...args, '--cfg', 'job', '-p', 'model.mm_cfg.llm']);
  assert.equal(shown.status, 0, shown.stderr);
  assert.match(shown.stdout, /^# @package model\.mm_cfg\.llm\n/);
  // All that is broken in one message, before anything is made.
  const broken = ['model.data.data_path=nowhere.json', 'model.tensor_model_parallel_size=3', 'trainer.devices=4'];
  const refused = neva([...args, ...broken, 'exp_manager.exp_dir=nemo'], { cwd: folder });
  assert.equal(refused.status, 2);
  assert.equal(refused.stderr.match(/^neva: /gm)?.length, 1, refused.stderr);
  assert.match(refused.stderr, /4 processes cannot be shared out over tensor 3/);
  assert.match(refused.stderr, /^model\.data\.data_path: there is nothing at this path\n {2}found: {4}nowhere\.json$/m);
  assert.ok(!existsSync(join(folder, 'nemo')));

  const alone = [
    'trainer.devices=1',
    'trainer.num_nodes=1',
    'model.tensor_model_parallel_size=1',
    'trainer.precision=32',
  ];
  const fits = ['model.micro_batch_size=8', 'model.global_batch_size=8', `model.data.data_path=${data}`];
  const run = neva([...args, ...alone, ...fits, ...tiny], { cwd: folder });
  assert.equal(run.status, 2, run.stderr);
  const notice = / has no effect: .* \(.*nemo_neva_config\.yaml:\d+\)$/gm;
  assert.equal(run.stderr.match(notice)?.length, 3, run.stderr);
  assert.match(run.stderr, /^model\.precision has no effect: trainer\.precision decides/m);
});

test('data=demo is the demo of either stage', () => {
  for (const stage of ['pretrain', 'finetune']) {
    const { stdout } = neva([stage, 'data=demo', '--cfg', 'job', '--resolve']);
    assert.equal(parse(stdout).model.data.data_path, join(packageRoot, `data/demo/${stage}.json`));
  }
});

test('a run records its command, versions, commit and machine, and can be repeated from them', () => {
  const args = ['pretrain', 'trainer.max_steps=2', 'exp_manager.name=it is', ...tiny];
  const cwd = join(folder, 'work');
  mkdirSync(cwd);
  const git = (...words: string[]) => spawnSync('git', ['-C', cwd, ...words], { encoding: 'utf8' });
  git('init', '-q');
  writeFileSync(join(cwd, 'notes'), 'one');
  git('add', 'notes');
  git('-c', 'user.name=n', '-c', 'user.email=e@x', 'commit', '-q', '-m', 'one');
  writeFileSync(join(cwd, 'notes'), 'two');
  assert.equal(neva(args, { cwd }).status, 0);
  const dir = join(cwd, 'neva_experiments/it is/version_0');
  const record = JSON.parse(readFileSync(join(dir, 'run.json'), 'utf8'));
  assert.deepEqual(record.command, ['neva', ...args]);
  assert.equal(record.versions.neva, packageVersion());
  assert.equal(record.versions.node, process.versions.node);
  assert.match(record.versions.torch, /^\d+\.\d+/);
  assert.equal(record.git.cwd.commit, git('rev-parse', 'HEAD').stdout.trim());
  assert.equal(record.git.cwd.dirty, true);
  assert.ok(record.host.length > 0 && Date.parse(record.started_at) > 0);
  assert.deepEqual([record.resumed_step, record.ranks, record.earlier], [0, 1, []]);
  const unresolved = parse(readFileSync(join(dir, 'config.unresolved.yaml'), 'utf8'));
  assert.match(unresolved.model.data.data_path, /^\$\{neva\.root:/);

  const printed = neva(['config', 'rerun', dir, 'model.seed=7'], { cwd: folder }).stdout;
  assert.ok(printed.startsWith(`cd ${cwd} && neva pretrain trainer.max_steps=2 'exp_manager.name=it is' `), printed);
  assert.ok(printed.endsWith(' model.seed=7\n'));
  const repeated = neva(['config', 'rerun', dir, '--run', 'model.seed=7'], { cwd: folder });
  assert.equal(repeated.status, 0, repeated.stderr);
  const second = join(cwd, 'neva_experiments/it is/version_1');
  assert.equal(JSON.parse(readFileSync(join(second, 'run.json'), 'utf8')).command.at(-1), 'model.seed=7');

  // Going on with a run keeps the record of its first start.
  const more = neva(
    [...args, 'exp_manager.version=version_0', 'exp_manager.resume_past_end=true', 'trainer.max_steps=3'],
    { cwd },
  );
  assert.equal(more.status, 0, more.stderr);
  const resumed = JSON.parse(readFileSync(join(dir, 'run.json'), 'utf8'));
  assert.equal(resumed.resumed_step, 2);
  assert.deepEqual(
    resumed.earlier.map(({ command }: { command: string[] }) => command),
    [record.command],
  );

  const none = neva(['config', 'rerun', folder]);
  assert.equal(none.status, 2);
  assert.match(none.stderr, /there is no run\.json in it/);
});

test('help lists the groups with their options and the main keys', () => {
  const { stdout } = neva(['pretrain', '--help']);
  assert.match(stdout, /^ {2}model= +.*llama2_13b.*tiny/m);
  assert.match(stdout, /^ {2}model\.optim\.lr= +Peak learning rate \[/m);
});

test('a warm-up longer than the run is remarked on, not refused', () => {
  const { status, stderr } = neva(['pretrain', 'trainer.max_steps=1', ...tiny], { cwd: folder });
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^model\.optim\.sched\.warmup_steps=6 is longer than the run of 1 steps/m);
});

const index = fileURLToPath(new URL('../../src/config/index.js', import.meta.url));
const bundled = readFileSync(index, 'utf8').includes('createRequire');

test('the 13B configuration is composed within 50 ms of the start of the process', {
  skip: !bundled && 'compiled by tsc alone: not bundled',
}, () => {
  const code = `
    const startedAt = performance.now();
    const { compose } = await import(${JSON.stringify(index)});
    const overrides = ['+recipe=nemo_pretrain_13b', 'model.mm_cfg.llm.from_pretrained=L', 'data.data_path=D', 'data.image_folder=I'];
    const { config } = compose({ configName: 'neva_pretrain', overrides });
    console.log(JSON.stringify([performance.now() - startedAt, config.model.hidden_size]));`;
  const took: number[] = [];
  const bare: number[] = [];
  for (let i = 0; i < 7; i++) {
    const startedAt = performance.now();
    spawnSync(process.execPath, ['-e', '0']);
    bare.push(performance.now() - startedAt);
    const [ms, size] = JSON.parse(
      spawnSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' }).stdout,
    );
    assert.equal(size, 5120);
    took.push(ms);
  }
  // As for --help in main.test.ts: more is allowed where even an empty process takes longer than on a quiet machine.
  const limit = 50 * Math.max(1, Math.min(...bare) / 45);
  assert.ok(Math.min(...took) < limit, `${took.map(Math.round)} ms; an empty process ${bare.map(Math.round)} ms`);
});
