import type { Command } from 'commander';

export function define(command: Command): void {
  command.option('--json', 'print the findings as one JSON object').action(async (flags: { json?: boolean }) => {
    const { examine, describe } = await import('./examine.ts');
    const findings = examine();
    console.log(flags.json ? JSON.stringify(findings, null, 2) : describe(findings));
  });
}
