/** Optimizer steps of the tiny LLaVA on its reference batch, with the reference's AdamW. */
import type { Engine } from '../../src/engine/engine.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { reference, referenceInput, tinyLlava } from './llava.ts';

export interface TinyRun {
  losses: number[];
  norms: number[];
  /** Live tensors after each step. */
  live: number[];
}

export function tinyRun(
  engine: Engine,
  stage: 'pretrain' | 'finetune',
  steps: number,
  afterStep: () => void = () => {},
): TinyRun {
  const model = tinyLlava(engine);
  const input = referenceInput(engine);
  const labels = reference.label_tokens as number;
  for (const parameter of model.parameters) {
    parameter.trainable = reference[stage].trained.some((prefix: string) => parameter.name.startsWith(prefix));
  }
  const { lr, betas, eps, weight_decay: weightDecay, clip_grad_norm: clip } = reference.adamw;
  const trainable = model.parameters.filter((parameter) => parameter.trainable);
  const optimizer = new Optimizer(engine, trainable, { betas, eps, weightDecay, clip });
  const run: TinyRun = { losses: [], norms: [], live: [] };
  for (let step = 1; step <= steps; step++) {
    const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
    run.losses.push(engine.item(loss) / labels);
    loss.dispose();
    run.norms.push(optimizer.step(step, lr));
    run.live.push(engine.memory().tensors);
    afterStep();
  }
  return run;
}
