/** From the command line to a verb, and from whatever a verb throws to an exit code. */
import { Command, CommanderError } from 'commander';
import { isUserError } from '../errors.ts';
import { packageVersion } from '../root.ts';
import { verbs } from './verbs.ts';

/**
 * Runs one command line (without node and script). Exit codes: 0 done, 2 the user's mistake, 143 stopped after saving,
 * 1 anything else.
 */
export async function main(args: readonly string[]): Promise<number> {
  // `neva config show | head`: the reader has left, which is nobody's fault.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  const name = args.find((arg) => !arg.startsWith('-'));
  const asked = verbs.find((verb) => verb.name === name);
  const program = new Command('neva')
    .description('Trains and runs LLaVA-style vision-language models.')
    .usage('VERB [flags] [overrides…]')
    .helpCommand(false)
    .configureHelp({ showGlobalOptions: false })
    .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'neva: ')) })
    .addHelpText('after', '\n`neva VERB --help` says more. Without overrides, `neva pretrain` trains the bundled demo.')
    .version(packageVersion(), '-V, --version', 'print the version')
    // What stands behind `launch VERB` is that verb's.
    .enablePositionalOptions()
    .exitOverride();
  try {
    for (const verb of verbs) {
      const command = program.command(verb.name, { hidden: verb.hidden === true }).description(verb.help);
      if (verb !== asked) continue;
      const module = await verb.load();
      module.define(command);
      if (module.help && args.some((arg) => arg === '--help' || arg === '-h')) {
        command.addHelpText('after', await module.help());
      }
    }
    if (args.length === 0) program.outputHelp();
    else await program.parseAsync(longFlags(args), { from: 'user' });
    return Number(process.exitCode ?? 0);
  } catch (error) {
    return exitCode(error);
  }
}

/** Hydra's two-letter short flags, which commander would read as one letter and its value. */
const twoLetters: Readonly<Record<string, string>> = {
  cn: '--config-name',
  cp: '--config-path',
  cd: '--config-dir',
};

function longFlags(args: readonly string[]): string[] {
  return args.map((arg) => {
    const [, short = '', value = ''] = /^-(cn|cp|cd)(=.*)?$/.exec(arg) ?? [];
    return short === '' ? arg : `${twoLetters[short]}${value}`;
  });
}

async function exitCode(error: unknown): Promise<number> {
  // Commander has printed its message already; its own code for every mistake is 1.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  const { tellLauncher } = await import('./ranks.ts');
  if (isUserError(error)) {
    if (!tellLauncher(error.message, false)) console.error(`neva: ${error.message}`);
    return 2;
  }
  const { recordFault } = await import('./fault.ts');
  const line = recordFault(error);
  const lost = error instanceof Error && error.name === 'LostRanks';
  const named = lost && (error as { named?: boolean }).named === true;
  if (!tellLauncher(line.replace(/^neva: /, ''), lost, named)) console.error(line);
  return 1;
}
