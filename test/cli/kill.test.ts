import { test } from 'node:test';
import { killCampaign } from '../support/kill.ts';

test('killed ten times at random, every restart goes on from a whole checkpoint to the same losses', async (t) => {
  t.diagnostic(JSON.stringify(await killCampaign('finetune', 10, 1)));
});
