/**
 * One process at a time: a file that says who holds a folder. Whose process is gone, on this machine, or gives no sign of life,
 * on another, has left it behind.
 */
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { Worker } from 'node:worker_threads';
import { mistake } from './errors.ts';
import { besideName } from './files.ts';

/** What the file says of its holder. */
export interface Holder {
  pid: number;
  host: string;
  /** When that process began, as the kernel counts it: another process may have got its number since. Null where unknown. */
  born: string | null;
  since: string;
}

export interface Lock {
  release(): void;
}

/** The holder touches the file every so often, also while it computes: a thread of its own does it. */
const BEAT_MS = 5000;
/** Without a touch in this time a holder on another machine is gone. */
const SILENT_MS = 30_000;

/**
 * Takes the lock `path`, which stands in a folder that is there. Throws a user error that says who holds it.
 * @param what the holder does in this folder: "a sweep runs"
 */
export async function takeLock(path: string, what: string, silentMs = SILENT_MS): Promise<Lock> {
  const own: Holder = {
    pid: process.pid,
    host: hostname(),
    born: bornAt(process.pid),
    since: new Date().toISOString(),
  };
  const text = `${JSON.stringify(own)}\n`;
  while (!createdWith(path, text)) {
    const found = readOrNull(path);
    if (found === null) continue;
    if (await isHeld(path, found, own.host, silentMs)) throw held(path, found, what);
    removeStale(path, found);
  }
  const beats = beat(path);
  return {
    release() {
      void beats.terminate();
      // Nobody's but ours: it may have been taken for stale while this machine was cut off.
      if (readOrNull(path) === text) rmSync(path, { force: true });
    },
  };
}

function createdWith(path: string, text: string): boolean {
  try {
    writeFileSync(path, text, { flag: 'wx' });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
}

function readOrNull(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

function parse(text: string): Holder | null {
  try {
    const { pid, host, born = null, since } = JSON.parse(text) as Partial<Holder>;
    return typeof pid === 'number' && typeof host === 'string' && typeof since === 'string'
      ? { pid, host, born, since }
      : null;
  } catch {
    return null;
  }
}

/** A holder on this machine is looked for; for one on another, or one that has only begun to write, the file is watched. */
async function isHeld(path: string, text: string, host: string, silentMs: number): Promise<boolean> {
  const holder = parse(text);
  if (holder?.host === host) return isAlive(holder);
  const touched = () => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? null;
  const before = touched();
  for (const end = performance.now() + silentMs; performance.now() < end; ) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(500, silentMs)));
    const now = touched();
    if (now === null || readOrNull(path) !== text) return false;
    if (now !== before) return true;
  }
  return false;
}

function isAlive({ pid, born }: Holder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
  const now = bornAt(pid);
  return born === null || now === null || born === now;
}

/** In ticks since the machine started, with the start itself; null where there is no /proc, or no such process. */
export function bornAt(pid: number): string | null {
  try {
    // The second field, the name, may hold spaces and brackets; the 20th after it is the start.
    const ticks = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')[19];
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()} ${ticks}`;
  } catch {
    return null;
  }
}

/** Of two that find the same stale lock, neither removes the other's new one. */
function removeStale(path: string, text: string): void {
  const away = `${besideName(path)}.stale`;
  try {
    renameSync(path, away);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw error;
  }
  // Another has taken it in between: it is theirs.
  if (readOrNull(away) === text) rmSync(away, { force: true });
  else renameSync(away, path);
}

function held(path: string, text: string, what: string): Error {
  const holder = parse(text);
  const who = holder ? `process ${holder.pid} on ${holder.host}, since ${holder.since}` : text.trim().slice(0, 200);
  return mistake({
    where: path,
    problem: `${what} in this folder already`,
    found: who,
    fix: `wait for it, stop it, or choose another folder; if it is long gone, remove ${path}`,
  });
}

function beat(path: string): Worker {
  // As a script and as a module alike.
  const code = `
    const { utimesSync } = process.getBuiltinModule('node:fs');
    const { workerData } = process.getBuiltinModule('node:worker_threads');
    setInterval(() => {
      try { const now = new Date(); utimesSync(workerData.path, now, now); } catch {}
    }, workerData.every);`;
  const worker = new Worker(code, { eval: true, workerData: { path, every: BEAT_MS } });
  worker.unref();
  return worker;
}
