/**
 * A mistake that the user can mend: the command line prints the message alone and exits with 2.
 * Anything else that is thrown is a fault of neva's or the machine's: stack to the log file, exit 1.
 *
 * `userError` is a property and not the class's identity, so that `src/config` — which imports nothing of ours —
 * can throw errors of its own kind that are treated alike.
 */
export class UserError extends Error {
  readonly userError = true;
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'UserError';
  }
}

export interface Mistake {
  /** The key, path or record that is wrong. */
  where: string;
  /** What is wrong, in one clause. */
  problem: string;
  expected?: string;
  found?: string;
  /** What to do about it: a command, a key to change. */
  fix?: string;
}

/** The one form in which mistakes are reported: where, what, expected, found, what to do. */
export function mistake({ where, problem, expected, found, fix }: Mistake): UserError {
  const lines = [`${where}: ${problem}`];
  if (expected !== undefined) lines.push(`  expected: ${expected}`);
  if (found !== undefined) lines.push(`  found:    ${found}`);
  if (fix !== undefined) lines.push(`  fix:      ${fix}`);
  return new UserError(lines.join('\n'));
}

export function isUserError(error: unknown): error is Error {
  return error instanceof Error && (error as { userError?: unknown }).userError === true;
}
