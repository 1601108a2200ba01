import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { launch } from '../../src/parallel/launch.ts';
import { coresOfRanks, cpuList, numaNodes } from '../../src/parallel/numa.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-numa-'));
after(() => rmSync(folder, { recursive: true, force: true }));

test('nodes and their cores, as Linux has them, less those that are not ours', () => {
  const sys = join(folder, 'node');
  const status = join(folder, 'status');
  const lists = { node10: '5\n', node0: '0-2,8-9\n', node2: '\n', node1: '3-4,10-11\n' };
  for (const [name, list] of Object.entries(lists)) {
    mkdirSync(join(sys, name), { recursive: true });
    writeFileSync(join(sys, name, 'cpulist'), list);
  }
  mkdirSync(join(sys, 'power'));
  writeFileSync(status, 'Name:\tnode\nCpus_allowed:\tfff\nCpus_allowed_list:\t0-11\n');
  // node2 is memory alone.
  assert.deepEqual(numaNodes(sys, status), [[0, 1, 2, 8, 9], [3, 4, 10, 11], [5]]);
  writeFileSync(status, 'Cpus_allowed_list:\t1,3-4\n');
  assert.deepEqual(numaNodes(sys, status), [[1], [3, 4]]);
  assert.deepEqual(numaNodes(join(folder, 'nowhere'), status), []);
  assert.deepEqual(cpuList('7'), [7]);
});

test('neighbours share a node; a machine with one, fewer ranks than nodes, and NEVA_NUMA=0 are left alone', () => {
  const said: string[] = [];
  const nodes = [cpuList('0-7'), cpuList('8-15')];
  const with_ = (program: string | null, processes: number, more = {}) =>
    coresOfRanks(processes, (line) => said.push(line), {
      nodes,
      env: {},
      find: (name: string) => (name === program ? `/bin/${name}` : null),
      ...more,
    });
  const three = with_('numactl', 3)!;
  const bound = (list: string) => ['/bin/numactl', `--physcpubind=${list}`, '--localalloc', '--'];
  const [low, high] = nodes.map((cpus) => cpus.join(',')) as [string, string];
  assert.deepEqual(three, [
    { prefix: bound(low), threads: 4 },
    { prefix: bound(low), threads: 4 },
    { prefix: bound(high), threads: 8 },
  ]);
  assert.match(said.pop()!, /^2 NUMA nodes: ranks are kept to the cores of one \(numactl; NEVA_NUMA=0/);
  assert.deepEqual(with_('taskset', 2)![1], { prefix: ['/bin/taskset', '-c', high], threads: 8 });
  said.length = 0;
  assert.equal(with_('numactl', 1), null);
  assert.equal(with_('numactl', 2, { nodes: [cpuList('0-7')] }), null);
  assert.equal(with_('numactl', 2, { env: { NEVA_NUMA: '0' } }), null);
  assert.deepEqual(said, []);
  assert.equal(with_(null, 2), null);
  assert.deepEqual(said, ['2 NUMA nodes, and ranks are not kept to them: neither numactl nor taskset is installed']);
});

test('ranks run on the cores that they are given, with a thread for each', async (t) => {
  const mine = cpuList(/^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]!);
  if (mine.length < 2) return t.skip('one core cannot be shared out');
  const [first, second] = mine as [number, number];
  const cores = coresOfRanks(2, () => {}, { nodes: [[first], [second]], env: {} });
  if (cores === null) return t.skip('neither numactl nor taskset');
  const script = `
    const { readFileSync, writeFileSync } = require('node:fs');
    const { RANK, OMP_NUM_THREADS } = process.env;
    const cpus = /^Cpus_allowed_list:\\s*(\\S+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1];
    writeFileSync(${JSON.stringify(folder)} + '/rank' + RANK, cpus + ' ' + OMP_NUM_THREADS + ' ' + process.connected);`;
  const { OMP_NUM_THREADS: _, ...env } = process.env;
  const code = await launch({
    command: () => [process.execPath, '-e', script],
    processes: 2,
    nodes: 1,
    nodeRank: 0,
    master: null,
    failureTimeout: 5,
    maxRestarts: 0,
    cores,
    env,
    say: assert.fail,
  });
  assert.equal(code, 0);
  assert.equal(readFileSync(join(folder, 'rank0'), 'utf8'), `${first} 1 true`);
  assert.equal(readFileSync(join(folder, 'rank1'), 'utf8'), `${second} 1 true`);
});
