/**
 * One process per rank on this machine. The first that fails ends all, within a bounded time, and its message is the one
 * that is told; a stop signal reaches every rank; nothing outlives the launcher.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { availableParallelism, hostname } from 'node:os';

export interface LaunchOptions {
  /** Program and arguments of every rank. */
  command: readonly [string, ...string[]];
  /** Ranks on this machine. */
  processes: number;
  /** Machines with as many ranks each, and which of them this is. */
  nodes: number;
  nodeRank: number;
  /** Where rank 0 can be reached; null picks a free port of this machine, for one node. */
  master: { address: string; port: number } | null;
  /** Seconds between the first failure and the end of the ranks that have not ended by themselves. */
  failureTimeout: number;
  env: Readonly<Record<string, string | undefined>>;
  say(line: string): void;
}

/** What a rank tells its launcher before it ends with a failure. */
export interface RankFailure {
  failed: string;
  /** Another rank is the cause. */
  lost: boolean;
}

interface Ended {
  rank: number;
  code: number | null;
  signal: NodeJS.Signals | null;
  failure: RankFailure | null;
}

/** Exit codes that neva's contract knows: the user's mistake, stopped after saving. */
const MISTAKE = 2;
const STOPPED = 143;
const INTERRUPTED = 130;

/** Time in ms for ranks to notice by themselves that one is gone, before they are asked to end. */
const GRACE = 2000;
/** A terminal gives Ctrl-C to the ranks as well: ours must come later, or it would pass for a second one. */
const AFTER_TERMINAL = 200;

/** Starts the ranks, waits for all of them to end, and returns the exit code of the whole. */
export async function launch(options: LaunchOptions): Promise<number> {
  const { processes, nodes, say, failureTimeout } = options;
  const master = options.master ?? { address: '127.0.0.1', port: await freePort() };
  const first = options.nodeRank * processes;
  const children = Array.from({ length: processes }, (_, i) => start(options, first + i, i, master));
  const alive = new Set(children);
  const ended: Ended[] = [];
  const killed = new Set<ChildProcess>();
  const timers: NodeJS.Timeout[] = [];
  let stopping = false;

  const signalAll = (signal: NodeJS.Signals) => {
    for (const child of alive) {
      if (signal === 'SIGKILL') killed.add(child);
      child.kill(signal);
    }
  };
  const endAll = () => {
    if (timers.length > 0) return;
    timers.push(
      setTimeout(() => signalAll('SIGTERM'), GRACE),
      setTimeout(() => signalAll('SIGKILL'), Math.max(GRACE, failureTimeout * 1000)),
    );
  };
  let interrupted = false;
  const onSignal = (signal: NodeJS.Signals) => {
    if (stopping && signal === 'SIGINT') {
      interrupted = true;
      signalAll('SIGKILL');
      return;
    }
    stopping = true;
    setTimeout(() => signalAll('SIGTERM'), signal === 'SIGINT' ? AFTER_TERMINAL : 0);
  };
  const signals = ['SIGTERM', 'SIGINT'] as const;
  for (const signal of signals) process.on(signal, onSignal);
  try {
    await Promise.all(
      children.map(async (child, i) => {
        const end = await endOf(child, first + i);
        alive.delete(child);
        // What the launcher killed itself is no cause of anything.
        if (!killed.has(child)) ended.push(end);
        if (!isOrderly(end, stopping)) endAll();
      }),
    );
  } finally {
    for (const timer of timers) clearTimeout(timer);
    for (const signal of signals) process.removeListener(signal, onSignal);
    signalAll('SIGKILL');
  }
  if (interrupted) return INTERRUPTED;
  const failures = ended.filter((end) => !isOrderly(end, stopping));
  if (failures.length > 0) {
    const cause = causeOf(failures);
    if (cause.code === MISTAKE) {
      say(`neva: ${words(cause)}`);
      return MISTAKE;
    }
    const lost = failures.find(({ failure }) => failure?.lost)?.failure;
    // Who lost the others says itself who it is.
    const who = cause.failure?.lost ? '' : `rank ${cause.rank} of ${processes * nodes} on ${hostname()} `;
    say(`neva: ${who}${words(cause)}`);
    // Where the run was when it happened, as another rank saw it.
    if (lost && lost !== cause.failure) say(`  seen by: ${lost.failed}`);
    return 1;
  }
  return ended.some(({ code }) => code !== 0) ? STOPPED : 0;
}

/** Done, or stopped after saving; a rank that was told to stop before it could listen just ends. */
const isOrderly = ({ code, signal }: Ended, stopping: boolean) =>
  code === 0 || code === STOPPED || (stopping && signal === 'SIGTERM');

/** Mistakes first, then ranks that were killed, then those that failed of their own, then those that lost another. */
function causeOf(failures: readonly Ended[]): Ended {
  const weight = ({ code, signal, failure }: Ended) =>
    code === MISTAKE ? 0 : signal !== null ? 1 : failure?.lost ? 3 : 2;
  return failures.reduce((best, each) => (weight(each) < weight(best) ? each : best));
}

function words({ code, signal, failure }: Ended): string {
  if (failure && (code === MISTAKE || failure.lost)) return failure.failed;
  if (signal !== null) return `was killed by ${signal}${signal === 'SIGKILL' ? ' (out of memory?)' : ''}`;
  return failure ? `failed: ${failure.failed}` : `ended with exit code ${code}`;
}

function start(
  { command: [program, ...args], processes, nodes, env }: LaunchOptions,
  rank: number,
  localRank: number,
  master: { address: string; port: number },
): ChildProcess {
  const threads = Math.max(1, Math.floor(availableParallelism() / processes));
  return spawn(program, args, {
    env: {
      OMP_NUM_THREADS: String(threads),
      ...env,
      RANK: String(rank),
      WORLD_SIZE: String(processes * nodes),
      LOCAL_RANK: String(localRank),
      LOCAL_WORLD_SIZE: String(processes),
      MASTER_ADDR: master.address,
      MASTER_PORT: String(master.port),
      NEVA_LAUNCHED: '1',
    },
    // The first rank of a machine speaks for all; the channel lets a rank tell why it fails, and notice our own end.
    stdio: localRank === 0 ? ['ignore', 'inherit', 'inherit', 'ipc'] : ['ignore', 'ignore', 'pipe', 'ipc'],
  });
}

const TAIL = 2000;

function endOf(child: ChildProcess, rank: number): Promise<Ended> {
  let failure: RankFailure | null = null;
  let tail = '';
  child.on('message', (message: RankFailure) => {
    failure = message;
  });
  child.stderr?.on('data', (piece: Buffer) => {
    tail = (tail + piece.toString()).slice(-TAIL);
  });
  return new Promise((resolve) => {
    child.once('error', (error) =>
      resolve({ rank, code: 1, signal: null, failure: { failed: error.message, lost: false } }),
    );
    child.once('close', (code, signal) => {
      const last = tail.trimEnd().split('\n').at(-1) ?? '';
      failure ??= last === '' || code === 0 ? null : { failed: last, lost: false };
      resolve({ rank, code, signal, failure });
    });
  });
}

function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
