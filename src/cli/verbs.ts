/** The table of verbs. A verb's module is loaded when it is asked for, and what it needs when it runs. */
import type { Command } from 'commander';

export interface VerbModule {
  /** Adds the verb's flags, arguments and action. An action that ends well but not with 0 sets `process.exitCode`. */
  define(command: Command): void;
}

export interface Verb {
  name: string;
  help: string;
  load(): Promise<VerbModule>;
}

export const verbs: readonly Verb[] = [
  { name: 'setup', help: 'find or fetch LibTorch and build the addon', load: () => import('./setup.ts') },
  {
    name: 'doctor',
    help: 'say what neva finds on this machine, and what to do about what is missing',
    load: () => import('./doctor.ts'),
  },
];
