import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ALONE } from '../../src/parallel/group.ts';
import { torchEngine } from '../support/torch.ts';
import { runRanks } from './ranks.ts';

for (const world of [2, 3]) {
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
  assert.match(killed!.output, /^0\.\d+ rank 0 of 2 on \S+ waited for a sum, at step 7: .*(closed|reset)/m);
  const [hung] = await runRanks('./collectives_rank.js', 2, ['hang']);
  assert.equal(hung!.status, 0, hung!.output);
  assert.match(
    hung!.output,
    /^2\.\d+ rank 0 of 2 on \S+ waited for a sum, at step 7: nothing came in time \(Timed out waiting 2000ms/m,
  );
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
