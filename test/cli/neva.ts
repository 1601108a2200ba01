import { type SpawnSyncReturns, spawnSync } from 'node:child_process';

const main = new URL('../../src/cli/main.js', import.meta.url).href;
const code = `import { main } from ${JSON.stringify(main)}; process.exitCode = await main(process.argv.slice(1));`;

/** Arguments for node that run neva as compiled beside this file, as bin/neva.js does from dist/. */
export const nevaArgs = (args: readonly string[]) => ['--input-type=module', '-e', code, '--', ...args];

/** Runs one command line to its end. */
export function neva(
  args: readonly string[],
  options: { cwd?: string; env?: Record<string, string | undefined>; input?: string } = {},
): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, nevaArgs(args), {
    encoding: 'utf8',
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.input === undefined ? {} : { input: options.input }),
    env: { ...process.env, ...options.env },
  });
}
