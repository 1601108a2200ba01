/** NVGPT on the command line: trained in bfloat16 with a padded vocabulary, stopped, gone on with, asked, converted. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { NVGPT_BLOCK } from '../../src/model/shapes.ts';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-nvgpt-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const finetune = (name: string, steps: number, ...more: string[]) => [
  'finetune',
  ...tiny,
  'model.mm_cfg.llm.model_type=nvgpt',
  'model.data.conv_template=v1',
  'model.make_vocab_size_divisible_by=100',
  'model.mm_cfg.pretrain_mm_mlp_adapter=null',
  'model.optim.sched.max_steps=6',
  `trainer.max_steps=${steps}`,
  'trainer.precision=bf16',
  `exp_manager.exp_dir=${name}`,
  ...more,
];
const run = (name: string) => join(folder, name, 'neva_finetune', 'version_0');
const losses = (name: string) =>
  readFileSync(join(run(name), 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).loss)
    .filter((loss) => loss !== undefined);

function ok(args: string[]): string {
  const { status, stdout, stderr } = neva(args, { cwd: folder });
  assert.equal(status, 0, stderr);
  return stdout;
}

test('NVGPT trains, goes on where it stopped, answers, and is converted', () => {
  ok(finetune('whole', 6));
  ok(finetune('parts', 3));
  ok(finetune('parts', 6, 'exp_manager.resume_past_end=true'));
  assert.deepEqual(losses('parts'), losses('whole'));
  assert.ok(losses('whole')[5] < losses('whole')[0]);

  const { config, entries } = openWeights(join(run('whole'), 'checkpoints/step=0000006'));
  assert.deepEqual(config?.llm?.gpt, NVGPT_BLOCK);
  const { vocabSize } = config!.llm!;
  assert.notEqual(vocabSize % 100, 0, 'it was padded');
  assert.equal(entries.get('language_model.lm_head.weight')!.shape[0], vocabSize);

  const picture = join(packageRoot, 'data/demo/images/heldout/0000.png');
  const ask = ['--image', picture, '--prompt', 'What is at the top left?', '--json'];
  const greedy = ['inference.tokens_to_generate=4', 'inference.min_tokens_to_generate=4', 'inference.greedy=true'];
  const answer = (model: string) =>
    JSON.parse(ok(['generate', '--model', model, ...ask, ...greedy, 'model.data.conv_template=v1']));
  const before = answer(run('whole'));
  assert.equal(before.tokens, 4);
  ok(['convert-checkpoint', '--from', run('whole'), '--to', 'hf', '--out', 'hf']);
  assert.equal(JSON.parse(readFileSync(join(folder, 'hf/config.json'), 'utf8')).text_config.model_type, 'nemotron');
  assert.deepEqual(answer(join(folder, 'hf')), before);
  // A tokenizer with a token more than the embedding has rows.
  const file = join(folder, 'hf/tokenizer.json');
  const tokens = JSON.parse(readFileSync(file, 'utf8'));
  tokens.added_tokens.push({ ...tokens.added_tokens[0], id: vocabSize, content: '<new>' });
  writeFileSync(file, JSON.stringify(tokens));
  ask[ask.indexOf('--prompt') + 1] = 'What is <new>?';
  assert.equal(answer(join(folder, 'hf')).tokens, 4);

  ok(['convert-checkpoint', '--from', 'hf', '--to', 'nemo-mcore', '--part', 'llm', '--tp', '2', '--out', 'llm.nemo']);
  assert.equal(openWeights(join(folder, 'llm.nemo')).config?.llm?.vocabSize, vocabSize);
});
