/**
 * Where TensorFlow.js computes: `@tensorflow/tfjs-node-gpu` or `@tensorflow/tfjs-node` if the user installed them, else the
 * plain JavaScript backend that neva brings along. wasm is left out: it lacks gradients, and past 4 GiB gives wrong values
 * without an error.
 */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs-core';
import { mistake } from '../../errors.ts';
import { registerMatMul } from './matmul.ts';

export type BackendName = 'node-gpu' | 'node' | 'cpu';

export interface Backend {
  name: BackendName;
  /** As `Engine.device`. */
  device: string;
}

const PACKAGES = { 'node-gpu': '@tensorflow/tfjs-node-gpu', node: '@tensorflow/tfjs-node' } as const;

/** For people. */
export const DESCRIPTIONS: { readonly [name in BackendName]: string } = {
  'node-gpu': 'tfjs-node-gpu (TensorFlow with CUDA)',
  node: 'tfjs-node (TensorFlow on the CPU)',
  cpu: 'plain JavaScript, one core',
};

/** Path of the package if it is installed beside neva or in the working folder; null otherwise. */
export function installedAt(name: 'node-gpu' | 'node'): string | null {
  for (const from of [import.meta.url, join(process.cwd(), 'package.json')]) {
    try {
      return createRequire(from).resolve(PACKAGES[name]);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'MODULE_NOT_FOUND') throw error;
    }
  }
  return null;
}

/** What trainer.tfjs_backend amounts to here, without loading it. */
export function chooseBackend(asked: string, accelerator: string): BackendName {
  if (asked !== 'auto') return asked as BackendName;
  if (accelerator !== 'cpu' && installedAt('node-gpu')) return 'node-gpu';
  if (accelerator === 'gpu') {
    throw mistake({
      where: 'trainer.accelerator=gpu',
      problem: `the tfjs engine computes on a GPU through ${PACKAGES['node-gpu']} only, which is not installed`,
      fix: `npm install --no-save ${PACKAGES['node-gpu']} (docs/engines.md says what it needs), or trainer.accelerator=cpu`,
    });
  }
  return installedAt('node') ? 'node' : 'cpu';
}

/**
 * Makes a backend core's current one. Throws a user error when it is not installed or does not load.
 * @param threads inside an operator of TensorFlow, which reads it once when it starts; null leaves it the choice
 */
export async function loadBackend(name: BackendName, threads: number | null = null): Promise<Backend> {
  if (threads !== null) process.env.TF_NUM_INTRAOP_THREADS = String(threads);
  tf.env().set('PROD', true); // or the JavaScript backend advertises tfjs-node on every start
  if (name === 'cpu') {
    await import('@tensorflow/tfjs-backend-cpu');
    registerMatMul();
  } else {
    loadPackage(name);
  }
  await tf.setBackend(name === 'cpu' ? 'cpu' : 'tensorflow');
  await tf.ready();
  return { name, device: name === 'node-gpu' ? 'cuda:0' : 'cpu' };
}

function loadPackage(name: 'node-gpu' | 'node'): void {
  const path = installedAt(name);
  if (!path) {
    throw mistake({
      where: `trainer.tfjs_backend=${name}`,
      problem: `${PACKAGES[name]} is not installed`,
      fix: `npm install --no-save ${PACKAGES[name]} (docs/engines.md says what it needs), or trainer.tfjs_backend=cpu`,
    });
  }
  giveBackUtil();
  try {
    createRequire(import.meta.url)(path);
  } catch (error) {
    throw mistake({
      where: `trainer.tfjs_backend=${name}`,
      problem: `${PACKAGES[name]} is installed but does not load`,
      found: (error as Error).message.split('\n')[0]!,
      fix: 'build its addon as docs/engines.md describes, or set trainer.tfjs_backend=cpu',
    });
  }
}

/** tfjs-node 4.22 calls two functions of node:util that Node 23 removed. */
function giveBackUtil(): void {
  const util = createRequire(import.meta.url)('node:util');
  util.isNullOrUndefined ??= (value: unknown) => value === null || value === undefined;
  util.isArray ??= Array.isArray;
}
