/**
 * A mistake in an override, a configuration file or a value. The twin of `UserError` in src/errors.ts: this folder
 * imports nothing else of ours, so that it can be used on its own, and the two are told by `userError`.
 */
export class ConfigError extends Error {
  readonly userError = true;
  constructor(message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'ConfigError';
  }
}

/** The form of every message: where, what; then expected, found, origin and what to do, each on its line if known. */
export function problem(
  where: string,
  what: string,
  details: { expected?: string; found?: string; from?: string; fix?: string } = {},
): string {
  const lines = [`${where}: ${what}`];
  if (details.expected !== undefined) lines.push(`  expected: ${details.expected}`);
  if (details.found !== undefined) lines.push(`  found:    ${details.found}`);
  if (details.from !== undefined) lines.push(`  from:     ${details.from}`);
  if (details.fix !== undefined) lines.push(`  fix:      ${details.fix}`);
  return lines.join('\n');
}
