/** A fault of neva's or of the machine's: its stack goes to a file, one line naming it to the terminal. */
import { appendFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inspect } from 'node:util';

const recordedIn = new WeakMap<object, string>();

/** Notes that the stack of this error stands in `file` (a run's log) already. */
export function faultIsIn(error: unknown, file: string): void {
  if (typeof error === 'object' && error !== null) recordedIn.set(error, file);
}

/** Writes the stack to a file unless it stands in one already; returns the line for the terminal. */
export function recordFault(error: unknown): string {
  const first = (error instanceof Error ? error.message : String(error)).split('\n', 1)[0];
  const file = (typeof error === 'object' && error !== null && recordedIn.get(error)) || writeStack(error);
  return `neva: ${first} (${file ? `the whole story is in ${file}` : inspect(error)})`;
}

function writeStack(error: unknown): string | null {
  const file = join(tmpdir(), `neva-fault-${process.pid}.log`);
  try {
    appendFileSync(file, `${new Date().toISOString()} ${process.argv.slice(2).join(' ')}\n${inspect(error)}\n`);
    return file;
  } catch {
    return null;
  }
}
