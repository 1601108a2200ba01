/**
 * Both stages of the demo, on its real weights, computed by TensorFlow.js and by LibTorch: ten steps each, the same losses,
 * and the same tokens afterwards. tfjs-node takes part where NEVA_TFJS_NODE names the folder that
 * test/tools/tfjs_node.sh made.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { packageRoot } from '../../src/root.ts';
import { neva } from '../cli/neva.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-tfjs-demo-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const node = process.env.NEVA_TFJS_NODE;
const adapter = (path: string) => `model.mm_cfg.pretrain_mm_mlp_adapter=${path}`;
const stage = (name: string, engine: string[], from: string, steps = 10) => [
  ...[name, ...engine, `trainer.max_steps=${steps}`, 'model.global_batch_size=4', 'model.micro_batch_size=4'],
  ...['model.optim.sched.warmup_steps=2', 'trainer.val_check_interval=null', adapter(from)],
];

/** Started in `cwd`, where tfjs-node is looked for. */
function run(args: string[], cwd: string): string {
  const { status, stderr, stdout } = neva(args, { cwd, env: { TF_CPP_MIN_LOG_LEVEL: '2' } });
  assert.equal(status, 0, stderr);
  return stdout;
}

const steps = (dir: string) =>
  readFileSync(join(dir, 'version_0/metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));

/** Both stages from one projector; losses of both, and answers of the result. */
function wholeDemo(name: string, engine: string[], cwd: string) {
  const dir = join(folder, name);
  const experiments = `exp_manager.exp_dir=${dir}`;
  run([...stage('pretrain', engine, join(folder, 'start/neva_pretrain')), experiments], cwd);
  run([...stage('finetune', engine, join(dir, 'neva_pretrain')), experiments], cwd);
  const lines = readFileSync(join(packageRoot, 'data/demo/heldout.jsonl'), 'utf8').split('\n').slice(0, 5);
  const answers = lines.map((line) => {
    const { prompt, image } = JSON.parse(line);
    const picture = join(packageRoot, 'data/demo/images', image);
    const model = ['--model', join(dir, 'neva_finetune'), '--image', picture, '--prompt', prompt, '--json'];
    const { text, tokens } = JSON.parse(run(['generate', ...model, 'inference.tokens_to_generate=8', ...engine], cwd));
    return { text, tokens };
  });
  const losses = ['neva_pretrain', 'neva_finetune'].map((each) => steps(join(dir, each)).map(({ loss }) => loss));
  return { losses, answers };
}

let expected: ReturnType<typeof wholeDemo>;
before(() => {
  const engine = ['trainer.engine=torch'];
  const first = stage('pretrain', engine, 'null', 1);
  run([...first, `exp_manager.exp_dir=${join(folder, 'start')}`], folder);
  expected = wholeDemo('torch', engine, folder);
});

for (const [backend, cwd] of [['cpu', folder] as const, ['node', node] as const]) {
  test(`on ${backend}`, { skip: cwd ? false : 'NEVA_TFJS_NODE is not set' }, () => {
    const got = wholeDemo(backend, ['trainer.engine=tfjs', `trainer.tfjs_backend=${backend}`], cwd!);
    for (const [i, losses] of got.losses.entries()) {
      assert.equal(losses.length, 10);
      for (const [step, loss] of losses.entries()) {
        const wanted = expected.losses[i]![step];
        assert.ok(Math.abs(loss / wanted - 1) < 1e-4, `stage ${i + 1}, step ${step + 1}: ${loss}, torch ${wanted}`);
      }
    }
    assert.deepEqual(got.answers, expected.answers);
  });
}
