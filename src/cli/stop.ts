/** SIGTERM and Ctrl-C while training: the first asks for an orderly end, a second Ctrl-C ends at once. */

/** Exit code of a run that was stopped and has saved. */
export const STOPPED = 143;

export interface StopRequest {
  signal: AbortSignal;
  /** Gives the signals back to Node's defaults. */
  release(): void;
}

export function onStopSignals(say: (line: string) => void): StopRequest {
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
    for (const name of names) process.removeListener(name, handle);
  };
  for (const name of names) process.on(name, handle);
  return { signal: controller.signal, release };
}
