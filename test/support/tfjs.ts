/**
 * The TensorFlow.js engine for tests, seeded: on plain JavaScript, or on the backend that NEVA_TFJS_BACKEND names
 * (test/slow/tfjs.test.ts runs the tests of test/engine/tfjs again on tfjs-node with it).
 */
import { type BackendName, loadBackend } from '../../src/engine/tfjs/backends.ts';
import { TfjsEngine } from '../../src/engine/tfjs/engine.ts';

export async function tfjsEngine(
  name: BackendName = (process.env.NEVA_TFJS_BACKEND as BackendName | undefined) ?? 'cpu',
  seed = 1234,
): Promise<TfjsEngine> {
  const engine = new TfjsEngine(await loadBackend(name));
  engine.seed(seed);
  return engine;
}
