/** SIGTERM, Ctrl-C and trainer.max_time while training: the first asks for an orderly end, a second Ctrl-C ends at once. */
import { mistake } from '../errors.ts';

/** Exit code of a run that was stopped and has saved. */
export const STOPPED = 143;

export interface StopRequest {
  signal: AbortSignal;
  /** Gives the signals back to Node's defaults. */
  release(): void;
}

/** Longest wait that timers know, 24 days and 20 hours. */
const LONGEST_MS = 2 ** 31 - 1;

/** trainer.max_time, `DD:HH:MM:SS`, in milliseconds; null where there is none. */
export function timeLimit(text: string | null): number | null {
  if (text === null) return null;
  const [, days, hours, minutes, seconds] = /^(\d+):(\d\d):([0-5]\d):([0-5]\d)$/.exec(text)?.map(Number) ?? [];
  const ms = (((days! * 24 + hours!) * 60 + minutes!) * 60 + seconds!) * 1000;
  if (ms > 0 && ms <= LONGEST_MS) return ms;
  throw mistake({
    where: 'trainer.max_time',
    problem: 'not a time limit',
    expected: 'DD:HH:MM:SS above 0 and below 24 days, e.g. 00:03:50:00 for 3 hours 50 minutes',
    found: text,
  });
}

/** @param limit milliseconds from now on after which the run is asked to stop as by a signal */
export function onStopSignals(say: (line: string) => void, limit: number | null = null): StopRequest {
  const controller = new AbortController();
  const names = ['SIGTERM', 'SIGINT'] as const;
  const handle = (name: NodeJS.Signals) => {
    if (controller.signal.aborted) {
      // SIGTERM may come twice from a supervisor that is in no hurry; a second Ctrl-C is a person who is.
      if (name !== 'SIGINT') return;
      release();
      process.kill(process.pid, 'SIGINT');
      return;
    }
    say(
      `${name === 'SIGINT' ? 'Ctrl-C' : 'SIGTERM'}: finishing this step and saving${name === 'SIGINT' ? ' (once more to stop at once)' : ''}`,
    );
    controller.abort();
  };
  const release = () => {
    clearTimeout(timer);
    for (const name of names) process.removeListener(name, handle);
  };
  for (const name of names) process.on(name, handle);
  const timer = setTimeout(() => {
    if (controller.signal.aborted) return;
    say('trainer.max_time is up: finishing this step and saving');
    controller.abort();
  }, limit ?? LONGEST_MS).unref();
  if (limit === null) clearTimeout(timer);
  return { signal: controller.signal, release };
}
