import assert from 'node:assert/strict';
import { hostname } from 'node:os';
import { test } from 'node:test';
import { describe } from '../../src/cli/doctor.ts';
import type { SelfTest } from '../../src/parallel/self_test.ts';
import { runRanks } from './ranks.ts';

const run = async (world: number, mode: string) =>
  (await runRanks('./self_test_rank.js', world, [mode])).map(({ output }) => output);
const found = async (world: number, mode: string): Promise<SelfTest[]> =>
  (await run(world, mode)).map((text) => JSON.parse(text));

test('ranks that are well: every size and collective, and nothing wrong', async () => {
  const all = await found(3, 'well');
  for (const { ok, hosts, bandwidth, problems } of all) {
    assert.ok(ok);
    assert.deepEqual(problems, []);
    assert.deepEqual(hosts, [hostname(), hostname(), hostname()]);
    // Whole thirds of float32 numbers.
    const sizes = [4092, 39_996];
    assert.deepEqual(
      bandwidth.map(({ collective, bytes }) => `${collective} ${bytes}`),
      sizes.flatMap((bytes) => ['all-reduce', 'all-gather', 'reduce-scatter'].map((name) => `${name} ${bytes}`)),
    );
    for (const { collective, bytes, ms, gb_per_s: rate, bus_gb_per_s: bus } of bandwidth) {
      assert.ok(Math.abs(rate - bytes / ms / 1e6) <= 1e-9 * rate);
      assert.ok(Math.abs(bus / rate - (collective === 'all-reduce' ? 4 / 3 : 2 / 3)) < 1e-9);
    }
  }
  assert.deepEqual(all[1], all[0], 'all ranks have the same figures');
});

test('a wrong result is told with rank, host, collective, element and values, on every rank', async () => {
  const cases = {
    // 2 ranks: 2·(i mod 251) + 3.
    allReduce: 'all-reduce of 4096 bytes is wrong: element 5 of 1024 is 0.5, not 13',
    allGather: 'all-gather of 4096 bytes is wrong: element 5 of 1024 is 0.5, not 5',
    // Rank 1 has elements 512 on: 517 mod 251 is 15.
    reduceScatter: 'reduce-scatter of 4096 bytes is wrong: element 5 of 512 is 0.5, not 33',
    receive: `the message from rank 0 on ${hostname()} is wrong: element 5 of 1000 is 0.5, not 5`,
  };
  for (const [mode, text] of Object.entries(cases)) {
    for (const result of await found(2, mode)) {
      assert.ok(!result.ok);
      assert.deepEqual(result.problems[0], { rank: 1, text: `rank 1 on ${hostname()}: ${text}` });
      assert.ok(result.problems.every(({ rank }) => rank === 1));
      assert.match(describe(result), /^WRONG RESULTS\n- rank 1 on \S+: /m);
    }
  }
});

test('a rank that is gone is named with its host by the one that waits for it', async () => {
  const [text = ''] = await run(2, 'gone');
  const { name, message } = JSON.parse(text);
  assert.equal(name, 'LostRanks');
  assert.match(message, /^rank 0 of 2 on \S+ waited for .*rank 1 on elsewhere.*, at the self-test: /);
});
