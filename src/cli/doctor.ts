/** `neva doctor`: what is here and what is missing; `--distributed`: whether ranks reach one another, and how fast. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { mistake } from '../errors.ts';
import { type Place, readPlace } from '../parallel/environment.ts';
import type { SelfTest } from '../parallel/self_test.ts';
import { endWithLauncher, isLaunched, launchRanks, ownGpu, tellLauncher } from './ranks.ts';
import { table } from './table.ts';

interface Flags {
  json?: boolean;
  distributed?: boolean;
  nproc: number;
  timeout: number;
  accelerator: string;
}

const say = (line: string) => void process.stderr.write(`${line}\n`);

const whole = (least: number) => (text: string) => {
  if (/^\d+$/.test(text) && Number(text) >= least) return Number(text);
  throw new InvalidArgumentError(`expected a whole number of at least ${least}`);
};

export function define(command: Command): void {
  command
    .option('--json', 'print the findings as one JSON object')
    .option(
      '--distributed',
      'test messages between ranks instead: right, and how fast; also under neva launch, srun, …',
    )
    .option('--nproc <n>', 'with --distributed: ranks on this machine', whole(2), 2)
    .option('--timeout <seconds>', 'with --distributed: until a rank that does not come is given up', whole(1), 60)
    .addOption(
      new Option(
        '--accelerator <device>',
        'with --distributed: what the messages are on; auto: GPUs where there are any',
      )
        .choices(['auto', 'gpu', 'cpu'])
        .default('auto'),
    )
    .action(async (flags: Flags) => {
      if (flags.distributed) {
        await distributed(flags);
        return;
      }
      const { examine, describe } = await import('./examine.ts');
      const findings = examine();
      console.log(flags.json ? JSON.stringify(findings, null, 2) : describe(findings));
    });
}

async function distributed({ json, nproc, timeout, accelerator }: Flags): Promise<void> {
  const place = readPlace(process.env);
  if (place !== null) {
    await testAsRank(place, timeout, accelerator, json === true);
    return;
  }
  if (isLaunched()) {
    throw mistake({ where: 'doctor --distributed', problem: 'one rank has nobody to reach', expected: '--nproc 2' });
  }
  const { ensureAddon } = await import('../engine/torch/build.ts');
  await ensureAddon(say);
  const words = ['doctor', '--distributed', '--timeout', String(timeout), '--accelerator', accelerator];
  if (json) words.push('--json');
  process.exitCode = await launchRanks({ devices: nproc, failure_timeout: timeout, max_restarts: 0 }, words, say);
}

async function testAsRank(place: Place, timeout: number, accelerator: string, json: boolean): Promise<void> {
  const leads = place.rank === 0;
  const print = (found: object, text: string) => {
    if (leads) console.log(json ? JSON.stringify(found, null, 2) : text);
  };
  try {
    const { openEngine } = await import('../engine/open.ts');
    const { joinGroup } = await import('../parallel/group.ts');
    endWithLauncher();
    const choice = { engine: 'torch', tfjs_backend: 'auto', accelerator, num_threads: null };
    const gpu = await ownGpu(place, choice);
    const group = await joinGroup(place, timeout, process.env, gpu);
    const { selfTest } = await import('../parallel/self_test.ts');
    const found = selfTest(await openEngine(choice, gpu ?? 0), group);
    print(found, describe(found));
    group.close();
    if (!found.ok) fail(place, found);
  } catch (error) {
    // Who reads JSON learns of it there too; everyone else from the exception.
    if (json) print({ ok: false, problems: [{ rank: place.rank, text: (error as Error).message }] }, '');
    throw error;
  }
}

/** Results are wrong. A rank that has none of these itself does not stand in the way of the one that has. */
function fail(place: Place, { problems }: SelfTest): void {
  const own = problems.find(({ rank }) => rank === place.rank);
  const { text } = own ?? problems[0]!;
  if (!tellLauncher(text, own === undefined) && place.rank === 0) console.error(`neva: ${text}`);
  process.exitCode = 1;
}

export function describe({ ok, hosts, bandwidth, problems }: SelfTest): string {
  const rows = bandwidth.map(({ collective, bytes, ms, gb_per_s: rate, bus_gb_per_s: bus }) => [
    collective,
    (bytes / 1e6).toFixed(2),
    ms.toFixed(3),
    rate.toFixed(2),
    bus.toFixed(2),
  ]);
  const ranksOn = [...new Set(hosts)].map((host) => {
    const ranks = hosts.flatMap((each, rank) => (each === host ? [rank] : []));
    return `${host} (rank${ranks.length === 1 ? '' : 's'} ${ranks.join(', ')})`;
  });
  return [
    `${hosts.length} ranks on ${ranksOn.join(', ')}, through Gloo on CPUs`,
    '',
    table(['collective', 'MB', 'ms', 'GB/s', 'bus GB/s'], rows),
    '',
    ...(ok ? ['Every link and every collective gave what it should.'] : ['WRONG RESULTS']),
    ...problems.map(({ text }) => `- ${text}`),
  ].join('\n');
}
