/** Peaks of the cards that call themselves so. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { peakOf } from '../../src/plan/hardware.ts';

test('a card is known by its name, and others have no peak', () => {
  assert.equal(peakOf('NVIDIA H100 80GB HBM3', 'bf16'), 989e12);
  assert.equal(peakOf('NVIDIA H200', 'tf32'), 494e12);
  assert.equal(peakOf('NVIDIA A100-SXM4-80GB', '32'), 19.5e12);
  assert.equal(peakOf('NVIDIA GeForce RTX 4090', 'bf16'), null);
});
