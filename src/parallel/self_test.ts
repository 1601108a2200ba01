/**
 * `neva doctor --distributed`: every link and collective between the ranks once, on values that each rank can work out, and
 * how fast they are.
 */
import { hostname } from 'node:os';
import type { Engine, Tensor } from '../engine/engine.ts';
import type { Group } from './group.ts';

export type Collective = 'all-reduce' | 'all-gather' | 'reduce-scatter';

export interface Bandwidth {
  collective: Collective;
  /** Of the whole tensor: what is summed, or brought together. */
  bytes: number;
  /** Mean time of one. */
  ms: number;
  /** bytes / time. */
  gb_per_s: number;
  /**
   * What each rank sends by the ring algorithm / time: comparable with the speed of a link, whatever the number of ranks (as
   * nccl-tests have it: times 2(n−1)/n for an all-reduce, (n−1)/n for the others).
   */
  bus_gb_per_s: number;
}

export interface SelfTest {
  ok: boolean;
  /** Host of each rank, by rank. */
  hosts: string[];
  bandwidth: Bandwidth[];
  /** One line each: rank, host, and what came instead of what. */
  problems: { rank: number; text: string }[];
}

/** Bytes of the tensors: below, at, and above where latency stops to matter. */
const SIZES = [2 ** 16, 2 ** 20, 2 ** 24];
const FLOAT32_BYTES = 4;
/** Each figure takes about this time, and no more than so many messages. */
const SECONDS = 0.3;
const MOST = 50;

/** Every rank of the group calls it at the same time, and gets the same. Throws LostRanks where a rank is gone or hangs. */
export function selfTest(engine: Engine, group: Group, sizes: readonly number[] = SIZES): SelfTest {
  group.during = 'the self-test';
  const hosts = group.gather(hostname(), 'every rank to say its host');
  const own: string[] = [];
  const bandwidth: Bandwidth[] = [];
  testLinks(engine, group, hosts, own);
  for (const bytes of sizes) {
    for (const collective of ['all-reduce', 'all-gather', 'reduce-scatter'] as const) {
      engine.scope(() => {
        bandwidth.push(testCollective(engine, group, collective, bytes, own));
      });
    }
  }
  const problems = group
    .gather(own, 'every rank to say what it has found')
    .flatMap((texts, rank) => texts.map((text) => ({ rank, text: `rank ${rank} on ${hosts[rank]}: ${text}` })));
  return { ok: problems.length === 0, hosts, bandwidth, problems };
}

/** Small whole numbers, whose sums float32 holds exactly; different at neighbouring places and for every rank. */
const value = (rank: number, i: number) => (i % 251) + 3 * rank;

function vector(engine: Engine, n: number, of: (i: number) => number): Tensor {
  return engine.tensor(
    Float32Array.from({ length: n }, (_, i) => of(i)),
    [n],
  );
}

function compare(engine: Engine, got: Tensor, expected: (i: number) => number, what: string, problems: string[]): void {
  const values = engine.read(got);
  const wrong = values.findIndex((each, i) => each !== expected(i));
  if (wrong < 0) return;
  problems.push(`${what} is wrong: element ${wrong} of ${values.length} is ${values[wrong]}, not ${expected(wrong)}`);
}

/** A message from every rank to every other: one that fails names both ends. */
function testLinks(engine: Engine, group: Group, hosts: readonly string[], problems: string[]): void {
  const { rank, size } = group;
  const n = 1000;
  for (let distance = 1; distance < size; distance++) {
    engine.scope(() => {
      const [to, from] = [(rank + distance) % size, (rank + size - distance) % size];
      const own = vector(engine, n, (i) => value(rank, i));
      const other = engine.zeros([n]);
      const named = (r: number) => `rank ${r} on ${hosts[r]}`;
      const works = [
        group.send(own, to, `${named(to)} to take a message`),
        group.receive(other, from, `a message from ${named(from)}`),
      ];
      for (const work of works) work.wait();
      compare(engine, other, (i) => value(from, i), `the message from ${named(from)}`, problems);
    });
  }
}

function testCollective(
  engine: Engine,
  group: Group,
  collective: Collective,
  asked: number,
  problems: string[],
): Bandwidth {
  const { rank, size } = group;
  const n = Math.max(1, Math.floor(asked / FLOAT32_BYTES / size));
  const bytes = FLOAT32_BYTES * n * size;
  const what = `${collective} of ${bytes} bytes`;
  const sum = (i: number) => size * (i % 251) + (3 * size * (size - 1)) / 2;
  const whole = (of: (i: number) => number) => vector(engine, n * size, of);
  const part = vector(engine, n, (i) => value(rank, i));
  const full = engine.zeros([n * size]);
  let once: (timed: boolean) => void;
  if (collective === 'all-reduce') {
    once = (timed) => {
      // In place: sums of sums would grow to infinity, sums of zeros do not.
      const tensor = timed ? full : whole((i) => value(rank, i));
      group.allReduce([tensor], what).wait();
      if (!timed) compare(engine, tensor, sum, what, problems);
    };
  } else if (collective === 'all-gather') {
    once = (timed) => {
      group.allGather(part, full, what).wait();
      if (!timed) compare(engine, full, (i) => value(Math.floor(i / n), i % n), what, problems);
    };
  } else {
    const input = whole((i) => value(rank, i));
    once = (timed) => {
      group.reduceScatter(input, part, what).wait();
      if (!timed) compare(engine, part, (i) => sum(rank * n + i), what, problems);
    };
  }
  once(false);
  const time = (times: number): number => {
    group.barrier(`every rank to begin ${what}`);
    const began = performance.now();
    for (let i = 0; i < times; i++) once(true);
    group.barrier(`every rank to end ${what}`);
    return (performance.now() - began) / 1000 / times;
  };
  const first = time(1);
  // All must make as many: rank 0 says how many.
  const times = group.share(Math.min(MOST, Math.max(1, Math.ceil(SECONDS / first))), 'rank 0 to say how often');
  const seconds = group.share(time(times), "rank 0's time");
  const passes = collective === 'all-reduce' ? 2 : 1;
  const rate = bytes / seconds / 1e9;
  return {
    collective,
    bytes,
    ms: seconds * 1000,
    gb_per_s: rate,
    bus_gb_per_s: (rate * passes * (size - 1)) / size,
  };
}
