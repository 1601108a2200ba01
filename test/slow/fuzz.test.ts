import { test } from 'node:test';
import { FUZZED, fuzz } from '../support/fuzz.ts';

for (const kind of Object.keys(FUZZED)) {
  test(`1500 files of weights with damage at random: ${kind}`, (t) => {
    t.diagnostic(`${fuzz(kind, 1500, 1_000_000)} of 3000 readings gave tensors`);
  });
}
