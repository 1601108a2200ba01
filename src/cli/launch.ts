/** `neva launch`: a verb on several ranks, on this machine or, started once on each, on several. */
import { type Command, InvalidArgumentError } from 'commander';
import { mistake } from '../errors.ts';
import { goingOn, rankCommand } from './ranks.ts';

interface Flags {
  nproc: number;
  nnodes: number;
  nodeRank: number;
  rdzv?: string;
  failureTimeout: number;
  maxRestarts?: number;
}

const VERBS = ['pretrain', 'finetune', 'doctor'];
const say = (line: string) => void process.stderr.write(`${line}\n`);

function whole(least: number) {
  return (text: string): number => {
    if (/^\d+$/.test(text) && Number(text) >= least) return Number(text);
    throw new InvalidArgumentError(`expected a whole number of at least ${least}`);
  };
}

export function define(command: Command): void {
  command
    .argument('<verb>', 'what every rank runs: pretrain, finetune, or doctor --distributed')
    .argument('[args...]', "the verb's flags and overrides")
    .requiredOption('--nproc <n>', 'ranks on this machine', whole(1))
    .option('--nnodes <n>', 'machines, with as many ranks each', whole(1), 1)
    .option('--node-rank <n>', 'number of this machine, from 0', whole(0), 0)
    .option('--rdzv <host:port>', 'where the ranks meet: a free port of machine 0')
    .option('--failure-timeout <seconds>', 'until ranks that hang after a failure are killed', whole(1), 60)
    .option(
      '--max-restarts <n>',
      'times that all start again after a failure (default: trainer.max_restarts)',
      whole(0),
    )
    .passThroughOptions()
    .action(async (verb: string, args: string[], flags: Flags) => {
      process.exitCode = await start(verb, args, flags);
    });
}

async function start(verb: string, args: string[], flags: Flags): Promise<number> {
  if (!VERBS.includes(verb)) {
    throw mistake({ where: 'launch', problem: 'this verb has no ranks', expected: VERBS.join(', '), found: verb });
  }
  if (verb === 'doctor' && !args.includes('--distributed')) {
    throw mistake({
      where: 'launch doctor',
      problem: 'without --distributed it looks at one machine',
      expected: 'launch … doctor --distributed',
    });
  }
  const master = meetingPoint(flags);
  const { ensureAddon } = await import('../engine/torch/build.ts');
  // Before the ranks start, or each of them would build it.
  await ensureAddon(say);
  const { launch } = await import('../parallel/launch.ts');
  const { coresOfRanks } = await import('../parallel/numa.ts');
  return launch({
    command: (folder) => rankCommand(goingOn(folder, [verb, ...args])),
    processes: flags.nproc,
    nodes: flags.nnodes,
    nodeRank: flags.nodeRank,
    master,
    failureTimeout: flags.failureTimeout,
    maxRestarts: flags.maxRestarts ?? null,
    cores: coresOfRanks(flags.nproc, say),
    env: process.env,
    say,
  });
}

function meetingPoint({ rdzv, nnodes, nodeRank }: Flags): { address: string; port: number } | null {
  if (nodeRank >= nnodes) {
    throw mistake({
      where: '--node-rank',
      problem: 'there is no such machine',
      expected: `0 to ${nnodes - 1} (--nnodes ${nnodes})`,
      found: String(nodeRank),
    });
  }
  if (rdzv === undefined) {
    if (nnodes === 1) return null;
    throw mistake({
      where: '--rdzv',
      problem: 'not given',
      expected: 'HOST:PORT of machine 0, the same on every machine',
    });
  }
  const [, address, port] = /^\[?(.+?)\]?:(\d+)$/.exec(rdzv) ?? [];
  if (address && Number(port) > 0 && Number(port) < 65_536) return { address, port: Number(port) };
  throw mistake({ where: '--rdzv', problem: 'not an address', expected: 'HOST:PORT', found: rdzv });
}
