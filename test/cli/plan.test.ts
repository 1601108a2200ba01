/** `neva plan` as a command: from the configuration alone, without LibTorch and without weights. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { neva } from './neva.ts';

const env = { NEVA_LIBTORCH: '/nonexistent' };
const LARGE = ['finetune', 'model=llama2_13b', 'data=llava_mix665k', 'trainer=node8', 'trainer.num_nodes=4'];

test('a run of 32 GPUs, in words', () => {
  const { status, stdout, stderr } = neva(['plan', ...LARGE, '--price-per-hour', '3'], { env });
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^neva finetune on 32 × h100, bf16: tensor 8 × pipeline 1 × data 4;/);
  assert.match(stdout, /^moments \(Adam\) +13\.\d\d$/m);
  assert.match(stdout, /^It fits: [\d.]+ of 78\.50 GB\.$/m);
  assert.match(stdout, /^5190 steps: [\d.]+ h, [\d.]+ device hours, [\d.]+ at the price given$/m);
});

test('--json has the same numbers, and says that it does not fit', () => {
  const { status, stdout } = neva(['plan', ...LARGE, '--hardware', 'a100', '--memory-gb', '24', '--json'], { env });
  assert.equal(status, 0);
  const plan = JSON.parse(stdout);
  assert.equal(plan.fits, false);
  assert.equal(plan.hardware, 'a100');
  // 13.0 billion weights over 8 ranks, two moments of 4 bytes.
  assert.ok(Math.abs(plan.memory.moments / ((13.02e9 / 8) * 8) - 1) < 0.02);
  assert.equal(plan.memory.gradients * 2, plan.memory.moments);
  assert.equal(plan.cost, null);
  assert.ok(plan.step.total > 0 && plan.longest.peak > plan.memory.peak);
});

test('gradients that are summed in bf16 halve the time of their messages', () => {
  const exposed = (dtype: string) => {
    const words = [
      'plan',
      ...LARGE,
      'model.async_grad_allreduce=false',
      `model.optim.grad_sync_dtype=${dtype}`,
      '--json',
    ];
    return JSON.parse(neva(words, { env }).stdout).step.data as number;
  };
  assert.ok(exposed('fp32') > 0);
  assert.ok(Math.abs(exposed('fp32') / exposed('bf16') - 2) < 1e-6);
});

test('without arguments it plans the demo; flags change what is assumed of the data', () => {
  const plain = JSON.parse(neva(['plan', '--json'], { env }).stdout);
  assert.equal(plain.stage, 'pretrain');
  assert.equal(plain.hardware, 'cpu');
  const longer = JSON.parse(neva(['plan', '--json', '--record-length', '200'], { env }).stdout);
  assert.equal(longer.record.length, 200);
  assert.ok(longer.memory.activations > 4 * plain.memory.activations);
});

test('mistakes end with 2 and say what to do', () => {
  const cases: [string[], RegExp][] = [
    [
      ['--hardware', 'tpu'],
      /--hardware: there is no such entry\n {2}expected: cpu, a100, h100, h200\n {2}found: {4}tpu/,
    ],
    [['--price-per-hour', 'much'], /--price-per-hour.*Expected a number/],
    [['--stage', 'both'], /--stage.*Allowed choices/],
    [['model.micro_batch_size=7'], /model\.global_batch_size: it cannot be divided into micro batches/],
    [['trainer.devices=-1'], /trainer\.devices: a plan must know how many/],
    [['--record-length', '100000'], /--record-length: longer than the context/],
    [['model.hiden_size=5'], /model\.hiden_size/],
  ];
  for (const [args, message] of cases) {
    const { status, stderr, stdout } = neva(['plan', ...args], { env });
    assert.equal(status, 2, args.join(' '));
    assert.match(stderr, message);
    assert.doesNotMatch(stderr, /\n {4}at /);
    assert.equal(stdout, '');
  }
});
