/** What becomes of records that cannot be used (model.data.on_error), and how many there may be. */
import { mistake } from '../errors.ts';
import { isRecordProblem, type ProblemKind } from './problem.ts';

export interface UsableOptions {
  /**
   * A record that cannot be used: `error` ends the run, `skip` leaves it out of its micro batch,
   * `replace` takes the next usable record of the file.
   */
  onError: 'error' | 'skip' | 'replace';
  /** With `skip` and `replace`: stop all the same when more than this share of the file's records is bad. Default 1. */
  maxBadFraction?: number;
}

/** One record that was not usable, as it was met. */
export interface MetProblem {
  kind: ProblemKind;
  message: string;
}

export class UsableRecords {
  readonly #options: UsableOptions;
  /** What messages call the data. */
  readonly #name: string;
  /** Numbers of the records that may be used. */
  readonly #members: Int32Array;
  #problems: MetProblem[] = [];
  /** Bad records met so far, each once however often it came up. */
  readonly #bad = new Map<number, ProblemKind>();

  constructor(options: UsableOptions, name: string, members: Int32Array) {
    this.#options = options;
    this.#name = name;
    this.#members = members;
  }

  get replaces(): boolean {
    return this.#options.onError === 'replace';
  }

  /** Problems met since the last call. */
  takeProblems(): MetProblem[] {
    const taken = this.#problems;
    this.#problems = [];
    return taken;
  }

  /**
   * What `get` makes of the record at `index` of the members, or null where the record is to be left out; with `replace`, of the next record in
   * file order that is usable and that `get` does not answer with null. `silent`: another rank reports it.
   */
  async take<T>(
    index: number,
    replace: boolean,
    get: (number: number) => Promise<T | null> | T | null,
    silent = false,
  ): Promise<T | null> {
    const size = this.#members.length;
    for (let tried = 0; tried < size; tried++) {
      const number = this.#members[(index + tried) % size]!;
      try {
        const found = await get(number);
        if (found !== null || !replace) return found;
      } catch (error) {
        if (this.#options.onError === 'error' || !isRecordProblem(error)) throw error;
        if (!silent) this.#problems.push({ kind: error.kind, message: error.message });
        this.#bad.set(number, error.kind);
        this.refuseAbove(this.#bad, size);
        if (!replace) return null;
      }
    }
    if (this.#bad.size < size) return null;
    throw mistake({
      where: this.#name,
      problem: 'not one of its records is usable',
      fix: 'run `neva data check`',
    });
  }

  /** Ends the run where too large a share of `records` is bad. */
  refuseAbove(bad: ReadonlyMap<number, ProblemKind>, records: number): void {
    const { maxBadFraction = 1 } = this.#options;
    if (bad.size <= maxBadFraction * records) return;
    const counts = new Map<ProblemKind, number>();
    for (const kind of bad.values()) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    throw mistake({
      where: this.#name,
      problem: 'too many records cannot be used',
      expected: `at most model.data.max_bad_fraction = ${maxBadFraction} of ${records} records`,
      found: `${bad.size} so far: ${[...counts].map(([kind, count]) => `${kind} ${count}`).join(', ')}`,
      fix: 'run `neva data check`, mend the data, or raise model.data.max_bad_fraction',
    });
  }
}
