import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FUZZED, fuzz } from '../support/fuzz.ts';

// test/slow/fuzz.test.ts tries many more.
for (const kind of Object.keys(FUZZED)) {
  test(`damage at random: ${kind}`, () => {
    const read = fuzz(kind, 60, 1);
    assert.ok(read < 120, 'not one case was damaged');
  });
}
