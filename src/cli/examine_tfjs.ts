/** What `neva doctor` finds about TensorFlow.js: which backends are there, what the others need. docs/engines.md has it in full. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type BackendName, installedAt } from '../engine/tfjs/backends.ts';

export interface TfjsFindings {
  /** What trainer.tfjs_backend=auto takes. */
  backend: BackendName;
  /** null where a package is not installed. */
  node: TfjsPackage | null;
  nodeGpu: TfjsPackage | null;
}

export interface TfjsPackage {
  path: string;
  version: string;
  /** The compiled part of it is there; without it nothing loads. */
  addon: boolean;
}

export function examineTfjs(): TfjsFindings {
  const node = examinePackage('node');
  const nodeGpu = examinePackage('node-gpu');
  return { backend: nodeGpu ? 'node-gpu' : node ? 'node' : 'cpu', node, nodeGpu };
}

function examinePackage(name: 'node' | 'node-gpu'): TfjsPackage | null {
  const main = installedAt(name);
  if (!main) return null;
  let path = dirname(main);
  while (!existsSync(join(path, 'package.json'))) path = dirname(path);
  const { version } = JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')) as { version: string };
  return { path, version, addon: existsSync(join(path, 'lib/napi-v8/tfjs_binding.node')) };
}

export function describeTfjs({ node, nodeGpu }: TfjsFindings): string {
  const text = (name: string, found: TfjsPackage | null) =>
    found
      ? `${name} ${found.version} in ${found.path}${found.addon ? '' : ' WITHOUT its addon'}`
      : `${name} not installed`;
  return ['plain JavaScript', text('tfjs-node', node), text('tfjs-node-gpu', nodeGpu)].join('; ');
}

/** Told where TensorFlow.js is what trains here, or where something of it is broken. */
export function tfjsAdvice(
  { backend, node, nodeGpu }: TfjsFindings,
  machine: { torch: boolean; gpu: boolean },
): string[] {
  const advice: string[] = [];
  const major = Number(process.versions.node.split('.')[0]);
  for (const [name, found] of Object.entries({ 'tfjs-node': node, 'tfjs-node-gpu': nodeGpu })) {
    if (!found) continue;
    if (!found.addon) {
      advice.push(
        `${name} has no addon (its install script did not run, or found no TensorFlow 2.9 to fetch): docs/engines.md says how to build it against the TensorFlow of a Python wheel`,
      );
    }
    if (major >= 23) {
      advice.push(
        `${name} ${found.version} calls functions that Node 23 removed: neva gives them back, but has been run with Node 20 only`,
      );
    }
  }
  if (machine.torch) return advice;
  const reduced = backend === 'cpu' ? '; the demo runs in reduced form' : '';
  advice.push(`trainer.engine=tfjs trains without LibTorch, in float32 on one process${reduced}`);
  if (!node && !nodeGpu) {
    advice.push(
      'Faster than plain JavaScript: npm install --no-save @tensorflow/tfjs-node (it fetches TensorFlow 2.9; Node 18 to 22), or built against a newer TensorFlow as in docs/engines.md',
    );
  }
  if (machine.gpu && !nodeGpu) {
    advice.push(
      'The GPU with TensorFlow.js: npm install --no-save @tensorflow/tfjs-node-gpu (TensorFlow 2.9: CUDA 11.2, cuDNN 8.1, driver above 450; kernels for compute capability up to 8.0, newer cards only by compilation in the driver). A CUDA build of torch is the better way',
    );
  }
  return advice;
}
