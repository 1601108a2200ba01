/**
 * Batches prepared by a worker thread while the main thread trains. The main thread spends its time inside native calls,
 * so everything — reading, tokenizing, decoding, collating — happens over there; arrays are handed over, not copied.
 */
import { Worker } from 'node:worker_threads';
import { UserError } from '../errors.ts';
import type { DataOptions, MetProblem } from './pipeline.ts';
import type { GlobalBatch } from './types.ts';

export type { DataOptions, MetProblem };

export interface Loader extends AsyncIterable<GlobalBatch> {
  /** Records of the data set, or packs where they were made beforehand. */
  readonly size: number;
  /** Called for every record that was skipped or replaced, in the order of the batches handed out. */
  onProblem: ((problem: MetProblem) => void) | null;
  /** Records in the batches handed out that were cut to encoder_seq_length. */
  readonly cutRecords: number;
  close(): Promise<void>;
}

export interface WorkerStart {
  options: DataOptions;
  consumedSamples: number;
}
export type ToWorker = 'more' | 'close';
export type FromWorker =
  | { type: 'open'; size: number }
  | { type: 'batch'; batch: GlobalBatch; problems: MetProblem[] }
  | { type: 'error'; message: string; stack?: string; userError: boolean; kind?: string };

/**
 * Opens the data and starts preparing batches from `start.consumedSamples` on, without end: the caller stops.
 * Rejects with a user error where the data, tokenizer or options are wrong.
 */
export async function openLoader(options: DataOptions, start: { consumedSamples: number }): Promise<Loader> {
  const workerData: WorkerStart = { options, consumedSamples: start.consumedSamples };
  // Flags of the main thread (--input-type, --inspect-brk, …) are not the worker's.
  const channel = new Channel(new Worker(new URL('./worker.js', import.meta.url), { workerData, execArgv: [] }));
  const opened = await channel.receive();
  if (opened.type !== 'open') throw new Error(`the data worker began with "${opened.type}"`);
  const loader = {
    size: opened.size,
    cutRecords: 0,
    onProblem: null as Loader['onProblem'],
    close: () => channel.close(),
    async *[Symbol.asyncIterator]() {
      for (;;) {
        const message = await channel.receive();
        if (message.type !== 'batch') throw new Error(`unexpected "${message.type}" from the data worker`);
        channel.send('more');
        for (const each of message.problems) loader.onProblem?.(each);
        for (const { cut = 0 } of message.batch.microBatches) loader.cutRecords += cut;
        yield message.batch;
      }
    },
  };
  return loader;
}

/** Messages of the worker as promises. The worker keeps the process alive only while someone waits for it. */
class Channel {
  readonly #worker: Worker;
  readonly #arrived: FromWorker[] = [];
  #failure: Error | null = null;
  #waiting: { resolve: (message: FromWorker) => void; reject: (error: Error) => void } | null = null;
  readonly #exited: Promise<void>;

  constructor(worker: Worker) {
    this.#worker = worker;
    worker.unref();
    worker.on('message', (message: FromWorker) => {
      if (message.type === 'error') this.#fail(revive(message));
      else this.#arrive(message);
    });
    worker.on('error', (error: Error) => this.#fail(error));
    this.#exited = new Promise((resolve) => {
      worker.on('exit', () => {
        this.#fail(new Error('the data worker has ended'));
        resolve();
      });
    });
  }

  #arrive(message: FromWorker): void {
    if (this.#waiting === null) this.#arrived.push(message);
    else this.#settle().resolve(message);
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    if (this.#waiting !== null) this.#settle().reject(this.#failure);
  }

  #settle() {
    const waiting = this.#waiting;
    if (waiting === null) throw new Error('nobody is waiting');
    this.#waiting = null;
    this.#worker.unref();
    return waiting;
  }

  /** The next message; batches that arrived before a failure are handed out first. */
  receive(): Promise<FromWorker> {
    const message = this.#arrived.shift();
    if (message !== undefined) return Promise.resolve(message);
    if (this.#failure !== null) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      this.#waiting = { resolve, reject };
      this.#worker.ref();
    });
  }

  send(message: ToWorker): void {
    this.#worker.postMessage(message);
  }

  /** Ends the worker after the batch it is at: native decoding is not torn down midway. */
  async close(): Promise<void> {
    this.#arrived.length = 0;
    this.#worker.ref();
    this.send('close');
    await this.#exited;
  }
}

function revive({ message, stack, userError, kind }: FromWorker & { type: 'error' }): Error {
  if (userError) return Object.assign(new UserError(message), kind === undefined ? {} : { kind });
  const error = new Error(message);
  if (stack !== undefined) error.stack = stack;
  return error;
}
