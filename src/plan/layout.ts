/** How many blocks each pipeline stage has: as the configuration says, or as their work balances best. */
import type { NevaConfig } from '../config/index.ts';
import { mistake } from '../errors.ts';
import { type StepWork, stepParts } from '../model/flops.ts';
import type { NevaShape } from '../model/shapes.ts';
import { balancedLayout } from '../model/stage.ts';
import { typicalRecord } from './record.ts';

/**
 * By the work of a typical record, whatever the data: every rank, and every run that goes on, must come to the same.
 * Throws a user error where blocks and stages do not fit one another.
 */
export function layoutOf(m: NevaConfig['model'], shape: NevaShape, trains: StepWork['trains']): number[] {
  const { pipeline_model_parallel_size: stages, pipeline_model_parallel_layout: asked } = m;
  const { numLayers } = shape.llm;
  if (asked !== null) {
    const total = asked.reduce((sum, blocks) => sum + blocks, 0);
    if (asked.length === stages && total === numLayers) return asked;
    throw mistake({
      where: 'model.pipeline_model_parallel_layout',
      problem: 'the language model cannot be divided so',
      expected: `${stages} numbers (model.pipeline_model_parallel_size) that add up to the model's ${numLayers} layers`,
      found: `[${asked.join(', ')}], ${total} in all`,
      fix: 'leave it out: the stages are then balanced',
    });
  }
  if (numLayers < stages) {
    throw mistake({
      where: 'model.pipeline_model_parallel_size',
      problem: 'more stages than the language model has layers',
      expected: `at most ${numLayers}`,
      found: String(stages),
      fix: 'choose a smaller size; more devices can share the data or the layers (model.tensor_model_parallel_size)',
    });
  }
  const record = typicalRecord(trains.llm ? 'finetune' : 'pretrain', shape, m.encoder_seq_length);
  const { front, block, end, forward } = stepParts(shape, {
    lengths: [record.length],
    images: record.images,
    cached: m.data.vision_cache !== null,
    labelTokens: record.labels,
    trains,
  });
  const again = m.activations_checkpoint_granularity === 'full' ? 1 + forward : 1;
  return balancedLayout(numLayers, stages, { front, block: again * block, end });
}
