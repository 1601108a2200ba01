/**
 * Collectives among the ranks of a run. Every rank must call the same ones in the same order; `what` says in a message what
 * was being waited for when they do not come.
 */
import { hostname } from 'node:os';
import type { Tensor } from '../engine/engine.ts';
import * as aten from '../engine/torch/aten.generated.ts';
import { type Handle, native } from '../engine/torch/native.ts';
import { TorchTensor, torchTensor } from '../engine/torch/tensor.ts';
import { addressTowards, type Place, type Variables } from './environment.ts';

/** A collective under way. Its tensors must be left alone until `wait` returns; wait once. */
export interface Work {
  readonly done: boolean;
  /** Throws LostRanks when another rank has gone or does not come in time. */
  wait(): void;
}

export interface Group {
  readonly rank: number;
  readonly size: number;
  /** The GPU that this rank computes on, among those of its machine; null on a CPU. */
  readonly gpu: number | null;
  /** What the run is at, for messages: `step 12`. */
  during: string;
  /** Replaces each tensor by its sum over the ranks; all of them travel as one message. */
  allReduce(tensors: readonly Tensor[], what: string): Work;
  /** Replaces a tensor by rank `root`'s. */
  broadcast(tensor: Tensor, root: number, what: string): Work;
  /** input [n] of every rank, one after the other, into output [size·n]. */
  allGather(input: Tensor, output: Tensor, what: string): Work;
  /** Sums input [size·n] over the ranks and leaves part number `rank` in output [n]. */
  reduceScatter(input: Tensor, output: Tensor, what: string): Work;
  send(tensor: Tensor, to: number, what: string): Work;
  receive(tensor: Tensor, from: number, what: string): Work;
  barrier(what: string): void;
  /** Sums of host numbers, in float64. */
  sum(values: readonly number[], what: string): number[];
  /** What rank 0 gives, on every rank; the others give null. Anything that JSON can hold. */
  share<T>(value: T | null, what: string): T;
  /** Every rank's value, by rank. */
  gather<T>(value: T, what: string): T[];
  /** Number of the group in the addon, for collectives that are part of a segment; −1 for a process alone. */
  readonly number: number;
  /** What an error of a collective within a segment means: LostRanks; any other error as it is. */
  explain(error: unknown): unknown;
  /** Messages that this rank has taken part in, and their bytes, since the group was opened. */
  traffic(): Traffic;
  /** In good order only: a rank that has failed just ends. */
  close(): void;
}

const KINDS = ['allReduce', 'broadcast', 'allGather', 'reduceScatter', 'send', 'receive'] as const;

/** Bytes of whole tensors: all that all-gather brings together, all that reduce-scatter sums. */
export type Traffic = { [kind in (typeof KINDS)[number]]: { messages: number; bytes: number } };

const traffic = (counts: readonly number[]): Traffic =>
  Object.fromEntries(
    KINDS.map((kind, i) => [kind, { messages: counts[2 * i] ?? 0, bytes: counts[2 * i + 1] ?? 0 }]),
  ) as Traffic;

/** Another rank ended, hangs, or called other collectives: a consequence, the cause is to be looked for there. */
export class LostRanks extends Error {
  /** The message says which ranks, and what they are at. */
  readonly named: boolean;

  constructor(message: string, options: ErrorOptions & { named?: boolean } = {}) {
    super(message, options);
    this.name = 'LostRanks';
    this.named = options.named ?? true;
  }
}

const DONE: Work = { done: true, wait() {} };

/** The group of a process by itself: every collective has its result already. */
export const ALONE: Group = {
  rank: 0,
  size: 1,
  gpu: null,
  during: '',
  allReduce: () => DONE,
  broadcast: () => DONE,
  allGather: copied,
  reduceScatter: copied,
  send: alone,
  receive: alone,
  barrier() {},
  sum: (values) => [...values],
  share: (value) => value as never,
  gather: (value) => [value],
  number: -1,
  explain: (error) => error,
  traffic: () => traffic([]),
  close() {},
};

function alone(): never {
  throw new Error('a process by itself has nobody to send to');
}

function copied(input: Tensor, output: Tensor): Work {
  aten.copy_(torchTensor(output), torchTensor(input));
  return DONE;
}

/**
 * Joins the other ranks of `place`; returns when all are there. No rank waits longer than `timeoutSeconds`, for the others
 * to join or within a collective. Tensors on the CPU travel through Gloo, those on GPU number `gpu` through NCCL.
 */
