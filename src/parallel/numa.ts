/**
 * Machines whose memory is in several parts (NUMA nodes), each near some of the cores: a rank computes about as fast as its
 * memory is near, so that each is kept to the cores of one node. Linux alone says which are where.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findProgram } from '../engine/torch/tools.ts';

/** What a rank is started with to keep to its cores. */
export interface Cores {
  /** Program and arguments that stand before the rank's own. */
  prefix: string[];
  /** Cores that are this rank's share of its node. */
  threads: number;
}

/** Cores of each node that this process may use, for nodes that have any. Empty where the system does not say. */
export function numaNodes(sys = '/sys/devices/system/node', status = '/proc/self/status'): number[][] {
  try {
    // A container, or Slurm's --cpu-bind, may leave us some of them only.
    const own = /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync(status, 'utf8'))?.[1];
    const allowed = own === undefined ? null : new Set(cpuList(own));
    return readdirSync(sys)
      .filter((name) => /^node\d+$/.test(name))
      .sort((a, b) => Number(a.slice(4)) - Number(b.slice(4)))
      .map((name) => cpuList(readFileSync(join(sys, name, 'cpulist'), 'utf8').trim()))
      .map((cpus) => cpus.filter((cpu) => allowed?.has(cpu) ?? true))
      .filter((cpus) => cpus.length > 0);
  } catch {
    return [];
  }
}

/** The kernel's short form: `0-2,8` is 0, 1, 2, 8. */
export function cpuList(text: string): number[] {
  return text
    .split(',')
    .filter((part) => part !== '')
    .flatMap((part) => {
      const [first = 0, last = first] = part.split('-').map(Number);
      return Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });
}

/**
 * One entry a local rank, neighbours on the same node; null where ranks are left to the system: on a machine with one node, with
 * fewer ranks than nodes (each needs several), when NEVA_NUMA=0, or when no program is there to do it, which is said.
 */
export function coresOfRanks(
  processes: number,
  say: (line: string) => void,
  { nodes = numaNodes(), env = process.env, find = findProgram } = {},
): Cores[] | null {
  if (nodes.length < 2 || processes < nodes.length || env.NEVA_NUMA === '0') return null;
  const numactl = find('numactl');
  const taskset = numactl ? null : find('taskset');
  if (!numactl && !taskset) {
    say(`${nodes.length} NUMA nodes, and ranks are not kept to them: neither numactl nor taskset is installed`);
    return null;
  }
  const nodeOf = (rank: number) => Math.floor((rank * nodes.length) / processes);
  const ranksOn = nodes.map((_, node) =>
    Array.from({ length: processes }, (_, r) => nodeOf(r)).filter((n) => n === node),
  );
  say(
    `${nodes.length} NUMA nodes: ranks are kept to the cores of one (${numactl ? 'numactl' : 'taskset'}; NEVA_NUMA=0 leaves them free)`,
  );
  return Array.from({ length: processes }, (_, rank) => {
    const cpus = nodes[nodeOf(rank)]!;
    const list = cpus.join(',');
    return {
      // Memory is taken where a thread first touches it; --localalloc undoes another policy that we were started under.
      prefix: numactl ? [numactl, `--physcpubind=${list}`, '--localalloc', '--'] : [taskset!, '-c', list],
      threads: Math.max(1, Math.floor(cpus.length / ranksOn[nodeOf(rank)]!.length)),
    };
  });
}
