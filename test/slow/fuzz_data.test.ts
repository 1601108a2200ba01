import { test } from 'node:test';
import { DATA_KINDS, fuzzData } from '../support/fuzz_data.ts';

for (const kind of Object.keys(DATA_KINDS)) {
  test(`700 files of data with damage at random: ${kind}`, async (t) => {
    t.diagnostic(`${await fuzzData(kind, 700, 1_000_000)} of 700 were refused as a whole`);
  });
}
