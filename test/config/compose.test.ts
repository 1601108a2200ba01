import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { compose, findPackageRoot, multirunJobs, resolveTree } from '../../src/config/compose.ts';
import { complete, completionIndex, renderDocs } from '../../src/config/docs.ts';
import { checkConfig } from '../../src/config/rules.ts';
import { showYaml, why } from '../../src/config/show.ts';
import { Sources } from '../../src/config/sources.ts';

const root = findPackageRoot();
const REAL = ['model.mm_cfg.llm.from_pretrained=L', 'data.data_path=D', 'data.image_folder=I'];

test('without arguments each stage is the bundled demo', () => {
  const { config, notices } = compose({ configName: 'neva_pretrain' });
  assert.equal(config.model.data.data_path, join(root, 'data/demo/pretrain.json'));
  assert.equal(config.model.mm_cfg.llm.from_pretrained, join(root, 'data/demo/llm'));
  assert.equal(config.model.mm_cfg.llm.freeze, true);
  assert.equal(config.model.data.conv_template, 'plain');
  assert.deepEqual(notices, []);
  checkConfig(config);
  const stage2 = compose({ configName: 'neva_finetune' }).config;
  assert.equal(stage2.model.mm_cfg.llm.freeze, false);
  assert.equal(stage2.model.mm_cfg.pretrain_mm_mlp_adapter, 'neva_experiments/neva_pretrain');
  checkConfig(stage2);
});

test('groups turn the demo into a full-size run', () => {
  const { config } = compose({
    configName: 'neva_pretrain',
    overrides: ['model=llama2_7b', 'data=llava_pretrain', 'trainer=node8', ...REAL],
  });
  assert.equal(config.model.hidden_size, 4096);
  assert.equal(config.model.global_batch_size, 256);
  assert.equal(config.trainer.precision, 'bf16');
  assert.equal(config.trainer.max_steps, 2170);
  checkConfig(config);
});

test('every group option and recipe composes and keeps the rules', () => {
  const sources = new Sources([join(root, 'conf')]);
  const lines = sources.groups().flatMap((group) => {
    return sources
      .options(group)
      .map((option) => (group === 'recipe' ? [`+${group}=${option}`] : [`${group}=${option}`]));
  });
  assert.ok(lines.length > 25);
  for (const line of lines) {
    const configName = String(line).includes('finetune') ? 'neva_finetune' : 'neva_pretrain';
    // The demo's small batches are for one process.
    const large = /llama|vicuna|nvgpt|node8|slurm/.test(String(line)) && !String(line).includes('recipe');
    const big = large
      ? ['trainer=node8', 'data=llava_pretrain'].filter((o) => o.split('=')[0] !== String(line).split('=')[0])
      : [];
    const { config } = compose({ configName, overrides: [...line, ...big, ...REAL], env: {} });
    checkConfig(config);
  }
});

test("NeMo's feature table", () => {
  const value = (...overrides: string[]) => compose({ configName: 'neva_pretrain', overrides }).config;
  assert.equal(value('model.tensor_model_parallel_size=8').model.tensor_model_parallel_size, 8);
  const block = value(
    'model.activations_checkpoint_granularity=full',
    'model.activations_checkpoint_method=block',
    'model.activations_checkpoint_num_layers=1',
  );
  assert.equal(block.model.activations_checkpoint_method, 'block');
  const selective = value(
    'model.activations_checkpoint_granularity=selective',
    'model.activations_checkpoint_method=uniform',
  );
  assert.equal(selective.model.activations_checkpoint_granularity, 'selective');
  assert.equal(value('trainer.precision=bf16', 'model.megatron_amp_O2=True').model.megatron_amp_O2, true);
  assert.equal(value('model.use_flash_attention=True').model.use_flash_attention, true);
  assert.equal(value('++cluster_type=BCP').cluster_type, 'BCP');
});

test("NeMo's neva_config.yaml is read as it is", () => {
  const composed = compose({
    configName: 'nemo_neva_config',
    configDirs: [join(root, 'test/fixtures/config')],
    overrides: ['model.data.data_path=D', 'trainer.devices=8'],
  });
  const { model, trainer, exp_manager } = composed.config;
  assert.equal(trainer.max_steps, 4650);
  assert.equal(trainer.precision, 'bf16');
  assert.equal(model.num_layers, 40);
  assert.equal(model.max_position_embeddings, 4096);
  assert.equal(model.data.conv_template, 'llama_2');
  assert.equal(model.optim.sched.min_lr, 2e-5);
  assert.equal(exp_manager.checkpoint_callback_params.model_parallel_size, 1);
  assert.equal(model.mm_cfg.vision_encoder.from_pretrained, null);
  checkConfig(composed.config);
});

