/** What `neva doctor` finds on this machine. Nothing is changed, fetched or built. */
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { loadJpeg } from '../engine/jpeg.ts';
import { addonIsCurrent, addonPath } from '../engine/torch/build.ts';
import { findCompiler } from '../engine/torch/compiler.ts';
import { findGpus, type Gpu } from '../engine/torch/gpus.ts';
import { fetchCommand, findLibtorch, type LibTorch } from '../engine/torch/libtorch.ts';
import { loadNative } from '../engine/torch/native.ts';
import { ask, findProgram, installCommand } from '../engine/torch/tools.ts';
import { isUserError } from '../errors.ts';
import { describeTfjs, examineTfjs, type TfjsFindings, tfjsAdvice } from './examine_tfjs.ts';

export interface Findings {
  /** Training with the torch engine can start now. */
  ready: boolean;
  node: string;
  platform: string;
  libtorch: LibTorch | null;
  addon: {
    path: string;
    state: 'loads' | 'missing' | 'out of date' | 'does not load';
    cpuCapability: string | null;
  } | null;
  tfjs: TfjsFindings;
  /** Version of the libjpeg-turbo that decodes JPEGs; null where sharp does. */
  jpeg: string | null;
  cpu: { model: string; cores: number; torchThreads: number | null; features: string[] };
  memory: { totalBytes: number; freeBytes: number };
  gpus: Gpu[];
  python: { path: string; version: string | null } | null;
  compiler: { path: string; version: string | null } | null;
  /** What is missing, each with what to do about it. */
  advice: string[];
}

/** Instruction sets that LibTorch's kernels choose between. */
const features = ['avx2', 'avx512f', 'avx512_bf16', 'avx512_fp16', 'amx_bf16', 'asimd', 'bf16', 'sve'];

export function examine(): Findings {
  const advice: string[] = [];
  const libtorch = examineLibtorch(advice);
  const compiler = examineCompiler();
  const { addon, threads } = examineAddon(libtorch, advice);
  const pythonPath = findProgram('python3');
  const gpus = findGpus();
  if (!compiler && addon?.state !== 'loads') advice.push(`No C++ compiler: ${installCommand('compiler')}`);
  if (!libtorch && !pythonPath) advice.push(`No python3 to fetch LibTorch with: ${installCommand('python')}`);
  if (gpus.length > 0 && libtorch && !libtorch.cuda) {
    advice.push(
      `There is a GPU, but LibTorch ${libtorch.version} computes on the CPU only: install a CUDA build of torch, or set NEVA_LIBTORCH to one`,
    );
  }
  if (libtorch?.cuda && !libtorch.ncclIncludes) {
    advice.push(
      'Ranks on several GPUs need NCCL: nccl.h and cuda_runtime_api.h were not found beside torch, nor in CUDA_HOME or NCCL_HOME; with them there, run: npx neva setup',
    );
  }
  const tfjs = examineTfjs();
  advice.push(...tfjsAdvice(tfjs, { torch: addon?.state === 'loads', gpu: gpus.length > 0 }));
  return {
    ready: addon?.state === 'loads',
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    libtorch,
    addon,
    tfjs,
    jpeg: loadJpeg()?.version ?? null,
    cpu: {
      model: cpus()[0]?.model ?? 'unknown',
      cores: availableParallelism(),
      torchThreads: threads,
      features: cpuFeatures(),
    },
    memory: { totalBytes: memoryLimit(), freeBytes: freemem() },
    gpus,
    python: pythonPath ? { path: pythonPath, version: ask(pythonPath, ['--version']) } : null,
    compiler,
    advice,
  };
}

function examineLibtorch(advice: string[]): LibTorch | null {
  try {
    const { libtorch, passedOver } = findLibtorch();
    for (const place of passedOver) advice.push(`LibTorch passed over: ${place}`);
    if (!libtorch) advice.push(`No LibTorch: run \`npx neva setup\`, which does: ${fetchCommand()}`);
    return libtorch;
  } catch (error) {
    if (!isUserError(error)) throw error;
    advice.push(error.message);
    return null;
  }
}

