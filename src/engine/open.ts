/** Chooses and opens the engine that a configuration asks for. */
import { UserError } from '../errors.ts';
import type { Engine } from './engine.ts';
import { TorchEngine } from './torch/engine.ts';
import { loadNative } from './torch/native.ts';

export interface EngineChoice {
  engine: string;
  accelerator: string;
  num_threads: number | null;
}

/** trainer.engine, trainer.accelerator and trainer.num_threads. Asking for what is not there is a user error. */
export function openEngine({ engine, accelerator, num_threads: threads }: EngineChoice): Engine {
  if (engine === 'tfjs') throw new UserError('trainer.engine=tfjs: not built yet; set trainer.engine=torch');
  const { cuda, torch } = loadNative().versions();
  if (accelerator === 'gpu' && !cuda) {
    throw new UserError(
      `trainer.accelerator=gpu: torch ${torch} sees no GPU here; install its CUDA build, or set trainer.accelerator=cpu`,
    );
  }
  return new TorchEngine({ device: cuda && accelerator !== 'cpu' ? 'cuda:0' : 'cpu', threads });
}
