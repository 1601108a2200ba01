/** A process that is measured: it answers each line of its stdin with one line of JSON. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

export interface Answer {
  seconds: number;
  loss: number;
  peak_rss_bytes: number;
  /** Of the device, where it is not the host. */
  peak_tensor_bytes?: number;
  /** neva's ready line: operations that a step cannot do without. */
  flops?: number;
  flops_per_s?: number;
  /** bench/parallel: of a step, within the reduction's own calls, and of these after backward. */
  reduction_s?: number;
  waited_s?: number;
  /** Until the slowest rank has ended its backward pass. */
  skew_s?: number;
}

export class Peer {
  readonly name: string;
  readonly #process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(name: string, command: string, args: string[], cwd = process.cwd(), env = process.env) {
    this.name = name;
    this.#process = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'], cwd, env });
    this.#lines = createInterface({ input: this.#process.stdout! })[Symbol.asyncIterator]();
  }

  async answer(): Promise<Answer> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.name} ended early`);
    return JSON.parse(value);
  }

  ask(word: string): Promise<Answer> {
    this.#process.stdin!.write(`${word}\n`);
    return this.answer();
  }
}

export const median = (values: readonly number[]): number =>
  [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