export async function joinGroup(
  place: Place,
  timeoutSeconds: number,
  env: Variables = {},
  gpu: number | null = null,
): Promise<Group> {
  const { masterAddress, masterPort, rank, world } = place;
  const networkInterface = env.GLOO_SOCKET_IFNAME ?? '';
  const address = networkInterface === '' ? await addressTowards(masterAddress, masterPort) : '';
  const who = `rank ${rank} of ${world} on ${hostname()}`;
  const meeting = { place, who, timeout: Math.round(timeoutSeconds * 1000), address, networkInterface, gpu };
  const number = open(meeting, rank, world, '', 'all ranks');
  return new NativeGroup(rank, world, meeting, { during: 'the beginning', groups: new Map() }, number);
}

/**
 * The group of some of `world`'s ranks, in the order given, this one among them, all of which open it at the same time.
 * @param apart messages must not wait for those of the world, even where all ranks are in it
 */
export function subgroup(world: Group, ranks: readonly number[], name: string, apart = false): Group {
  const size = ranks.length;
  if (size === 1) return ALONE;
  if (size === world.size && !apart) return world;
  if (!(world instanceof NativeGroup)) throw new Error('a process by itself has no groups');
  return world.part(ranks, name);
}

/** How the ranks of a run find one another. */
interface Meeting {
  place: Place;
  who: string;
  timeout: number;
  address: string;
  networkInterface: string;
  gpu: number | null;
}

function open(meeting: Meeting, rank: number, size: number, keys: string, name: string): number {
  const { place, who, timeout, address, networkInterface, gpu } = meeting;
  const { masterAddress, masterPort, prefix } = place;
  const server = place.server && keys === '';
  return lostIn(meeting, `the ranks to meet at ${masterAddress}:${masterPort}`, () =>
    native().openGroup(
      masterAddress,
      masterPort,
      rank,
      size,
      timeout,
      server,
      `${prefix}${keys}`,
      address,
      networkInterface,
      who,
      gpu ?? -1,
      name,
    ),
  );
}

interface Moment {
  during: string;
  /** How many groups of a name were opened. */
  groups: Map<string, number>;
}

class NativeGroup implements Group {
  readonly rank: number;
  readonly size: number;
  readonly number: number;
  readonly #meeting: Meeting;
  /** Shared with the groups that are parts of this one. */
  readonly #moment: Moment;

  constructor(rank: number, size: number, meeting: Meeting, moment: Moment, number: number) {
    this.rank = rank;
    this.size = size;
    this.number = number;
    this.#meeting = meeting;
    this.#moment = moment;
  }

  get gpu(): number | null {
    return this.#meeting.gpu;
  }

  get during(): string {
    return this.#moment.during;
  }

  set during(what: string) {
    this.#moment.during = what;
    native().moment(what);
  }

  part(ranks: readonly number[], name: string): Group {
    const rank = ranks.indexOf(this.rank);
    // The store keeps the addresses of earlier groups: no two may have the same keys.
    const { groups } = this.#moment;
    const own = `${name} ranks ${ranks.join(', ')}`;
    const earlier = groups.get(own) ?? 0;
    groups.set(own, earlier + 1);
    const keys = `${earlier}-${name}-${ranks.join('-')}/`;
    const shown = earlier > 0 ? `${own} (${earlier + 1})` : own;
    const number = open(this.#meeting, rank, ranks.length, keys, shown);
    return new NativeGroup(rank, ranks.length, this.#meeting, this.#moment, number);
  }

  allReduce(tensors: readonly Tensor[], what: string): Work {
    return this.#start(what, (group) => native().allReduce(group, tensors.map(handle)));
  }

  broadcast(tensor: Tensor, root: number, what: string): Work {
    return this.#start(what, (group) => native().broadcast(group, handle(tensor), root));
  }

  allGather(input: Tensor, output: Tensor, what: string): Work {
    return this.#start(what, (group) => native().allGather(group, handle(input), handle(output)));
  }

  reduceScatter(input: Tensor, output: Tensor, what: string): Work {
    return this.#start(what, (group) => native().reduceScatter(group, handle(input), handle(output)));
  }

  send(tensor: Tensor, to: number, what: string): Work {
    return this.#start(what, (group) => native().send(group, handle(tensor), to, 0));
  }

  receive(tensor: Tensor, from: number, what: string): Work {
    return this.#start(what, (group) => native().receive(group, handle(tensor), from, 0));
  }

  barrier(what: string): void {
    this.#start(what, (group) => native().barrier(group)).wait();
  }

  sum(values: readonly number[], what: string): number[] {
    // One number more: ranks whose messages differ, though no wait was in vain, have computed something else.
    const digest = native().digest(this.number);
    const sums = this.#hostly(Float64Array.from([...values, digest]), 'float64', (tensor) => {
      this.allReduce([tensor], what).wait();
      return [...new Float64Array(native().readBytes(tensor.handle))];
    });
    if (sums.pop() !== digest * this.size) {
      const found = `${this.#meeting.who} found, waiting for ${what}, at ${this.during}`;
      throw new LostRanks(`${found}, that the ranks have taken part in different messages: ${native().others()}`);
    }
    return sums;
  }

