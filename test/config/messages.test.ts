/**
 * Thirty and more typical mistakes and what neva says to each. The reviewed answers stand in messages.txt;
 * `NEVA_UPDATE_MESSAGES=1` writes them anew, to be read before they are committed.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type ComposeOptions, compose, findPackageRoot } from '../../src/config/compose.ts';
import { keyDocs } from '../../src/config/docs.ts';
import { ConfigError } from '../../src/config/error.ts';
import { checkConfig, compareShapes } from '../../src/config/rules.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-messages-'));

function run(overrides: string[], options: Partial<ComposeOptions> = {}): void {
  const { config } = compose({ configName: 'neva_pretrain', overrides, env: {}, ...options });
  checkConfig(config);
}

function file(source: string): void {
  writeFileSync(join(folder, 'mine.yaml'), source);
  run([], { configName: 'mine', configDirs: [folder] });
}

const MISTAKES: [string, () => void][] = [
  ['a misspelled key', () => run(['model.tensor_model_paralel_size=2'])],
  ['a key below the wrong parent', () => run(['trainer.micro_batch_size=2'])],
  ['a key that is like no other', () => run(['model.zzzzzzzz=2'])],
  ['+ before a misspelled key', () => run(['+trainer.max_stps=5'])],
  ['a word for a number', () => run(['trainer.max_steps=many'])],
  ['a fraction for a whole number', () => run(['trainer.max_steps=2.5'])],
  ['out of range', () => run(['model.micro_batch_size=0'])],
  ['a choice misspelled', () => run(['trainer.precision=bf61'])],
  ['a list that is too short', () => run(['optim.betas=[0.9]'])],
  ['a mapping for a number', () => run(['optim.lr={a:1}'])],
  ['a key set to null that needs a value', () => run(['optim.lr=null'])],
  ['an option misspelled', () => run(['model=lama2_7b'])],
  ['a configuration misspelled', () => run([], { configName: 'neva_pretrian' })],
  ['a sweep without --multirun', () => run(['optim.lr=1e-3,2e-3'])],
  ['no equals sign', () => run(['trainer.max_steps'])],
  ['a flag among the overrides', () => run(['--max-steps=5'])],
  ['a blank in the key', () => run(['trainer.max_steps =5'])],
  ['a colon for the equals sign', () => run(['trainer.max_steps:5'])],
  ['an index in brackets', () => run(['optim.betas[0]=0.8'])],
  ['an unquoted hash', () => run(['vars.color=#ff0000'])],
  ['an unclosed quote', () => run(["exp_manager.name='my run"])],
  ['an unclosed list', () => run(['optim.betas=[0.9,0.95'])],
  ['a function that does not exist', () => run(['optim.lr=log(1)'])],
  ['an interpolation of a key that does not exist', () => run(['exp_manager.name=${model.optim.lrr}'])],
  ['interpolations in a circle', () => run(['name=${exp_manager.name}', 'exp_manager.name=${name}'])],
  ['an environment variable that is not set', () => run(['exp_manager.exp_dir=${oc.env:SCRATCH}'])],
  ['values that must be given', () => run(['model=llama2_7b', 'data=llava_pretrain'])],
  ['FP8', () => run(['model.fp8=true'])],
  ["a strategy of Lightning's", () => run(['trainer.strategy=ddp'])],
  ['adapters', () => run(['model.peft.peft_scheme=lora'])],
  ['a group taken out that is not there', () => run(['~data=llava_pretrain'])],
  ['+ for a value that is there', () => run(['+trainer.max_steps=5'])],
  ['ranks that do not fit', () => run(['trainer.devices=6', 'model.tensor_model_parallel_size=4'])],
  ['a batch that cannot be divided', () => run(['model.global_batch_size=100', 'trainer.devices=4'])],
  [
    'several rules at once',
    () => run(['trainer.engine=tfjs', 'trainer.precision=bf16', 'optim.sched.min_lr=1', 'trainer.devices=2']),
  ],
  [
    'heads that cannot be shared out',
    () =>
      run([
        'model.num_attention_heads=10',
        'model.num_query_groups=3',
        'model.tensor_model_parallel_size=4',
        'trainer.devices=4',
      ]),
  ],
  [
    'stages that do not fit',
    () =>
      run([
        ...['model.num_layers=2', 'trainer.devices=3', 'model.pipeline_model_parallel_size=3'],
        'model.pipeline_model_parallel_layout=[1,2]',
      ]),
  ],
  ['interleaved stages', () => run(['model.virtual_pipeline_model_parallel_size=2'])],
  ['longer than the positions', () => run(['model.max_position_embeddings=2048', 'model.encoder_seq_length=4096'])],
  ['recomputation without a method', () => run(['model.activations_checkpoint_granularity=full'])],
  ['a misspelled key in a file', () => file('defaults:\n  - neva_pretrain\n  - _self_\ntrainer:\n  max_step: 5\n')],
  ['a wrong value in a file', () => file('defaults:\n  - neva_pretrain\n  - _self_\nmodel:\n  optim:\n    lr: fast\n')],
  ['a key twice in a file', () => file('trainer:\n  max_steps: 5\n  max_steps: 6\n')],
  ['a bad indent in a file', () => file('trainer:\n  max_steps: 5\n   precision: 32\n')],
  ['a value in the defaults list', () => file('defaults:\n  - model: 5\n')],
  [
    'a checkpoint of another shape',
    () =>
      compareShapes(
        { num_layers: 40, hidden_size: 5120, ffn_hidden_size: null },
        { num_layers: 32, hidden_size: 4096 },
        '/models/llama-2-7b',
      ),
  ],
  ['docs of a misspelled key', () => void keyDocs('trainer.precison')],
];

test('every typical mistake has its reviewed message', () => {
  const answers = MISTAKES.map(([name, make]) => {
    try {
      make();
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      return `## ${name}\n${error.message
        .replaceAll(folder, 'FOLDER')
        .replaceAll(findPackageRoot(), 'NEVA')
        .replaceAll(/(?:\.\.\/)+tmp\/[^/]+/g, 'FOLDER')}\n`;
    }
    throw new assert.AssertionError({ message: `'${name}' was accepted` });
  });
  const path = join(findPackageRoot(), 'test/config/messages.txt');
  if (process.env.NEVA_UPDATE_MESSAGES) writeFileSync(path, answers.join('\n'));
  assert.ok(answers.length >= 30);
  assert.equal(answers.join('\n'), readFileSync(path, 'utf8'));
});
