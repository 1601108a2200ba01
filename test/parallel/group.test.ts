import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ALONE } from '../../src/parallel/group.ts';
import { torchEngine } from '../support/torch.ts';
import { runRanks } from './ranks.ts';

for (const world of [1, 2, 3]) {
  test(`every collective among ${world} ranks`, async () => {
    for (const { status, output } of await runRanks('./collectives_rank.js', world)) {
      assert.equal(status, 0, output);
      assert.match(output, /all right/);
    }
  });
}

test('a rank that is killed, or hangs, is told of by who waited for what, and in time', async () => {
  const [killed] = await runRanks('./collectives_rank.js', 2, ['die']);
  assert.equal(killed!.status, 0, killed!.output);
  assert.match(
    killed!.output,
    /^[1-4]\.\d+ rank 0 of 2 on \S+ waited for a sum, at step 7: .*(closed|reset).*; rank 1 of 2 on \S+ does not answer any more: it is stopped, gone or cut off, /m,
  );
  const [hung] = await runRanks('./collectives_rank.js', 2, ['hang']);
  assert.equal(hung!.status, 0, hung!.output);
  assert.match(
    hung!.output,
    /^[2-6]\.\d+ rank 0 of 2 on \S+ waited for a sum, at step 7: nothing came in time \(Timed out waiting 2000ms.*\); rank 1 of 2 on \S+ has not come to it: it is at step 7, after process ids$/m,
  );
});

test('a rank that is stopped is named, with its host and what it was at', async () => {
  const [first, second] = await runRanks('./collectives_rank.js', 2, ['stop']);
  assert.equal(first!.status, 0, first!.output);
  assert.match(
    first!.output,
    /waited for a sum, at step 7: nothing came in time .*; rank 1 of 2 on \S+ does not answer any more: it is stopped, gone or cut off, and was last heard of at step 7, after process ids$/m,
  );
  assert.equal(second!.signal, 'SIGKILL');
});

test('a rank in another message is named, with both messages', async () => {
  const [first] = await runRanks('./collectives_rank.js', 2, ['other']);
  assert.equal(first!.status, 0, first!.output);
  assert.match(
    first!.output,
    /waited for a sum, at step 7: .*; message \d of all ranks is all-reduce of 4 bytes of Float here, and broadcast of 4 bytes of Float on rank 1 of 2 on \S+, which is at step 7, where it waits for a value$/m,
  );
});

test('messages of two sizes end both ranks, and say so', async () => {
  const ranks = await runRanks('./collectives_rank.js', 2, ['sizes']);
  for (const { status } of ranks) assert.equal(status, 1);
  const parted = (own: number, rank: number) =>
    `message \\d of all ranks is all-reduce of ${own} bytes of Float here, and all-reduce of ${12 - own} bytes of Float on rank ${rank} of 2 on \\S+, which is at step 7, where it waits for a sum`;
  assert.match(ranks[0]!.output, new RegExp(`rank 0 of 2 on \\S+ .*[:;] ${parted(4, 1)}`));
  // A rank that gets more than it has room for fails in a thread of LibTorch's; which of the two does so first is open.
  for (const { output } of ranks) {
    if (/what\(\)|EnforceNotMet|Received data/.test(output))
      assert.match(output, /^neva: rank \d of 2 on \S+ ends, at step 7, waiting for a sum: .*Received data size/m);
  }
});

test('ranks that have parted without a wait in vain are found out at the next sum of figures', async () => {
  for (const { status, output } of await runRanks('./collectives_rank.js', 2, ['unnoticed'])) {
    assert.equal(status, 0, output);
    assert.match(
      output,
      /found, waiting for a number, at step 7, that the ranks have taken part in different messages: /,
    );
    assert.match(
      output,
      /message \d of all ranks is all-reduce of 4 bytes of (Float|Int) here, and .* of (Float|Int) on/,
    );
  }
});

test('a process by itself has its results at once', () => {
  const engine = torchEngine();
  const tensor = engine.full([3], 2);
  ALONE.allReduce([tensor], '').wait();
  assert.deepEqual([...engine.read(tensor)], [2, 2, 2]);
  const output = engine.zeros([3]);
  ALONE.reduceScatter(tensor, output, '').wait();
  assert.deepEqual([...engine.read(output)], [2, 2, 2]);
  assert.deepEqual(ALONE.sum([1, 2], ''), [1, 2]);
  assert.deepEqual(ALONE.gather({ a: 1 }, ''), [{ a: 1 }]);
});
