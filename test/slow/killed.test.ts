import assert from 'node:assert/strict';
import { test } from 'node:test';
import { killCampaign } from '../support/kill.ts';

for (const stage of ['pretrain', 'finetune'] as const) {
  test(`${stage} killed a hundred times at random, while starting, training and saving`, async (t) => {
    const campaign = await killCampaign(stage, 100, 7);
    t.diagnostic(JSON.stringify(campaign));
    assert.ok(campaign.whileSaving >= 10, 'kills that left a half-written checkpoint');
  });
}
