/** Packing from the command line: on the fly the losses are those of padded rows, and `neva data pack` makes packs to train on. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import type { StepMetrics } from '../../src/report/metrics.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-pack-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function finetune(name: string, ...more: string[]): StepMetrics[] {
  const base = [
    'model.mm_cfg.pretrain_mm_mlp_adapter=null',
    'trainer.max_steps=4',
    'trainer.precision=32',
    'model.encoder_seq_length=256',
  ];
  const run = neva(['finetune', ...tiny, ...base, `exp_manager.explicit_log_dir=${name}`, ...more], { cwd: folder });
  assert.equal(run.status, 0, run.stderr);
  const lines = readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  return lines.map((line) => JSON.parse(line)).filter(({ loss }) => loss !== undefined);
}

test('packed on the fly, the losses stay; packs made beforehand train too', () => {
  const padded = finetune('padded');
  const packed = finetune('packed', 'model.data.packed_sequence=true', 'model.micro_batch_size=1');
  for (const [i, { loss, label_tokens, consumed_samples }] of padded.entries()) {
    assert.ok(Math.abs(packed[i]!.loss / loss - 1) < 2e-6, `${packed[i]!.loss} ≠ ${loss}`);
    assert.deepEqual([packed[i]!.label_tokens, packed[i]!.consumed_samples], [label_tokens, consumed_samples]);
    assert.ok(packed[i]!.tokens <= padded[i]!.tokens);
    assert.ok(packed[i]!.packing_efficiency > 0.5 && packed[i]!.packing_efficiency <= 1);
  }
  const run = [...tiny, 'model.mm_cfg.pretrain_mm_mlp_adapter=null', 'model.encoder_seq_length=256'];
  const made = neva(['data', 'pack', '-cn', 'neva_finetune', '--out', 'ahead', ...run], { cwd: folder });
  assert.equal(made.status, 0, made.stderr);
  assert.match(made.stdout, /records in \d+ packs of 256 positions, \d+\.\d % full: ahead\.packs\.jsonl/);
  const ahead = ['model.data.packed_sequence=true', 'model.data.data_prefix=ahead', 'model.micro_batch_size=1'];
  const [first] = finetune('ahead', ...ahead, 'model.global_batch_size=2');
  assert.ok(first!.packing_efficiency > 0.6);
  assert.equal(first!.consumed_samples, 2);
  const refused = neva(['finetune', ...run, ...ahead, 'model.encoder_seq_length=200'], { cwd: folder });
  assert.equal(refused.status, 2);
  assert.match(refused.stderr, /encoder_seq_length=200/);
});