function examineAddon(
  libtorch: LibTorch | null,
  advice: string[],
): { addon: Findings['addon']; threads: number | null } {
  if (!libtorch) return { addon: null, threads: null };
  const path = addonPath(libtorch);
  const unbuilt = (state: 'missing' | 'out of date') => {
    advice.push(`The addon is ${state}: npx neva setup (the training verbs do it by themselves)`);
    return { addon: { path, state, cpuCapability: null }, threads: null };
  };
  if (!existsSync(path)) return unbuilt('missing');
  if (!addonIsCurrent({ libtorch })) return unbuilt('out of date');
  try {
    const native = loadNative();
    const { cpuCapability } = native.versions();
    return { addon: { path, state: 'loads', cpuCapability }, threads: native.threads() };
  } catch (error) {
    advice.push(`The addon does not load (${(error as Error).message}): remove ${path} and run npx neva setup`);
    return { addon: { path, state: 'does not load', cpuCapability: null }, threads: null };
  }
}

function examineCompiler(): Findings['compiler'] {
  try {
    const compiler = findCompiler();
    if (!compiler) return null;
    return { path: compiler.program, version: ask(compiler.program, ['--version'])?.split('\n')[0] ?? null };
  } catch {
    return null; // CXX names no compiler: said in the advice for a missing one.
  }
}

function cpuFeatures(): string[] {
  if (!existsSync('/proc/cpuinfo')) return [];
  const flags = /^(?:flags|Features)\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(' ') ?? [];
  return features.filter((feature) => flags.includes(feature));
}

/** Bytes that this process may use: a container's limit where there is one below the machine's memory. */
function memoryLimit(): number {
  const limit = process.constrainedMemory();
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem();
}

const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

/** The findings for a person. */
export function describe(found: Findings): string {
  const { libtorch, addon, cpu } = found;
  const rows: [string, string][] = [
    ['Node', `${found.node} on ${found.platform}`],
    [
      'LibTorch',
      libtorch
        ? `${libtorch.version}, ${libtorch.cuda ? 'with CUDA' : 'CPU only'}, in ${libtorch.root} (${libtorch.source})`
        : 'not found',
    ],
    ['addon', addon ? `${addon.state} (${addon.path})` : 'needs LibTorch first'],
    ['tfjs', describeTfjs(found.tfjs)],
    [
      'JPEGs',
      found.jpeg
        ? `libjpeg-turbo ${found.jpeg}`
        : `sharp; twice as fast after: ${installCommand('jpeg')}, npx neva setup`,
    ],
    ['CPU', `${cpu.model}, ${cpu.cores} cores, ${cpu.features.join(' ') || 'features unknown'}`],
    ...(cpu.torchThreads === null
      ? []
      : ([['torch', `${cpu.torchThreads} threads, kernels for ${addon?.cpuCapability}`]] as [string, string][])),
    ['memory', `${gib(found.memory.freeBytes)} free of ${gib(found.memory.totalBytes)}`],
    [
      'GPU',
      found.gpus.map((gpu) => `${gpu.name}, ${gib(gpu.memoryMiB * 2 ** 20)}, driver ${gpu.driver}`).join('; ') ||
        'none visible',
    ],
    ['Python', found.python ? `${found.python.version} (${found.python.path}); only set-up needs it` : 'not found'],
    ['compiler', found.compiler ? `${found.compiler.version} (${found.compiler.path})` : 'not found'],
  ];
  const advice = found.advice.map((line) => `- ${line}`);
  return [
    ...rows.map(([name, value]) => `${name.padEnd(9)} ${value}`),
    '',
    ...(found.ready ? ['Ready to train.'] : ['Not ready to train with LibTorch.']),
    ...advice,
  ].join('\n');
}
