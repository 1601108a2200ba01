/** The moving average that exp_manager.ema asks for. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { restoreAverages } from '../checkpoint/folder.ts';
import type { NevaConfig } from '../config/index.ts';
import type { Engine, Parameter } from '../engine/engine.ts';
import type { Report } from '../report/report.ts';
import { EmaOptimizer } from './ema.ts';
import type { StageOptimizer } from './optimizer.ts';

/** Null where none is kept. Gone on with from `checkpoint` where that has one. */
export function openEma(
  engine: Engine,
  optimizer: StageOptimizer,
  parameters: readonly Parameter[],
  { exp_manager: { ema } }: NevaConfig,
  checkpoint: string | null,
  report: Report,
): EmaOptimizer | null {
  if (!ema.enable) return null;
  const averaged = new EmaOptimizer(engine, optimizer, parameters, { decay: ema.decay, everySteps: ema.every_n_steps });
  if (checkpoint === null) return averaged;
  if (existsSync(join(checkpoint, 'ema.safetensors'))) restoreAverages(engine, checkpoint, averaged.averages);
  else report.log.warn(`${checkpoint} has no moving average: it begins anew from the weights there`);
  return averaged;
}
