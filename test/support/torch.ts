/** The torch engine for tests: seeded, on the CPU with LibTorch's own choice of threads, or on the GPU of NEVA_TEST_DEVICE. */
import { TorchEngine } from '../../src/engine/torch/engine.ts';
import { loadNative } from '../../src/engine/torch/native.ts';

/** `cuda:0` where a GPU machine runs the tests (bench/gpu). */
const device = process.env.NEVA_TEST_DEVICE ?? 'cpu';

/** Its number; null on the CPU. */
export const testGpu: number | null = device === 'cpu' ? null : Number(device.split(':')[1] ?? 0);

/** Of float32 values, relative to the largest: a GPU sums in another order than the CPU. */
export const float32Bound = testGpu === null ? 2e-6 : 1e-5;

export function torchEngine(seed = 1234): TorchEngine {
  if (testGpu !== null) {
    loadNative().setGpu(testGpu);
    loadNative().setTf32(false);
  }
  loadNative();
  const engine = new TorchEngine({ device, threads: null });
  engine.seed(seed);
  return engine;
}