test('a value is read by the declared type of its key', () => {
  const name = (text: string) =>
    compose({ configName: 'neva_pretrain', overrides: [`exp_manager.name=${text}`] }).config.exp_manager.name;
  assert.equal(name('007'), '007');
  assert.equal(name('1.10'), '1.10');
  assert.equal(name('12e4567'), '12e4567');
  assert.equal(name('http://h/a?b=c,d'), 'http://h/a?b=c,d');
  assert.equal(name('Größe, und mehr!'), 'Größe, und mehr!');
  assert.equal(name("'quoted'"), 'quoted');
  assert.equal(name('${model.optim.name}-${model.${vars.k}}'.replace('${model.${vars.k}}', 'x')), 'fused_adam-x');
  assert.equal(name('null'), null);
});

test('nested interpolation, JSON, and the short names of sections', () => {
  const { config } = compose({
    configName: 'neva_pretrain',
    overrides: [
      '+vars.k=lr',
      'optim.eps=${model.optim.${vars.k}}',
      '+vars.json={"a": [1, 2]}',
      'mm_cfg.mm_mlp_adapter_type=linear',
    ],
  });
  assert.equal(config.model.optim.eps, config.model.optim.lr);
  assert.deepEqual(config.vars.json, { a: [1, 2] });
  assert.equal(config.model.mm_cfg.mm_mlp_adapter_type, 'linear');
});

test('a key without effect is accepted with a notice', () => {
  const { notices } = compose({ configName: 'neva_pretrain', overrides: ['model.transformer_engine=true'] });
  assert.equal(notices.length, 1);
  assert.match(
    notices[0] as string,
    /^model\.transformer_engine has no effect: .* \(override model\.transformer_engine=true\)$/,
  );
});

test('why shows everything that set a key, the last in force', () => {
  const composed = compose({ configName: 'neva_pretrain', overrides: ['optim.lr=3e-4'] });
  const lines = why(composed, 'optim.lr').split('\n');
  assert.match(lines[1] as string, /neva_pretrain\.yaml:\d+ {2}\(overridden\)$/);
  assert.equal(lines.at(-1), '  → 0.0003  override optim.lr=3e-4');
});

test('what is shown as YAML composes to the same again', () => {
  const first = compose({ configName: 'neva_finetune', overrides: ['exp_manager.name=yes', 'vars.x=1'].slice(0, 1) });
  const folder = mkdtempSync(join(tmpdir(), 'neva-again-'));
  writeFileSync(join(folder, 'again.yaml'), showYaml(resolveTree(first)));
  const again = compose({ configName: 'again', configDirs: [folder] });
  assert.deepEqual(again.config, first.config);
});

test('completion goes down to the next dot, and knows groups and choices', () => {
  const index = completionIndex(new Sources([join(root, 'conf')]));
  assert.deepEqual(complete('trainer.prec', index), ['trainer.precision=']);
  assert.deepEqual(complete('trainer.precision=b', index), ['trainer.precision=bf16']);
  assert.ok(complete('mod', index).includes('model='));
  assert.ok(complete('mod', index).includes('model.'));
  assert.deepEqual(complete('model=llama2_7', index), ['model=llama2_70b', 'model=llama2_7b']);
  assert.deepEqual(complete('~opt', index), ['~optim']);
});

test('docs/config.md is what the schema says', () => {
  assert.equal(readFileSync(join(root, 'docs/config.md'), 'utf8'), renderDocs(), 'run node scripts/config-docs.js');
});

test('composing the 13B configuration takes little time', () => {
  const script = `const {compose} = await import(${JSON.stringify(new URL('../../src/config/index.js', import.meta.url).href)});
    const begun = process.cpuUsage();
    compose({configName:'neva_pretrain', overrides:${JSON.stringify(['model=llama2_13b', 'data=llava_pretrain', ...REAL])}});
    const used = process.cpuUsage(begun);
    console.log((used.user + used.system) / 1000);`;
  const times = [1, 2, 3].map(() =>
    Number(execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' })),
  );
  // Processor time, since the machine may be busy with other tests; the best of three.
  assert.ok(Math.min(...times) < 50, `${times.join(', ')} ms`);
});

test('a multirun is the product of its sweeps, and each job composes to the values that were swept', () => {
  const jobs = multirunJobs({
    configName: 'neva_pretrain',
    overrides: [
      'optim.lr=1e-3,2e-3',
      'exp_manager.name=a b,c',
      'data.data_path=http://h/x?y=z#1',
      'optim=glob(*adam)',
      'name=n!',
    ],
  });
  assert.equal(jobs.length, 8);
  const seen = jobs.map((overrides) => {
    const { model, exp_manager, name } = compose({ configName: 'neva_pretrain', overrides }).config;
    assert.equal(model.data.data_path, 'http://h/x?y=z#1');
    assert.equal(name, 'n!');
    return `${model.optim.lr} ${exp_manager.name} ${model.optim.name}`;
  });
  assert.deepEqual(seen.slice(0, 4), [
    '0.001 a b distributed_fused_adam',
    '0.001 a b fused_adam',
    '0.001 c distributed_fused_adam',
    '0.001 c fused_adam',
  ]);
  assert.deepEqual(multirunJobs({ configName: 'neva_pretrain' }), [[]]);
});
