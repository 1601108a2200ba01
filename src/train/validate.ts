/** Loss on records that are not trained on. */
import type { NevaConfig } from '../config/index.ts';
import { type DataOptions, openLoader } from '../data/loader.ts';
import type { Engine } from '../engine/engine.ts';
import type { NevaModel } from '../model/neva.ts';
import type { Ranks } from '../parallel/ranks.ts';
import { lossOnly } from './accumulate.ts';

/**
 * Steps between validations: trainer.val_check_interval, of an epoch where it is below 1; where it is null, as many epochs as
 * trainer.check_val_every_n_epoch says, or one.
 */
export function validationSteps(
  { val_check_interval: interval, check_val_every_n_epoch: epochs }: NevaConfig['trainer'],
  stepsPerEpoch: number,
): number {
  const steps = interval === null ? (epochs ?? 1) * stepsPerEpoch : interval < 1 ? interval * stepsPerEpoch : interval;
  return Math.max(1, Math.round(steps));
}

/**
 * Mean loss over the labelled tokens of the first `limit` global batches (below 1: of that share of the records), read in
 * order; with `dropLast` an incomplete last batch is left out. Each data-parallel rank takes its share of every batch, and all get the mean over all.
 */
export async function validate(
  engine: Engine,
  model: NevaModel,
  data: DataOptions,
  limit: number,
  ranks: Ranks,
  dropLast: boolean,
): Promise<number> {
  const loader = await openLoader({ ...data, dataloaderType: 'once', checkAtStart: 0 }, { consumedSamples: 0 });
  const whole = Math.floor(loader.size / data.globalBatchSize);
  // An incomplete batch that is all there is, is not left out.
  const all = dropLast && whole > 0 ? whole : Math.ceil(loader.size / data.globalBatchSize);
  let left = Math.min(all, limit < 1 ? Math.max(1, Math.round(limit * all)) : limit);
  let loss = 0;
  let tokens = 0;
  try {
    if (left > 0) {
      for await (const { microBatches, labelTokens } of loader) {
        for (const micro of microBatches.filter(({ labelRows }) => labelRows.length > 0)) {
          loss += lossOnly(engine, model, ranks, micro);
        }
        tokens += labelTokens;
        left -= 1;
        if (left === 0) break;
      }
    }
  } finally {
    await loader.close();
  }
  const [allLoss, allTokens] = ranks.world.sum(
    ranks.answersLoss ? [loss, tokens] : [0, 0],
    'the loss of a validation',
  ) as [number, number];
  return allLoss / allTokens;
}
