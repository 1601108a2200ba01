// Compiles the TypeScript sources into dist/ with the project's own compiler. Used by `npm run build`, by
// scripts/test.js, and by bin/neva.js in a clone whose dist/ is missing or older than its sources.
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, renameSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, 'dist');
const stamp = join(dist, '.built');

/** True when dist/ is missing or something under src/ has changed since it was built: one stat a file, a few ms. */
export function isStale() {
  const built = statSync(stamp, { throwIfNoEntry: false });
  if (!built) return true;
  const changed = (path) => statSync(path).mtimeMs > built.mtimeMs;
  if (changed(join(root, 'tsconfig.json'))) return true;
  const source = join(root, 'src');
  // A folder's own time changes when a file in it is removed or renamed.
  return changed(source) || readdirSync(source, { recursive: true }).some((name) => changed(join(source, name)));
}

/** Compiles everything; returns the compiler's exit status, having printed what it said. */
export function build() {
  let compiler;
  try {
    compiler = join(dirname(createRequire(join(root, 'package.json')).resolve('typescript/package.json')), 'bin/tsc');
  } catch {
    console.error('neva: the TypeScript compiler is not installed; run `npm ci` in the folder of neva first.');
    return 2;
  }
  // Beside, then swapped: a second neva started meanwhile never sees half a dist/, and outputs of removed sources go.
  const fresh = `${dist}-${process.pid}-new`;
  const old = `${dist}-${process.pid}-old`;
  const startedAt = new Date();
  try {
    const run = spawnSync(process.execPath, [compiler, '-p', root, '--outDir', fresh], { encoding: 'utf8' });
    if (run.error) throw run.error;
    if (run.status !== 0) {
      console.error(`neva: the TypeScript sources do not compile:\n${run.stdout}${run.stderr}`);
      return 1;
    }
    bundleConfig(fresh);
    const mark = join(fresh, '.built');
    writeFileSync(mark, `${startedAt.toISOString()}\n`);
    // The time of the start: a source saved while the compiler ran counts as newer.
    utimesSync(mark, startedAt, startedAt);
    if (existsSync(dist)) renameSync(dist, old);
    renameSync(fresh, dist);
    return 0;
  } finally {
    rmSync(fresh, { recursive: true, force: true });
    rmSync(old, { recursive: true, force: true });
  }
}

/**
 * src/config and the YAML reader as one file in the place of its index.js: every start composes a configuration, and
 * to load a hundred small modules takes longer than to compose it (docs/decisions.md has the figures).
 */
function bundleConfig(output) {
  const entry = join(output, 'src', 'config', 'index.js');
  if (!existsSync(entry)) return;
  const { buildSync } = createRequire(join(root, 'package.json'))('esbuild');
  buildSync({
    entryPoints: [entry],
    outfile: entry,
    allowOverwrite: true,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    sourcemap: true,
    logLevel: 'warning',
    // The YAML reader is CommonJS, and asks for modules of Node's.
    banner: { js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" },
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = build();
