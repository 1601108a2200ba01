/**
 * One process per rank on this machine. The first that fails ends all, within a bounded time, and its message is the one
 * that is told; all can be started again then; a stop signal reaches every rank; nothing outlives the launcher.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';
import { availableParallelism, hostname } from 'node:os';
import type { Cores } from './numa.ts';

export interface LaunchOptions {
  /** Program and arguments of every rank; `folder`, when they are started again, is the run folder that they go on in. */
  command(folder: string | null): readonly [string, ...string[]];
  /** Ranks on this machine. */
  processes: number;
  /** Machines with as many ranks each, and which of them this is. */
  nodes: number;
  nodeRank: number;
  /** Where rank 0 can be reached; null picks a free port of this machine, for one node. */
  master: { address: string; port: number } | null;
  /** Seconds between the first failure and the end of the ranks that have not ended by themselves. */
  failureTimeout: number;
  /** How many times all ranks are started again after a failure; null leaves it to what they say (RankNews). */
  maxRestarts: number | null;
  /** Of each local rank; null leaves them where the system puts them. */
  cores: readonly Cores[] | null;
  env: Readonly<Record<string, string | undefined>>;
  say(line: string): void;
}

/** What a rank tells its launcher before it ends with a failure. */
export interface RankFailure {
  failed: string;
  /** Another rank is the cause. */
  lost: boolean;
  /** And the text says which. */
  named?: boolean;
}

/** What a rank tells its launcher while all is well; the launcher keeps the last that it heard of each. */
export interface RankNews {
  /** trainer.max_restarts. */
  maxRestarts?: number;
  /** The run folder, from rank 0. */
  folder?: string;
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

/** A person or a supervisor wants the whole to end. */
interface Stop {
  asked: boolean;
  /** A second Ctrl-C. */
  atOnce: boolean;
  signalAll(signal: NodeJS.Signals): void;
}

/**
 * Starts the ranks, waits for all of them to end, starts them again after a failure as often as it may, and returns the
 * exit code of the whole. A mistake of the user's would come again, and a stop was asked for: they are final.
 */
export async function launch(options: LaunchOptions): Promise<number> {
  const stop: Stop = { asked: false, atOnce: false, signalAll() {} };
  const onSignal = (signal: NodeJS.Signals) => {
    stop.atOnce ||= stop.asked && signal === 'SIGINT';
    stop.asked = true;
    if (stop.atOnce) stop.signalAll('SIGKILL');
    else setTimeout(() => stop.signalAll('SIGTERM'), signal === 'SIGINT' ? AFTER_TERMINAL : 0);
  };
  const signals = ['SIGTERM', 'SIGINT'] as const;
  for (const signal of signals) process.on(signal, onSignal);
  try {
    const news: RankNews = {};
    for (let restart = 1; ; restart++) {
      const code = await runOnce(options, news, stop);
      const most = options.maxRestarts ?? news.maxRestarts ?? 0;
      if (code !== 1 || stop.asked) return code;
      if (restart > most) {
        if (most > 0) options.say(`neva: it failed again after ${most} restart${most === 1 ? '' : 's'}, which is all`);
        return code;
      }
      const where = news.folder === undefined ? '' : `, from the last checkpoint in ${news.folder}`;
      options.say(`neva: restart ${restart} of ${most}: all ranks begin again${where}`);
      // On another machine ranks may still be ending, and among them the store that ours must not meet at.
      if (options.nodes > 1) await pause(options.failureTimeout, stop);
      if (stop.asked) return STOPPED;
    }
  } finally {
    for (const signal of signals) process.removeListener(signal, onSignal);
  }
}

async function pause(seconds: number, stop: Stop): Promise<void> {
  for (const end = performance.now() + seconds * 1000; performance.now() < end && !stop.asked; ) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function runOnce(options: LaunchOptions, news: RankNews, stop: Stop): Promise<number> {
  const { processes, nodes, say, failureTimeout } = options;
  const master = options.master ?? { address: '127.0.0.1', port: await freePort() };
  const first = options.nodeRank * processes;
  const command = options.command(news.folder ?? null);
  const children = Array.from({ length: processes }, (_, i) => start(options, command, first + i, i, master));
  const alive = new Set(children);
  const ended: Ended[] = [];
  const killed = new Set<ChildProcess>();
  const timers: NodeJS.Timeout[] = [];

  const signalAll = (signal: NodeJS.Signals) => {
    for (const child of alive) {
      if (signal === 'SIGKILL') killed.add(child);
      child.kill(signal);
    }
  };
  stop.signalAll = signalAll;
  const endAll = () => {
    if (timers.length > 0) return;
    timers.push(
      setTimeout(() => signalAll('SIGTERM'), GRACE),
      setTimeout(() => signalAll('SIGKILL'), Math.max(GRACE, failureTimeout * 1000)),
    );
  };
  try {
    await Promise.all(
      children.map(async (child, i) => {
        const end = await endOf(child, first + i, news);
        alive.delete(child);
        // What the launcher killed itself is no cause of anything.
        if (!killed.has(child)) ended.push(end);
        if (!isOrderly(end, stop.asked)) endAll();
      }),
    );
  } finally {
    for (const timer of timers) clearTimeout(timer);
    signalAll('SIGKILL');
  }
  if (stop.atOnce) return INTERRUPTED;
  const failures = ended.filter((end) => !isOrderly(end, stop.asked));
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

/** Mistakes first, then ranks that were killed, that failed of their own, that know which other failed, that lost another. */
function causeOf(failures: readonly Ended[]): Ended {
  const weight = ({ code, signal, failure }: Ended) =>
    code === MISTAKE ? 0 : signal !== null ? 1 : !failure?.lost ? 2 : failure.named ? 3 : 4;
  return failures.reduce((best, each) => (weight(each) < weight(best) ? each : best));
}

function words({ code, signal, failure }: Ended): string {
  if (failure && (code === MISTAKE || failure.lost)) return failure.failed;
  if (signal !== null) return `was killed by ${signal}${signal === 'SIGKILL' ? ' (out of memory?)' : ''}`;
  return failure ? `failed: ${failure.failed}` : `ended with exit code ${code}`;
}

function start(
  { processes, nodes, cores, env }: LaunchOptions,
  command: readonly [string, ...string[]],
  rank: number,
  localRank: number,
  master: { address: string; port: number },
): ChildProcess {
  const own = cores?.[localRank];
  const threads = own?.threads ?? Math.max(1, Math.floor(availableParallelism() / processes));
  // The prefix becomes the rank itself (exec): its process id and its channel to us stay.
  const [program = '', ...args] = [...(own?.prefix ?? []), ...command];
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

function endOf(child: ChildProcess, rank: number, news: RankNews): Promise<Ended> {
  let failure: RankFailure | null = null;
  let tail = '';
  child.on('message', (message: RankFailure | RankNews) => {
    if ('failed' in message) failure = message;
    else Object.assign(news, message);
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

/** A TCP port of this machine that nobody listens at now. */
export function freePort(): Promise<number> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
