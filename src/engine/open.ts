/** Chooses and opens the engine that a configuration asks for. Neither library is loaded before it is chosen. */
import { isUserError, mistake, UserError } from '../errors.ts';
import type { Engine } from './engine.ts';

/** The keys of `trainer` that say what computes. */
export interface EngineChoice {
  engine: string;
  tfjs_backend: string;
  accelerator: string;
  /** Only `tf32` is the engine's business. */
  precision?: string;
  num_threads: number | null;
}

/**
 * trainer.engine and trainer.tfjs_backend as they come out on this machine, with LibTorch found or fetched and the addon
 * built if it is torch. `auto` takes torch, and TensorFlow.js where LibTorch cannot be had; whenever it is TensorFlow.js, one
 * line says with which backend, and what would be faster.
 */
export async function chooseEngine<Choice extends EngineChoice>(
  choice: Choice,
  say: (line: string) => void,
): Promise<Choice> {
  const torch = choice.engine === 'tfjs' ? 'LibTorch (trainer.engine=torch)' : await torchOrReason(choice, say);
  if (torch === null) return { ...choice, engine: 'torch' };
  const { chooseBackend, DESCRIPTIONS } = await import('./tfjs/backends.ts');
  const backend = chooseBackend(choice.tfjs_backend, choice.accelerator);
  const faster = backend === 'cpu' ? `tfjs-node (docs/engines.md), and more so ${torch}` : torch;
  say(`Computing with TensorFlow.js: ${DESCRIPTIONS[backend]}. Faster: ${faster}`);
  return { ...choice, engine: 'tfjs', tfjs_backend: backend };
}

/** Null when LibTorch is ready; else what keeps it from being used. Where torch was asked for by name, that is thrown. */
async function torchOrReason({ engine }: EngineChoice, say: (line: string) => void): Promise<string | null> {
  const { ensureAddon } = await import('./torch/build.ts');
  try {
    await ensureAddon(say);
    return null;
  } catch (error) {
    if (engine !== 'auto' || !isUserError(error)) throw error;
    return `LibTorch, once this is mended — ${error.message.split('\n')[0]} (npx neva doctor says more)`;
  }
}

/**
 * Opens the engine; asking for what is not there is a user error. `auto` is for `chooseEngine` to decide.
 * @param gpu number of the GPU, where it is one that is computed on
 */
export async function openEngine(choice: EngineChoice, gpu = 0): Promise<Engine> {
  return choice.engine === 'tfjs' ? openTfjs(choice) : openTorch(choice, gpu);
}

/** With LibTorch loaded: a GPU is there, and not declined. */
export async function computesOnGpu({ engine, accelerator }: EngineChoice): Promise<boolean> {
  if (engine === 'tfjs' || accelerator === 'cpu') return false;
  const { loadNative } = await import('./torch/native.ts');
  return loadNative().versions().cuda;
}

async function openTorch({ accelerator, precision, num_threads: threads }: EngineChoice, gpu: number): Promise<Engine> {
  const { loadNative } = await import('./torch/native.ts');
  const { TorchEngine } = await import('./torch/engine.ts');
  const { cuda, torch } = loadNative().versions();
  if (accelerator === 'gpu' && !cuda) {
    throw new UserError(
      `trainer.accelerator=gpu: torch ${torch} sees no GPU here; install its CUDA build, or set trainer.accelerator=cpu`,
    );
  }
  const device = cuda && accelerator !== 'cpu' ? `cuda:${gpu}` : 'cpu';
  if (precision === 'tf32' && device === 'cpu') {
    throw mistake({
      where: 'trainer.precision=tf32',
      problem: 'TF32 is a number format of NVIDIA GPUs, and this run computes on the CPU',
      expected: '32, bf16 or 16',
      fix: 'set trainer.precision=32 for the same weights in full float32',
    });
  }
  if (device !== 'cpu') {
    loadNative().setGpu(gpu);
    loadNative().setTf32(precision === 'tf32');
  }
  return new TorchEngine({ device, threads });
}

async function openTfjs({ tfjs_backend: asked, accelerator, num_threads: threads }: EngineChoice): Promise<Engine> {
  const { chooseBackend, loadBackend } = await import('./tfjs/backends.ts');
  const { TfjsEngine } = await import('./tfjs/engine.ts');
  const name = chooseBackend(asked, accelerator);
  if (accelerator === 'gpu' && name !== 'node-gpu') {
    throw mistake({
      where: `trainer.accelerator=gpu, trainer.tfjs_backend=${asked}`,
      problem: 'this backend computes on the CPU',
      fix: 'set trainer.tfjs_backend=node-gpu, or trainer.accelerator=cpu',
    });
  }
  return new TfjsEngine(await loadBackend(name, threads));
}
