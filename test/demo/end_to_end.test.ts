/**
 * The demo as a newcomer runs it: pretrain, finetune, and questions about pictures that neither has seen. Minutes, not seconds:
 * this is the one test of everything together.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageRoot } from '../../src/root.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-demo-'));

function neva(...args: string[]): void {
  const { status, stderr } = spawnSync(process.execPath, [join(packageRoot, 'bin/neva.js'), ...args], {
    cwd: folder,
    encoding: 'utf8',
  });
  assert.equal(status, 0, stderr);
}

const lines = (path: string) =>
  readFileSync(join(folder, path), 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

const losses = (run: string): number[] =>
  lines(`neva_experiments/${run}/metrics.jsonl`)
    .filter((line) => 'loss' in line)
    .map(({ loss }) => loss);

const mean = (values: number[]) => values.reduce((sum, value) => sum + value / values.length, 0);

test('the same seed gives the same losses, bit for bit', () => {
  for (const name of ['once', 'again']) neva('pretrain', 'trainer.max_steps=4', `exp_manager.name=${name}`);
  assert.deepEqual(losses('once/version_0'), losses('again/version_0'));
});

test('pretrain more than halves the loss, finetune goes on from its projector', () => {
  neva('pretrain');
  const pretrain = losses('neva_pretrain/version_0');
  assert.ok(mean(pretrain.slice(-5)) < pretrain[0]! / 2, `${pretrain[0]} → ${mean(pretrain.slice(-5))}`);
  neva('finetune');
  const log = readFileSync(join(folder, 'neva_experiments/neva_finetune/version_0/neva.log'), 'utf8');
  assert.match(log, /projector .*neva_pretrain.version_0.checkpoints/);
});

test('at least 90 % of the held-out questions are answered exactly', () => {
  const demo = join(packageRoot, 'data/demo');
  neva(
    'generate',
    '--model',
    'neva_experiments/neva_finetune',
    `inference.prompt_file=${join(demo, 'heldout.jsonl')}`,
    `inference.media_base_path=${join(demo, 'images')}`,
    'inference.output_file=answers.jsonl',
  );
  const answers = lines('answers.jsonl') as { answer: string; text: string; category: string }[];
  const right = answers.filter(({ answer, text }) => answer === text).length;
  assert.ok(answers.length >= 100);
  assert.ok(right / answers.length >= 0.9, `${right} of ${answers.length} are exact`);
});
