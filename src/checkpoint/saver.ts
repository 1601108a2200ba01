/** Saving in the background: training waits for the copy of its state, a worker thread writes it. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { mistake } from '../errors.ts';
import { checkpointName } from './folder.ts';
import type { KeepRule } from './prune.ts';
import { buffersOf, type Snapshot } from './write_folder.ts';

export interface ToSaver {
  dir: string;
  snapshot: Snapshot;
  rule: KeepRule;
}
export type FromSaver =
  | { folder: string; seconds: number }
  | { error: { message: string; stack: string | undefined; code: string | undefined } };

export interface SaverOptions {
  /** The run's checkpoints/. */
  dir: string;
  rule: KeepRule;
  onSaved: (folder: string, seconds: number) => void;
  /** A save failed; what was whole before is untouched. A user error where the disk or its permissions are at fault. */
  onFailure: (error: Error) => void;
}

/** At most one checkpoint is being written: memory holds one snapshot besides the one that is being taken. */
export class Saver {
  readonly #options: SaverOptions;
  #worker: Worker | null = null;
  #pending: Promise<void> | null = null;
  #failure: Error | null = null;
  #lastWhole: string | null;

  /** @param lastWhole name of the checkpoint that the run goes on from, for messages */
  constructor(options: SaverOptions, lastWhole: string | null = null) {
    this.#options = options;
    this.#lastWhole = lastWhole;
  }

  /** Why the newest save failed; null once a later one has not. */
  get failure(): Error | null {
    return this.#failure;
  }

  /** Hands a snapshot over: its memory belongs to the worker afterwards. Call `idle` first. */
  save(snapshot: Snapshot): void {
    if (this.#pending) throw new Error('the checkpoint before this one is still being written');
    this.#pending = this.#write(snapshot).finally(() => {
      this.#pending = null;
      this.#worker?.unref();
    });
  }

  /** Resolves when nothing is being written any more. Does not throw: see `failure`. */
  async idle(): Promise<void> {
    await this.#pending;
  }

  /** Waits for what is being written, and ends the worker. Does not throw: see `failure`. */
  async close(): Promise<void> {
    await this.#pending;
    await this.#worker?.terminate();
    this.#worker = null;
  }

  async #write(snapshot: Snapshot): Promise<void> {
    const { dir, rule, onSaved, onFailure } = this.#options;
    try {
      // Flags of the main thread (--input-type, --inspect-brk, …) are not the worker's.
      this.#worker ??= new Worker(new URL('./saver_worker.js', import.meta.url), { execArgv: [] });
      this.#worker.ref();
      const message: ToSaver = { dir, snapshot, rule };
      const { step } = snapshot;
      // `once` rejects when the worker itself dies.
      const answered = once(this.#worker, 'message');
      this.#worker.postMessage(message, buffersOf(snapshot));
      const [answer] = (await answered) as [FromSaver];
      if ('error' in answer) throw this.#asError(step, answer.error);
      this.#failure = null;
      this.#lastWhole = checkpointName(step);
      onSaved(answer.folder, answer.seconds);
    } catch (error) {
      this.#failure = error as Error;
      onFailure(this.#failure);
    }
  }

  #asError(step: number, { message, stack, code }: Extract<FromSaver, { error: unknown }>['error']): Error {
    const problem = code === undefined ? undefined : PROBLEMS[code];
    if (!problem) return Object.assign(new Error(`checkpoint of step ${step}: ${message}`), { stack });
    const from = this.#lastWhole ? `it goes on from ${this.#lastWhole}` : 'nothing was saved before';
    return mistake({
      where: this.#options.dir,
      problem: `the checkpoint of step ${step} could not be written: ${problem}`,
      found: message,
      fix: `mend that, and start the same command again (${from}); exp_manager.on_save_error=continue trains on without`,
    });
  }
}

/** What a user can mend. */
const PROBLEMS: Record<string, string> = {
  ENOSPC: 'the disk is full',
  EDQUOT: 'the quota is used up',
  EACCES: 'permission denied',
  EPERM: 'permission denied',
  EROFS: 'the disk is read-only',
  ENOTDIR: 'there is a file where a folder is needed',
  EEXIST: 'there is a file where a folder is needed',
  ENAMETOOLONG: 'the path is too long',
};
