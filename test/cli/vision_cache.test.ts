/** model.data.vision_cache: the same losses, pictures encoded once, and again only when something that matters has changed. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-features-'));
after(() => rmSync(folder, { recursive: true, force: true }));
cpSync(join(packageRoot, 'data/demo/images'), join(folder, 'images'), { recursive: true });

for (const stage of ['pretrain', 'finetune']) {
  const records = JSON.parse(readFileSync(join(packageRoot, `data/demo/${stage}.json`), 'utf8'));
  writeFileSync(join(folder, `${stage}.json`), JSON.stringify(records.slice(0, 16)));
}

let runs = 0;
function run(stage: string, ...more: string[]) {
  const name = `run${runs++}`;
  const keys = [
    'trainer.max_steps=3',
    'trainer.precision=32',
    'trainer.limit_val_batches=0',
    `model.data.data_path=${stage}.json`,
    'model.data.image_folder=images',
    'model.mm_cfg.pretrain_mm_mlp_adapter=null',
  ];
  const { status, stderr } = neva([stage, ...tiny, ...keys, `exp_manager.explicit_log_dir=${name}`, ...more], {
    cwd: folder,
  });
  assert.equal(status, 0, stderr);
  const lines = readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n');
  const [, cache, pictures, encoded] =
    /vision cache (\S+): (\d+) pictures, (\d+) of them encoded now/.exec(stderr) ?? [];
  return {
    losses: lines.map((line) => JSON.parse(line)).flatMap(({ loss }) => (loss === undefined ? [] : [loss as number])),
    tflops: JSON.parse(lines[0]!).tflops * JSON.parse(lines[0]!).step_time_s,
    cache,
    pictures: Number(pictures),
    encoded: Number(encoded),
  };
}

function close(a: number[], b: number[]) {
  assert.equal(a.length, b.length);
  for (const [i, loss] of a.entries()) assert.ok(Math.abs(loss / b[i]! - 1) < 1e-6, `${loss} ≠ ${b[i]}`);
}

const CACHE = 'model.data.vision_cache=cache';

test('losses stay; a second run, the other stage and packed rows find what was encoded', () => {
  const plain = run('pretrain');
  const first = run('pretrain', CACHE);
  close(first.losses, plain.losses);
  assert.ok(first.encoded > 0 && first.encoded === first.pictures);
  assert.ok(first.tflops < plain.tflops, 'work that was not done is not counted');
  const again = run('pretrain', CACHE);
  assert.equal(again.encoded, 0);
  assert.deepEqual(again.losses, first.losses);
  // A later pipeline stage has no tower, and reads what the first has encoded.
  const stages = ['trainer.devices=2', 'model.pipeline_model_parallel_size=2', 'trainer.num_threads=1'];
  const piped = run('pretrain', 'model.data.vision_cache=other', ...stages);
  close(piped.losses, plain.losses);
  assert.deepEqual([piped.encoded, piped.pictures], [first.encoded, first.pictures]);
  const tuned = run(
    'finetune',
    CACHE,
    'model.data.image_aspect_ratio=square',
    'model.data.packed_sequence=true',
    'model.micro_batch_size=1',
  );
  assert.equal(tuned.cache, first.cache);
  close(tuned.losses, run('finetune', 'model.data.image_aspect_ratio=square').losses);

  // Compact: a tensor a file, and nothing but features in it.
  const dir = join(folder, first.cache!);
  const files = readdirSync(dir).filter((name) => name.endsWith('.safetensors'));
  const stored = files.map((name) => [...readSafetensors(join(dir, name)).entries.values()]);
  assert.ok(stored.every(([features, ...others]) => features!.shape.join().endsWith(',16,32') && others.length === 0));

  // A picture that has changed is encoded again, the others are not.
  const [{ image }] = JSON.parse(readFileSync(join(folder, 'pretrain.json'), 'utf8'));
  utimesSync(join(folder, 'images', image), new Date(), new Date());
  assert.equal(run('pretrain', CACHE).encoded, 1);
});

test('another tower, size, number format or preprocessing finds nothing', () => {
  const { cache, pictures } = run('pretrain', CACHE);
  const folders = new Set([cache]);
  for (const change of [
    'model.seed=99',
    'model.data.image_aspect_ratio=pad',
    'trainer.precision=bf16',
    'model.mm_cfg.vision_encoder.vision_select_layer=1',
  ]) {
    const other = run('pretrain', CACHE, change);
    assert.equal(other.encoded, pictures, change);
    folders.add(other.cache);
  }
  assert.equal(folders.size, 5);
});

test('a tower that trains has no cache', () => {
  const { status, stderr } = neva(['pretrain', ...tiny, CACHE, 'model.mm_cfg.vision_encoder.freeze=false'], {
    cwd: folder,
  });
  assert.equal(status, 2);
  assert.match(stderr, /vision_cache: the features of a tower that trains change/);
});
