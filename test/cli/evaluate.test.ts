/** `neva evaluate` against what training and `neva generate` say of the same model and data. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-evaluate-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const records = join(packageRoot, 'data/demo/heldout.json');
const images = join(packageRoot, 'data/demo/images');
const data = [`model.data.data_path=${records}`, `model.data.image_folder=${images}`];
const model = join(folder, 'neva_experiments/neva_finetune');
const short = ['inference.tokens_to_generate=4'];
const evaluate = (...args: string[]) => neva(['evaluate', ...args], { cwd: folder });

before(() => {
  const run = neva(
    [
      ...['finetune', 'trainer.max_steps=2', ...tiny, 'model.mm_cfg.pretrain_mm_mlp_adapter=null'],
      ...['trainer.val_check_interval=2', 'trainer.limit_val_batches=30'],
      `model.data.validation_data_path=${records}`,
    ],
    { cwd: folder },
  );
  assert.equal(run.status, 0, run.stderr);
});

test('the loss is the one that validation gives over the same records', () => {
  const { status, stdout, stderr } = evaluate('--no-answers', ...data);
  assert.equal(status, 0, stderr);
  const metrics = JSON.parse(stdout);
  const lines = readFileSync(join(model, 'version_0/metrics.jsonl'), 'utf8').trimEnd().split('\n');
  const { val_loss } = lines.map((line) => JSON.parse(line)).find((line) => line.val_loss !== undefined);
  assert.ok(Math.abs(metrics.loss / val_loss - 1) < 1e-5, `${metrics.loss} and ${val_loss}`);
  assert.equal(metrics.records, 240);
  assert.equal(metrics.perplexity, Math.exp(metrics.loss));
  assert.equal(metrics.answers, 0);
  assert.equal(metrics.exact_match, null);
});

test('its answers are those of neva generate, and are counted as they compare', () => {
  const out = join(folder, 'answers.jsonl');
  const { stdout, status, stderr } = evaluate('--limit', '3', '--out', out, ...short, ...data);
  assert.equal(status, 0, stderr);
  const answers = readFileSync(out, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  const metrics = JSON.parse(stdout);
  assert.deepEqual([metrics.records, metrics.answers, answers.length], [3, 3, 3]);
  assert.equal(metrics.exact_match, answers.filter(({ text, answer }) => text === answer).length / 3);
  const record = JSON.parse(readFileSync(records, 'utf8'))[1];
  assert.equal(answers[1].answer, record.conversations[1].value);
  const asked = ['--model', model, '--image', join(images, record.image), '--prompt', record.conversations[0].value];
  const given = JSON.parse(neva(['generate', '--json', ...asked, ...short], { cwd: folder }).stdout);
  assert.equal(answers[1].text, given.text);
  assert.equal(answers[1].prompt, given.prompt);
});

test('what is missing is named, and nothing is left behind', () => {
  const none = evaluate();
  assert.equal(none.status, 2);
  assert.match(none.stderr, /^neva: model\.data\.data_path: not set/m);
  const out = join(folder, 'never.jsonl');
  const lost = evaluate('--out', out, 'model.data.data_path=nowhere.json');
  assert.equal(lost.status, 2);
  assert.match(lost.stderr, /nowhere\.json/);
  assert.ok(!existsSync(out));
  assert.equal(evaluate('--limit', '0', ...data).status, 2);
});

test('a conversation: pictures, what came before, commands, and mistakes that do not end it', () => {
  const picture = join(images, 'heldout/0000.png');
  const typed = [
    'What is it?',
    `/image ${picture}`,
    '/image nowhere.png',
    'And this?',
    '/reset',
    `/image ${picture}`,
    'And this?',
  ];
  const chat = neva(['chat', ...short], { cwd: folder, input: `${[...typed, '/quit', 'never asked'].join('\n')}\n` });
  assert.equal(chat.status, 0, chat.stderr);
  assert.match(chat.stdout, /^nowhere\.png: no such image file/m);
  const answers = chat.stdout
    .trimEnd()
    .split('\n')
    .filter((line) => !/nowhere|fix:/.test(line));
  assert.equal(answers.length, 3, chat.stdout);
  const alone = ['generate', '--model', model, '--image', picture, '--prompt', 'And this?', ...short];
  assert.equal(answers[2], neva(alone, { cwd: folder }).stdout.trimEnd(), 'after /reset nothing from before is left');
});
