import { test } from 'node:test';
import { DATA_KINDS, fuzzData } from '../support/fuzz_data.ts';

// test/slow/fuzz_data.test.ts tries many more.
for (const kind of Object.keys(DATA_KINDS)) {
  test(`damage at random: ${kind}`, async (t) => {
    t.diagnostic(`${await fuzzData(kind, 30, 1)} of 30 were refused as a whole`);
  });
}