  share<T>(value: T | null, what: string): T {
    const own = this.rank === 0 ? Buffer.from(JSON.stringify(value)) : Buffer.alloc(0);
    const length = this.sum([own.length], what)[0]!;
    const message = this.rank === 0 ? new Uint8Array(own) : new Uint8Array(length);
    return this.#hostly(message, 'uint8', (tensor) => {
      this.broadcast(tensor, 0, what).wait();
      return JSON.parse(Buffer.from(native().readBytes(tensor.handle)).toString()) as T;
    });
  }

  gather<T>(value: T, what: string): T[] {
    const own = Buffer.from(JSON.stringify(value));
    const lengths = this.sum(
      Array.from({ length: this.size }, (_, rank) => (rank === this.rank ? own.length : 0)),
      what,
    );
    const longest = Math.max(...lengths);
    const padded = new Uint8Array(longest);
    padded.set(own);
    return this.#hostly(padded, 'uint8', (input) =>
      this.#hostly(new Uint8Array(longest * this.size), 'uint8', (output) => {
        this.allGather(input, output, what).wait();
        const all = Buffer.from(native().readBytes(output.handle));
        return lengths.map(
          (length, rank) => JSON.parse(all.subarray(rank * longest, rank * longest + length).toString()) as T,
        );
      }),
    );
  }

  explain(error: unknown): unknown {
    if (!(error instanceof Error)) return error;
    const [, waited, reason = ''] = /\[collective\] (.*)\n([\s\S]*)/.exec(error.message) ?? [];
    return waited === undefined ? error : lost(this.#meeting, `${waited}, at ${this.during}`, reason, error);
  }

  traffic(): Traffic {
    return traffic(native().traffic(this.number));
  }

  close(): void {
    lostIn(this.#meeting, 'the others to end', () => native().closeGroup(this.number));
  }

  #start(what: string, begin: (group: number) => number): Work {
    const waited = `${what}, at ${this.during}`;
    const work = lostIn(this.#meeting, waited, () => begin(this.number));
    return {
      get done() {
        return native().workDone(work);
      },
      wait: () => lostIn(this.#meeting, waited, () => native().waitWork(work, what)),
    };
  }

  /** A host array as a tensor for the time of `body`. */
  #hostly<R>(data: Float64Array | Uint8Array, dtype: string, body: (tensor: TorchTensor) => R): R {
    const tensor = new TorchTensor(native().fromBytes(data, [data.length], dtype));
    try {
      return body(tensor);
    } finally {
      tensor.dispose();
    }
  }
}

const handle = (tensor: Tensor): Handle => torchTensor(tensor).handle;

/** Runs what waits for other ranks; what LibTorch throws there becomes LostRanks with who waited for what. */
function lostIn<R>(meeting: Meeting, what: string, body: () => R): R {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof Error) || error instanceof TypeError) throw error;
    throw lost(meeting, `${meeting.who} waited for ${what}`, error.message, error);
  }
}

function lost({ place }: Meeting, waited: string, reason: string, cause: Error): LostRanks {
  // Gloo's messages begin with a place in its source and end with advice.
  const [first = ''] = reason.split('\n', 1);
  const short = first.replace(/^\[[^\]]*\.\w+:\d+\] /, '').replace(/ This is typically caused.*$/, '');
  const inVain = /time(?:d )?out/i.test(short);
  // One that timed out closes the connections, and others end with that: it looks for the cause, and the rank that speaks for all.
  if (!inVain && place.rank > 0) return new LostRanks(`${waited}: ${short}`, { cause, named: false });
  const words = inVain ? `nothing came in time (${short})` : short;
  const others = native().others();
  return new LostRanks(`${waited}: ${words}${others && `; ${others}`}`, { cause, named: others !== '' });
}
