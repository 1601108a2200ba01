/**
 * Builds the addon: `native/*.cpp`, one compiler process a file, linked to `build/neva-<torch version>-<platform>.node`.
 * The compiler is called directly (docs/decisions.md says why there is no CMake); only what changed is compiled again.
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { mistake } from '../../errors.ts';
import { writeFileAtomic } from '../../files.ts';
import { packageRoot } from '../../root.ts';
import { buildJpeg } from '../jpeg.ts';
import { findCompiler, makeFile } from './compiler.ts';
import { fetchLibtorch, findLibtorch, type LibTorch, type Where } from './libtorch.ts';
import { type Environment, installCommand } from './tools.ts';

export interface Addon {
  path: string;
  libtorch: LibTorch;
}

export interface BuildOptions {
  libtorch: LibTorch;
  /** Folder of the C++ sources. */
  nativeDir?: string;
  buildDir?: string;
  env?: Environment;
  say?: (line: string) => void;
}

/** Where the addon for this LibTorch and this machine's kind is built. */
export function addonPath(libtorch: LibTorch, buildDir: string = join(packageRoot, 'build')): string {
  return join(buildDir, `neva-${libtorch.version}-${process.platform}-${process.arch}.node`);
}

interface ObjectFile {
  source: string;
  /** Its name holds a digest of LibTorch and the flags, so that other flags make another file. */
  object: string;
  /** Newest change among the source and the headers of native/ that it includes, in ms. */
  changed: number;
}

interface Plan {
  addon: string;
  /** Text file beside the addon: digest of everything that it was linked from. */
  stamp: string;
  linkKey: string;
  files: ObjectFile[];
  compileFlags: string[];
  linkFlags: string[];
}

const digest = (parts: readonly string[]) => createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 16);

function planBuild({ libtorch, nativeDir, buildDir, env = process.env }: BuildOptions): Plan {
  const native = nativeDir ?? join(packageRoot, 'native');
  const addon = addonPath(libtorch, buildDir);
  const nodeHeaders = (createRequire(import.meta.url)('node-api-headers') as { include_dir: string }).include_dir;
  const mac = process.platform === 'darwin';
  const compileFlags = [
    '-O2',
    '-std=c++20',
    '-fPIC',
    '-Wall',
    // Without it ATen's parallel_for, a template in its headers, would run on one thread.
    ...(mac ? [] : ['-fopenmp']),
    ...(mac ? [] : [`-D_GLIBCXX_USE_CXX11_ABI=${libtorch.cxx11Abi ? 1 : 0}`]),
    ...(libtorch.cuda ? ['-DNEVA_CUDA=1'] : []),
    // For torch's headers, which include Gloo's (native/gloo).
    `-I${native}`,
    // -isystem: the warnings of torch's headers are not ours.
    ...[...libtorch.includeDirs, nodeHeaders].flatMap((folder) => ['-isystem', folder]),
    // Our stand-ins for headers that torch's mention come after all real ones.
    ...(libtorch.ncclIncludes
      ? [
          '-DNEVA_NCCL=1',
          ...libtorch.ncclIncludes.flatMap((folder) => ['-isystem', folder]),
          '-idirafter',
          join(native, 'cuda'),
        ]
      : []),
  ];
  const linkFlags = [
    ...(mac ? ['-bundle', '-undefined', 'dynamic_lookup'] : ['-shared', '-fopenmp']),
    `-L${libtorch.libDir}`,
    `-Wl,-rpath,${libtorch.libDir}`,
    // Nothing of ours names a symbol of the CUDA libraries: as-needed linking would leave their kernels out.
    ...(libtorch.cuda ? ['-Wl,--no-as-needed', '-ltorch_cuda', '-lc10_cuda'] : []),
    '-ltorch_cpu',
    '-lc10',
  ];
  const key = digest([env.CXX ?? '', libtorch.version, ...compileFlags]);
  const names = existsSync(native) ? readdirSync(native).sort() : [];
  const files = names
    .filter((name) => name.endsWith('.cpp'))
    .map((name) => ({
      source: join(native, name),
      object: join(addon.replace(/\.node$/, '-objects'), `${basename(name, '.cpp')}-${key}.o`),
      changed: newestOf(native, name),
    }));
  const linkKey = digest([key, ...linkFlags, ...files.map((file) => file.object)]);
  return { addon, stamp: `${addon}.stamp`, linkKey, files, compileFlags, linkFlags };
}

