import { mistake, type UserError } from '../errors.ts';

/** A saved generator state that is not this engine's: going on with it would draw other numbers than the run began with. */
export function foreignRandomState(engine: string, expected: number, found: number): UserError {
  return mistake({
    where: 'random state of the checkpoint',
    problem: 'it was saved by another engine or for another kind of device',
    expected: `${expected} bytes of the ${engine} engine on this device`,
    found: `${found} bytes`,
    fix: 'resume with the trainer.engine and trainer.accelerator that the run began with, or start a new run from its weights (model.restore_from_path=…)',
  });
}
