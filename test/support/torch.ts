/** The torch engine for tests: on the CPU, with LibTorch's own choice of threads, seeded. */
import { TorchEngine } from '../../src/engine/torch/engine.ts';
import { loadNative } from '../../src/engine/torch/native.ts';

export function torchEngine(seed = 1234): TorchEngine {
  loadNative();
  const engine = new TorchEngine({ device: 'cpu', threads: null });
  engine.seed(seed);
  return engine;
}
