/** A machine without LibTorch: both stages and an answer with TensorFlow.js, and what it cannot do. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-tfjs-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const without = { cwd: folder, env: { NEVA_LIBTORCH: '/nonexistent' } };
const runFolder = (name: string, version = 0) => join(folder, 'neva_experiments', name, `version_${version}`);
const losses = (dir: string): number[] =>
  readFileSync(join(dir, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).loss)
    .filter((loss) => loss !== undefined);
/** Smaller still: plain JavaScript is slow. */
const small = [...tiny, 'model.num_layers=1', 'model.hidden_size=32', 'model.ffn_hidden_size=64'];
const smallBatches = ['model.micro_batch_size=2', 'model.global_batch_size=2'];
const steps = (count: number) => [`trainer.max_steps=${count}`, 'trainer.log_every_n_steps=1'];

test('engine=auto without LibTorch trains the demo in reduced form, and says on what and why', () => {
  // The model is smaller than the demo's; length and batch size are left to neva.
  const model = small.filter((override) => !override.includes('batch_size'));
  const { status, stderr } = neva(['pretrain', ...model], without);
  assert.equal(status, 0, stderr);
  assert.match(
    stderr,
    /^Computing with TensorFlow\.js: plain JavaScript, one core\. Faster: tfjs-node .*NEVA_LIBTORCH: no LibTorch/m,
  );
  assert.match(
    stderr,
    /^Plain JavaScript would take half an hour or more .*reduced to 20 steps of 8 records \(from 240 of 32\)/m,
  );
  assert.match(stderr, /^tfjs on cpu, float32/m);
  const dir = runFolder('neva_pretrain');
  assert.equal(losses(dir).length, 20);
  assert.ok(losses(dir).at(-1)! < losses(dir)[0]!);
  assert.equal(readFileSync(join(dir, 'checkpoints/last'), 'utf8').trim(), 'step=0000020');
});

test('finetune starts from it; with the same weights torch computes the same losses, and both answer the same', () => {
  const projector = `model.mm_cfg.pretrain_mm_mlp_adapter=${join(runFolder('neva_pretrain'), 'checkpoints/step=0000020')}`;
  const first = neva(['finetune', ...small, ...smallBatches, ...steps(2), projector], without);
  assert.equal(first.status, 0, first.stderr);
  assert.doesNotMatch(first.stderr, /reduced/, 'a length that was asked for is kept');
  const trained = join(runFolder('neva_finetune'), 'checkpoints/step=0000002');

  const again = [
    'finetune',
    ...small.filter((each) => !each.includes('from_pretrained')),
    ...smallBatches,
    ...steps(10),
  ];
  const from = [`model.restore_from_path=${trained}`, 'model.mm_cfg.pretrain_mm_mlp_adapter=null'];
  const run = (name: string, ...more: string[]) => {
    const { status, stderr } = neva([...again, ...from, `exp_manager.name=${name}`, ...more], { cwd: folder });
    assert.equal(status, 0, stderr);
    return losses(runFolder(name));
  };
  const tfjs = run('with_tfjs', 'trainer.engine=tfjs', 'trainer.tfjs_backend=cpu');
  const torch = run('with_torch', 'trainer.engine=torch');
  assert.equal(tfjs.length, 10);
  for (const [i, loss] of tfjs.entries()) {
    assert.ok(Math.abs(loss / torch[i]! - 1) < 1e-4, `step ${i + 1}: tfjs ${loss}, torch ${torch[i]}`);
  }

  const model = join(folder, 'neva_experiments/with_tfjs');
  const image = join(packageRoot, 'data/demo/images/heldout/0000.png');
  const ask = ['generate', '--model', model, '--image', image, '--prompt', 'How many?', '--json'];
  const answers = ['tfjs', 'torch'].map((engine) => {
    const length = ['inference.tokens_to_generate=8', 'inference.min_tokens_to_generate=4'];
    const { status, stdout, stderr } = neva([...ask, `trainer.engine=${engine}`, ...length], { cwd: folder });
    assert.equal(status, 0, stderr);
    return JSON.parse(stdout);
  });
  assert.deepEqual(answers[0], answers[1]);
  assert.ok(answers[0].tokens >= 4);
});

test('what the tfjs engine cannot do is refused with the key to change', () => {
  const cases: [string[], RegExp][] = [
    [
      ['trainer.precision=bf16'],
      /trainer\.precision=bf16: the tfjs engine computes in float32; set trainer\.precision=32/,
    ],
    [['trainer.devices=2'], /trainer\.devices=2: the tfjs engine is one process/],
    [
      ['model.tensor_model_parallel_size=2', 'trainer.devices=2'],
      /tensor_model_parallel_size=2: the tfjs engine is one/,
    ],
    [['trainer.accelerator=gpu'], /trainer\.accelerator=gpu: .*tfjs-node-gpu/],
    [['trainer.tfjs_backend=node-gpu'], /trainer\.tfjs_backend=node-gpu: @tensorflow\/tfjs-node-gpu is not installed/],
    [['trainer.tfjs_backend=cpu', 'trainer.num_threads=2'], /trainer\.num_threads=2: plain JavaScript/],
  ];
  for (const [overrides, pattern] of cases) {
    const { status, stderr } = neva(['pretrain', ...tiny, ...steps(1), 'trainer.engine=tfjs', ...overrides], without);
    assert.equal(status, 2, `${overrides}: ${stderr}`);
    assert.match(stderr, pattern);
    assert.doesNotMatch(stderr, /\n +at /);
  }
  const torch = neva(['pretrain', ...tiny, ...steps(1), 'trainer.engine=torch'], without);
  assert.equal(torch.status, 2, torch.stderr);
  assert.match(torch.stderr, /NEVA_LIBTORCH: no LibTorch/);
});
