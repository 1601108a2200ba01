/**
 * Where LibTorch is: `NEVA_LIBTORCH`, the `torch` package of the `python3` on PATH, or the project's own `.libtorch/`,
 * in this order. Python is asked once, for a path; it never imports torch and is not needed after set-up.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { mistake } from '../../errors.ts';
import { packageRoot } from '../../root.ts';
import { ask, type Environment, findProgram, installCommand, runProgram } from './tools.ts';

/** The release that set-up fetches, and that neva is tested with. */
export const TORCH_VERSION = '2.13.0';
/** Older wheels were built with the old C++ ABI, and lack operators that neva calls. */
const OLDEST = [2, 7] as const;

export interface LibTorch {
  /** The folder with include/ and lib/. */
  root: string;
  includeDirs: string[];
  libDir: string;
  /** As torch writes it: `2.13.0+cpu`. */
  version: string;
  cuda: boolean;
  /** Folders with the headers that NCCL needs, for a CUDA build; null where they are not on this machine. */
  ncclIncludes: string[] | null;
  cxx11Abi: boolean;
  source: 'NEVA_LIBTORCH' | 'python3' | '.libtorch';
}

export interface LookedFor {
  libtorch: LibTorch | null;
  /** Places that were looked at and passed over, each with the reason. */
  passedOver: string[];
}

export interface Where {
  env?: Environment;
  projectRoot?: string;
}

const ownFolder = (projectRoot: string) => join(projectRoot, '.libtorch');

/** What stands at `root`, or the reason why it cannot be used. */
function inspect(root: string, source: LibTorch['source'], env: Environment): LibTorch | string {
  const include = join(root, 'include');
  const libDir = join(root, 'lib');
  const library = process.platform === 'darwin' ? 'libtorch_cpu.dylib' : 'libtorch_cpu.so';
  for (const needed of [join(include, 'ATen/core/dispatch/Dispatcher.h'), join(libDir, library)]) {
    if (!existsSync(needed)) return `${needed} is missing`;
  }
  const version = readVersion(root);
  if (version === null) return `neither version.py nor build-version under ${root} names a version`;
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1])) {
    return `it is torch ${version}, and neva needs ${OLDEST.join('.')} or newer`;
  }
  const cuda = existsSync(join(libDir, 'libtorch_cuda.so'));
  return {
    root,
    includeDirs: [include, join(include, 'torch/csrc/api/include')],
    libDir,
    version,
    cuda,
    ncclIncludes: cuda ? ncclIncludes(root, env) : null,
    cxx11Abi: usesCxx11Abi(root),
    source,
  };
}

/**
 * Where `nccl.h` and `cuda_runtime_api.h` are: in NVIDIA's packages beside torch's, whose version torch was built with, or
 * else in an installed CUDA. Null unless both are found.
 */
export function ncclIncludes(root: string, env: Environment, system = ['/usr/local/cuda', '/usr']): string[] | null {
  const nvidia = join(dirname(root), 'nvidia');
  const packages = existsSync(nvidia) ? readdirSync(nvidia).map((name) => join(nvidia, name, 'include')) : [];
  const installed = [env.NCCL_HOME, env.CUDA_HOME, env.CUDA_PATH, ...system].flatMap((home) =>
    home ? [join(home, 'include')] : [],
  );
  const found = ['nccl.h', 'cuda_runtime_api.h'].map((header) =>
    [...packages, ...installed].find((folder) => existsSync(join(folder, header))),
  );
  if (found.includes(undefined)) return null;
  // Other libraries' headers, which torch's mention, may lie in packages of their own.
  return [...new Set([...(found as string[]), ...packages])];
}

/** Python's package says it in version.py, the zip of LibTorch in build-version. */
function readVersion(root: string): string | null {
  const python = join(root, 'version.py');
  if (existsSync(python)) return /^__version__ = '([^']+)'/m.exec(readFileSync(python, 'utf8'))?.[1] ?? null;
  const zip = join(root, 'build-version');
  return existsSync(zip) ? readFileSync(zip, 'utf8').trim() || null : null;
}

/** Only builds with the old ABI say so in their CMake files; since 2.7 every released build has the new one. */
function usesCxx11Abi(root: string): boolean {
  const config = join(root, 'share/cmake/Torch/TorchConfig.cmake');
  return !existsSync(config) || !readFileSync(config, 'utf8').includes('_GLIBCXX_USE_CXX11_ABI=0');
}

/** What each python3 answered: asked once a process, as its start takes 50 ms and more. */
const answers = new Map<string, string | null>();

/** Folder of the `torch` package that `python3` would import, found without importing it. */
function torchOfPython(env: Environment): string | null {
  const python = findProgram('python3', env);
  if (!python) return null;
  const known = answers.get(python);
  if (known !== undefined) return known;
  const code = "import importlib.util as u; s = u.find_spec('torch'); print(s.origin if s and s.origin else '')";
  const origin = ask(python, ['-c', code], env);
  const folder = origin ? dirname(origin) : null;
  answers.set(python, folder);
  return folder;
}

/**
 * Looks in the three places. A place that holds no usable LibTorch is passed over with its reason — except
 * `NEVA_LIBTORCH`, which was asked for by name: a user error if it cannot be used.
 */
