import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { NevaConfig } from '../../src/config/index.ts';
import { validationSteps } from '../../src/train/validate.ts';

test('validations come every so many steps, parts of an epoch, or epochs', () => {
  const steps = (val_check_interval: number | null, check_val_every_n_epoch: number | null = null) =>
    validationSteps({ val_check_interval, check_val_every_n_epoch } as NevaConfig['trainer'], 40);
  assert.equal(steps(500), 500);
  assert.equal(steps(0.25), 10);
  assert.equal(steps(0.001), 1);
  assert.equal(steps(null), 40);
  assert.equal(steps(null, 3), 120);
});
