/** Finding and running the programs that set-up needs: a compiler, Python, pip. */
import { spawn, spawnSync } from 'node:child_process';
import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';

export type Environment = Readonly<Record<string, string | undefined>>;

/** Full path of a program on PATH, or null. A name with a slash is taken as a path. */
export function findProgram(name: string, env: Environment = process.env): string | null {
  const candidates = name.includes('/')
    ? [name]
    : (env.PATH ?? '').split(delimiter).map((folder) => join(folder, name));
  for (const candidate of candidates) {
    try {
      accessSync(candidate, constants.X_OK);
      if (statSync(candidate).isFile()) return candidate;
    } catch {
      // Not here; the next folder of PATH may have it.
    }
  }
  return null;
}

const packageManagers = [
  ['apt-get', 'apt-get install -y', { compiler: 'g++', python: 'python3', pip: 'python3-pip', jpeg: 'libjpeg-dev' }],
  [
    'dnf',
    'dnf install -y',
    { compiler: 'gcc-c++', python: 'python3', pip: 'python3-pip', jpeg: 'libjpeg-turbo-devel' },
  ],
  ['apk', 'apk add', { compiler: 'g++', python: 'python3', pip: 'py3-pip', jpeg: 'libjpeg-turbo-dev' }],
  ['pacman', 'pacman -S', { compiler: 'gcc', python: 'python', pip: 'python-pip', jpeg: 'libjpeg-turbo' }],
  [
    'zypper',
    'zypper install -y',
    { compiler: 'gcc-c++', python: 'python3', pip: 'python3-pip', jpeg: 'libjpeg62-devel' },
  ],
] as const;

/** The command that installs a missing program, or libjpeg-turbo's headers, on this machine. */
export function installCommand(what: 'compiler' | 'python' | 'pip' | 'jpeg', env: Environment = process.env): string {
  if (process.platform === 'darwin' && what === 'compiler') return 'xcode-select --install';
  if (process.platform === 'darwin' && what === 'jpeg') return 'brew install jpeg-turbo';
  if (process.platform === 'darwin') return what === 'python' ? 'brew install python' : 'python3 -m ensurepip';
  const prefix = process.getuid?.() === 0 ? '' : 'sudo ';
  for (const [manager, command, names] of packageManagers) {
    if (findProgram(manager, env)) return `${prefix}${command} ${names[what]}`;
  }
  return `${prefix}apt-get install -y ${packageManagers[0][2][what]}`;
}

/** Standard output of a short command; null when it cannot be run or fails. */
export function ask(program: string, args: readonly string[], env: Environment = process.env): string | null {
  const run = spawnSync(program, args, { encoding: 'utf8', env: { ...env } as NodeJS.ProcessEnv, timeout: 30_000 });
  return run.error || run.status !== 0 ? null : run.stdout.trim();
}

export interface Finished {
  status: number | null;
  /** Standard output and error, interleaved as they came. */
  output: string;
}

/** Runs a long command; every piece of output also goes to `onOutput`. Rejects only when it cannot be started. */
export function runProgram(
  program: string,
  args: readonly string[],
  onOutput: (text: string) => void = () => {},
): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    const take = (piece: Buffer) => {
      const text = piece.toString('utf8');
      output += text;
      onOutput(text);
    };
    child.stdout.on('data', take);
    child.stderr.on('data', take);
    child.on('error', reject);
    child.on('close', (status) => resolve({ status, output }));
  });
}
