/** Parts that do not train: referred to by a checkpoint, or included in it. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { packageRoot } from '../../src/root.ts';
import { neva } from '../cli/neva.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-frozen-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const originals = ['llm', 'vision'];
/** Models of its own for a test, to be taken away. */
function models(name: string): string {
  const home = join(folder, name);
  for (const part of originals) cpSync(join(packageRoot, 'data/demo', part), join(home, part), { recursive: true });
  return home;
}

const pretrain = (run: string, home: string, steps: number, ...more: string[]) =>
  neva(
    [
      'pretrain',
      `trainer.max_steps=${steps}`,
      `exp_manager.explicit_log_dir=${join(folder, run)}`,
      'exp_manager.resume_past_end=true',
      'exp_manager.checkpoint_callback_params.every_n_train_steps=2',
      'model.optim.sched.max_steps=6',
      'model.micro_batch_size=4',
      'model.global_batch_size=4',
      `model.mm_cfg.llm.from_pretrained=${join(home, 'llm')}`,
      `model.mm_cfg.vision_encoder.from_pretrained=${join(home, 'vision')}`,
      ...more,
    ],
    { env: { OMP_NUM_THREADS: '1' } },
  );
const done = ({ status, stderr }: ReturnType<typeof neva>) => assert.equal(status, 0, stderr);
const checkpoint = (run: string, step: number) => join(folder, run, 'checkpoints', `step=000000${step}`);
const file = (path: string) => readFileSync(path);

test('included, they are in every checkpoint, once on the disk, and nothing else is needed to go on, convert or generate', () => {
  const include = 'exp_manager.checkpoint_callback_params.save_frozen_weights=true';
  const home = models('included-models');
  done(pretrain('whole', home, 6, include));
  done(pretrain('parts', home, 4, include));
  rmSync(home, { recursive: true });
  const there = ['llm', 'vision_encoder'].map(
    (part) => `model.mm_cfg.${part}.from_pretrained=${join(folder, 'parts')}`,
  );
  done(pretrain('parts', home, 6, ...there));
  for (const name of ['model.safetensors', 'optimizer.safetensors', 'frozen.safetensors']) {
    assert.ok(file(join(checkpoint('parts', 6), name)).equals(file(join(checkpoint('whole', 6), name))), name);
  }
  const names = readdirSync(join(folder, 'parts', 'checkpoints'));
  assert.equal(names.filter((name) => name.startsWith('frozen-')).length, 1);
  const checkpoints = names.filter((name) => name.startsWith('step=')).length;
  assert.ok(checkpoints > 1);
  const { nlink } = statSync(join(checkpoint('parts', 6), 'frozen.safetensors'));
  assert.equal(nlink, checkpoints + 1, 'one file for all');

  // Moved away from its run, it is still whole.
  const moved = join(folder, 'moved');
  renameSync(checkpoint('parts', 6), moved);
  const { stdout } = neva(['checkpoint', 'inspect', moved]);
  assert.match(stdout, /llm .*here, from/);
  const out = join(folder, 'converted');
  done(neva(['convert-checkpoint', '--from', moved, '--to', 'hf', '--out', out]));
  const converted = openWeights(out).entries;
  for (const part of originals) {
    for (const [name, entry] of openWeights(join(packageRoot, 'data/demo', part)).entries) {
      assert.deepEqual(readTensor(converted.get(name)!), readTensor(entry), name);
    }
  }
  const image = join(packageRoot, 'data/demo/images/heldout/0000.png');
  const answer = ['--image', image, '--prompt', 'What is at the top left?', '--json'];
  const [own, hf] = [moved, out].map((model) => neva(['generate', '--model', model, ...answer]));
  done(own!);
  done(hf!);
  assert.equal(JSON.parse(own!.stdout).text, JSON.parse(hf!.stdout).text);

  const copy = join(moved, 'frozen.safetensors');
  const bytes = file(copy);
  rmSync(copy);
  bytes[bytes.length - 9]! ^= 1;
  writeFileSync(copy, bytes);
  const damaged = neva(['generate', '--model', moved, ...answer]);
  assert.equal(damaged.status, 2);
  assert.match(damaged.stderr, /frozen\.safetensors does not match its checksum/);
});

test('referred to, one that is gone or that has changed is refused by name when the run goes on', () => {
  const home = models('referred-models');
  done(pretrain('referred', home, 2));
  assert.ok(!readdirSync(checkpoint('referred', 2)).includes('frozen.safetensors'));
  const weights = join(home, 'llm', 'model.safetensors');
  const bytes = file(weights);
  const changed = Buffer.from(bytes);
  changed[changed.length - 9]! ^= 1;
  writeFileSync(weights, changed);
  const other = pretrain('referred', home, 4);
  assert.equal(other.status, 2);
  assert.match(other.stderr, /its llm did not train, and what this run takes for it are other weights/);
  writeFileSync(weights, bytes);
  renameSync(join(home, 'llm'), join(home, 'elsewhere'));
  const gone = pretrain('referred', home, 4);
  assert.equal(gone.status, 2);
  assert.match(gone.stderr, /referred-models.llm/);
  const converted = neva([
    'convert-checkpoint',
    '--from',
    checkpoint('referred', 2),
    '--to',
    'hf',
    '--out',
    join(folder, 'no'),
  ]);
  assert.equal(converted.status, 2);
  assert.match(converted.stderr, /its llm did not train and was left where it was, but is no longer there/);
  renameSync(join(home, 'elsewhere'), join(home, 'llm'));
  done(pretrain('referred', home, 4));
});