export function findLibtorch({ env = process.env, projectRoot = packageRoot }: Where = {}): LookedFor {
  const named = env.NEVA_LIBTORCH;
  if (named) {
    const root = resolve(named);
    const found = existsSync(root) ? inspect(root, 'NEVA_LIBTORCH', env) : `${root} does not exist`;
    if (typeof found !== 'string') return { libtorch: found, passedOver: [] };
    throw mistake({
      where: 'NEVA_LIBTORCH',
      problem: 'no LibTorch that neva can use is there',
      expected:
        'a folder with include/ and lib/ of torch: an unpacked LibTorch, or the torch folder of a Python installation',
      found: found,
      fix: 'correct the path, or unset NEVA_LIBTORCH to let neva look for LibTorch itself',
    });
  }
  const passedOver: string[] = [];
  const places: [LibTorch['source'], string | null][] = [
    ['python3', torchOfPython(env)],
    ['.libtorch', join(ownFolder(projectRoot), 'torch')],
  ];
  for (const [source, root] of places) {
    if (root === null || !existsSync(root)) continue;
    const found = inspect(root, source, env);
    if (typeof found !== 'string') return { libtorch: found, passedOver };
    passedOver.push(`${root}: ${found}`);
  }
  return { libtorch: null, passedOver };
}

/** Packages of NVIDIA's libraries that a CUDA build of torch loads at start, from its wheel's metadata. */
export function cudaRequirements(metadata: string): string[] {
  return [...metadata.matchAll(/^Requires-Dist: *((?:nvidia|cuda)-.*)$/gm)]
    .map((match) => match[1]!.trim())
    .filter((requirement) => !/extra *==/.test(requirement));
}

/** The exact command that does by hand what `fetchLibtorch` does. */
export function fetchCommand(projectRoot: string = packageRoot): string {
  return `python3 -m pip install --target ${ownFolder(projectRoot)} torch==${TORCH_VERSION}`;
}

/**
 * Installs torch's wheel into `<project>/.libtorch` with pip, without the Python packages that only Python needs.
 * A CUDA wheel also gets NVIDIA's libraries, without which it cannot be loaded. Written beside and renamed.
 */
export async function fetchLibtorch(
  say: (line: string) => void,
  { env = process.env, projectRoot = packageRoot }: Where = {},
): Promise<LibTorch> {
  const python = findProgram('python3', env);
  if (!python) {
    throw mistake({
      where: 'LibTorch',
      problem: 'it is not on this machine, and there is no python3 whose pip could fetch it',
      fix: `${installCommand('python', env)} && ${installCommand('pip', env)}, or set NEVA_LIBTORCH to an unpacked LibTorch`,
    });
  }
  if (ask(python, ['-m', 'pip', '--version'], env) === null) {
    throw mistake({
      where: 'LibTorch',
      problem: `it is not on this machine, and ${python} has no pip that could fetch it`,
      fix: `${installCommand('pip', env)}, or set NEVA_LIBTORCH to an unpacked LibTorch`,
    });
  }
  const target = ownFolder(projectRoot);
  const beside = `${target}-${process.pid}.partial`;
  try {
    makeFolder(beside);
    say(`Fetching torch ${TORCH_VERSION} with pip into ${target} (200 MB for the CPU build, much more with CUDA)`);
    await pip(python, beside, ['--no-deps', `torch==${TORCH_VERSION}`], say, projectRoot);
    const metadata = join(beside, `torch-${readVersion(join(beside, 'torch'))}.dist-info/METADATA`);
    const libraries = existsSync(metadata) ? cudaRequirements(readFileSync(metadata, 'utf8')) : [];
    if (existsSync(join(beside, 'torch/lib/libtorch_cuda.so')) && libraries.length > 0) {
      say(`It is a CUDA build: fetching NVIDIA's libraries for it (${libraries.length} packages)`);
      await pip(python, beside, libraries, say, projectRoot);
    }
    const fetched = inspect(join(beside, 'torch'), '.libtorch', env);
    if (typeof fetched === 'string') throw new Error(`pip installed torch, but ${fetched}`);
    rmSync(target, { recursive: true, force: true });
    renameSync(beside, target);
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
  const libtorch = inspect(join(target, 'torch'), '.libtorch', env);
  if (typeof libtorch === 'string') throw new Error(libtorch);
  return libtorch;
}

function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw mistake({
      where: dirname(path),
      problem: `LibTorch cannot be put there (${(error as NodeJS.ErrnoException).code})`,
      fix: 'give yourself the right to write there, or set NEVA_LIBTORCH to a LibTorch that stands elsewhere',
    });
  }
}

async function pip(
  python: string,
  target: string,
  what: string[],
  say: (line: string) => void,
  projectRoot: string,
): Promise<void> {
  const args = ['-m', 'pip', 'install', '--progress-bar', 'off', '--target', target, ...what];
  const { status, output } = await runProgram(python, args, (text) => {
    for (const line of text.split('\n')) if (/^ *(Downloading|Installing)/.test(line)) say(`  ${line.trim()}`);
  });
  if (status === 0) return;
  const reason =
    output
      .split('\n')
      .filter((line) => line.startsWith('ERROR'))
      .at(-1) ?? output.trim().split('\n').at(-1);
  throw mistake({
    where: 'LibTorch',
    problem: `pip could not fetch torch ${TORCH_VERSION}`,
    found: reason?.replace(/^ERROR: */, '') ?? `pip ended with status ${status}`,
    fix: `with a network that reaches a package index: ${fetchCommand(projectRoot)}; or set NEVA_LIBTORCH to an unpacked LibTorch`,
  });
}
