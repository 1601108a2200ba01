/** Nevas that a neva starts, one at a time, on the same terminal. */
import { type ChildProcess, spawn } from 'node:child_process';
import { constants } from 'node:os';
import { rankCommand } from './ranks.ts';

const SIGNALS = ['SIGTERM', 'SIGINT'] as const;

/** While one is open, Ctrl-C and SIGTERM end the running child in good order, and are remembered. */
export class Children {
  /** A signal came: nothing more should be started. */
  stopped = false;
  private child: ChildProcess | null = null;
  private readonly handle = () => {
    this.stopped = true;
    // A terminal gives Ctrl-C to the child as well: this must come later, or the child would take that for a second one.
    setTimeout(() => this.child?.kill('SIGTERM'), 200);
  };

  constructor() {
    for (const name of SIGNALS) process.on(name, this.handle);
  }

  release(): void {
    for (const name of SIGNALS) process.removeListener(name, this.handle);
  }

  /** Runs one command line (without `neva`) to its end; the exit code, or as a shell has it, 128 and the signal. */
  run(args: readonly string[], cwd?: string): Promise<number> {
    const [node, ...words] = rankCommand(args);
    const child = spawn(node, words, {
      stdio: 'inherit',
      ...(cwd === undefined ? {} : { cwd }),
    });
    this.child = child;
    return new Promise((done, fail) => {
      child.once('error', fail);
      child.once('close', (code, signal) => {
        this.child = null;
        done(code ?? 128 + constants.signals[signal as NodeJS.Signals]);
      });
    });
  }
}
