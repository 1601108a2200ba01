/** The TensorFlow.js engine for tests: on the plain JavaScript backend unless asked for another, seeded. */
import { type BackendName, loadBackend } from '../../src/engine/tfjs/backends.ts';
import { TfjsEngine } from '../../src/engine/tfjs/engine.ts';

export async function tfjsEngine(name: BackendName = 'cpu', seed = 1234): Promise<TfjsEngine> {
  const engine = new TfjsEngine(await loadBackend(name));
  engine.seed(seed);
  return engine;
}