/** Newest change, in ms, of a source and of what it includes from native/, directly or not. */
function newestOf(native: string, name: string, seen = new Set<string>()): number {
  const path = join(native, name);
  if (seen.has(name) || !existsSync(path)) return 0;
  seen.add(name);
  const included = [...readFileSync(path, 'utf8').matchAll(/^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm)].map(
    ([, header]) => header!,
  );
  return Math.max(statSync(path).mtimeMs, ...included.map((header) => newestOf(native, header, seen)));
}

const modifiedAt = (path: string) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? -1;

const isCompiled = ({ object, changed }: ObjectFile) => modifiedAt(object) >= changed;

function isLinked({ addon, stamp, linkKey, files }: Plan): boolean {
  if (!existsSync(stamp) || readFileSync(stamp, 'utf8').trim() !== linkKey) return false;
  const linked = modifiedAt(addon);
  return files.every((file) => isCompiled(file) && modifiedAt(file.object) <= linked);
}

/** True when the addon exists and nothing that it was built from has changed since. */
export function addonIsCurrent(options: BuildOptions): boolean {
  return isLinked(planBuild(options));
}

/** Builds what is missing or out of date and returns the addon's path; nothing is run when it is current. */
export async function buildAddon(options: BuildOptions): Promise<string> {
  const { env = process.env, say = () => {} } = options;
  const plan = planBuild(options);
  if (isLinked(plan)) return plan.addon;
  if (plan.files.length === 0) throw new Error(`no C++ sources in ${options.nativeDir ?? join(packageRoot, 'native')}`);
  const compiler = findCompiler(env);
  if (!compiler) {
    throw mistake({
      where: 'addon',
      problem: 'there is no C++ compiler to build it with',
      expected: 'g++ 11 or clang++ 14, or newer, on PATH or named by CXX',
      fix: installCommand('compiler', env),
    });
  }
  makeObjectFolder(dirname(plan.files[0]!.object));
  // The largest first: with two at a time, the longest compilation must not begin last.
  const stale = plan.files
    .filter((file) => !isCompiled(file))
    .sort((a, b) => statSync(b.source).size - statSync(a.source).size);
  if (stale.length > 0) say(`Building the addon for torch ${options.libtorch.version}: ${stale.length} C++ files`);
  const startedAt = performance.now();
  await inTurn(stale, Math.min(2, availableParallelism()), async (file) => {
    const fileStartedAt = performance.now();
    const input = ['-c', file.source];
    await makeFile(compiler, file.object, [...plan.compileFlags, ...input], basename(file.source));
    say(`  ${basename(file.source)}  ${seconds(fileStartedAt)}`);
  });
  const objects = plan.files.map((file) => file.object);
  await makeFile(compiler, plan.addon, [...objects, ...plan.linkFlags], basename(plan.addon));
  writeFileAtomic(plan.stamp, `${plan.linkKey}\n`);
  say(`  ${basename(plan.addon)} built in ${seconds(startedAt)}`);
  return plan.addon;
}

/**
 * Finds or fetches LibTorch and builds the addon if it is not current: what every verb that computes does first.
 * Says nothing when there is nothing to do.
 */
export async function ensureAddon(say: (line: string) => void, where: Where = {}): Promise<Addon> {
  const { libtorch: found, passedOver } = findLibtorch(where);
  if (!found) for (const place of passedOver) say(`LibTorch passed over: ${place}`);
  const libtorch = found ?? (await fetchLibtorch(say, where));
  const options: BuildOptions = { libtorch, say };
  if (where.env) options.env = where.env;
  await buildJpeg(say, { env: where.env });
  return { path: await buildAddon(options), libtorch };
}

const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

/** Runs `work` over all items, `width` at a time, in order of the list; stops starting new ones after a failure. */
async function inTurn<T>(items: readonly T[], width: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
      try {
        await work(item);
      } catch (error) {
        queue.length = 0;
        throw error;
      }
    }
  };
  const results = await Promise.allSettled(Array.from({ length: width }, worker));
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

function makeObjectFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw mistake({
      where: path,
      problem: `the addon cannot be built there (${(error as NodeJS.ErrnoException).code})`,
      fix: 'give yourself the right to write there, or run `neva setup` once as the user who owns it',
    });
  }
}
