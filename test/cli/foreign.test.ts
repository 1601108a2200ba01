/** NeMo's archives in use: converted on the command line, trained from as they are, and put back by restore_from_path. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-foreign-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function run(...args: string[]): string {
  const { status, stderr, stdout } = neva(args, { cwd: folder });
  assert.equal(status, 0, stderr);
  return stdout;
}

const short = [
  'trainer.max_steps=2',
  'trainer.log_every_n_steps=1',
  'model.encoder_seq_length=64',
  'model.mm_cfg.mm_mlp_adapter_type=mlp2x_gelu',
];

function losses(name: string): unknown[] {
  const text = readFileSync(join(folder, name, 'neva_pretrain/version_0/metrics.jsonl'), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).loss);
}

const fixtures = join(packageRoot, 'test/fixtures/foreign');
const from = (part: 'llm' | 'vision_encoder', path: string) =>
  `model.mm_cfg.${part}.from_pretrained=${join(fixtures, path)}`;

function pretrain(name: string, ...more: string[]): unknown[] {
  run('pretrain', ...short, `exp_manager.exp_dir=${name}`, ...more);
  return losses(name);
}

test('a run from archives of NeMo has the losses of the same run from Hugging Face folders', () => {
  const expected = pretrain('hf', from('llm', 'hf'), from('vision_encoder', 'vision'));
  assert.ok(expected.length === 2 && expected.every((loss) => Number(loss) > 0));
  for (const name of ['llm_legacy.nemo', 'llm_mcore_tp2.nemo', 'llm_mcore_gz.nemo', 'nemo_tp2_pp2']) {
    assert.deepEqual(pretrain(name, from('llm', name), from('vision_encoder', 'clip_tp2.nemo')), expected, name);
  }
});

test('a checkpoint becomes a NeVA archive, which restore_from_path takes', () => {
  run('convert-checkpoint', '--from', 'hf/neva_pretrain', '--to', 'nemo-mcore', '--tp', '2', '--out', 'neva.nemo');
  const vision = from('vision_encoder', 'clip.nemo');
  const restored = pretrain('restored', 'model.restore_from_path=neva.nemo', vision);
  const adapter = 'model.mm_cfg.pretrain_mm_mlp_adapter=hf/neva_pretrain';
  assert.deepEqual(restored, pretrain('adapter', from('llm', 'hf'), vision, adapter));
});

test('mistakes of the flags are told in one message', () => {
  const args = ['convert-checkpoint', '--from', join(fixtures, 'hf'), '--out', 'x'];
  const split = neva([...args, '--to', 'hf', '--tp', '2'], { cwd: folder });
  assert.deepEqual([split.status, split.stdout], [2, '']);
  assert.match(split.stderr, /hf is not split/);
  assert.equal(neva([...args, '--to', 'nemo', '--tp', 'two'], { cwd: folder }).status, 2);
  const missing = neva(['convert-checkpoint', '--from', 'no-such/model', '--to', 'hf', '--out', 'x'], { cwd: folder });
  assert.equal(missing.status, 2);
  assert.match(missing.stderr, /neva download no-such\/model/);
});
