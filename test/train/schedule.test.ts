/** Learning rates by NeMo's formulas, worked out by hand from the reference notes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { learningRate, type Schedule } from '../../src/train/schedule.ts';

const cosine: Schedule = {
  name: 'CosineAnnealing',
  lr: 1e-3,
  minLr: 2e-5,
  warmupSteps: 70,
  constantSteps: 0,
  maxSteps: 2170,
};

const near = (actual: number, expected: number) =>
  assert.ok(Math.abs(actual / expected - 1) < 1e-12, `${actual} ≠ ${expected}`);

test('warm-up rises by lr/(warmup+1) and reaches the peak at step `warmup`', () => {
  near(learningRate(cosine, 0), 1e-3 / 71);
  near(learningRate(cosine, 35), (1e-3 * 36) / 71);
  near(learningRate(cosine, 70), 1e-3);
});

test('half a cosine down to min_lr, which then stays', () => {
  near(learningRate(cosine, 70 + 1050), (1e-3 + 2e-5) / 2);
  near(learningRate(cosine, 70 + 700), 2e-5 + (1e-3 - 2e-5) * 0.5 * (1 + Math.cos(Math.PI / 3)));
  near(learningRate(cosine, 2170), 2e-5);
  near(learningRate(cosine, 9999), 2e-5);
});

test('with constant steps: Megatron’s law', () => {
  const s = { ...cosine, constantSteps: 100 };
  assert.equal(learningRate(s, 0), 0);
  near(learningRate(s, 35), 5e-4);
  near(learningRate(s, 70 + 1000), (1e-3 + 2e-5) / 2);
  near(learningRate(s, 2070), 2e-5);
  near(learningRate(s, 2100), 2e-5);
});

test('a straight line, a constant, and no warm-up', () => {
  near(learningRate({ ...cosine, name: 'WarmupAnnealing' }, 70 + 1050), (1e-3 + 2e-5) / 2);
  near(learningRate({ ...cosine, name: 'constant' }, 2000), 1e-3);
  near(learningRate({ ...cosine, warmupSteps: 0 }, 0), 1e-3);
});
