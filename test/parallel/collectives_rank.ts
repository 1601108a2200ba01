/** One rank of group.test.ts: every collective once, against values that each rank can work out. */
import assert from 'node:assert/strict';
import type { DType } from '../../src/engine/engine.ts';
import { readPlace } from '../../src/parallel/environment.ts';
import { joinGroup, LostRanks } from '../../src/parallel/group.ts';
import { testGpu, torchEngine } from '../support/torch.ts';

const [mode = ''] = process.argv.slice(2);
const engine = torchEngine();
const env = process.env;
// One rank is no rank by its variables; here it is a group of one, which on a GPU is NCCL's.
const place =
  env.WORLD_SIZE === '1'
    ? { ...readPlace({ ...env, WORLD_SIZE: '2', LOCAL_WORLD_SIZE: '2' })!, world: 1, localWorld: 1 }
    : readPlace(env)!;
const group = await joinGroup(place, mode === '' ? 60 : 2, env, testGpu);
const { rank, size } = group;
const ranks = Array.from({ length: size }, (_, r) => r);
const vector = (values: number[], dtype: DType = 'float32') =>
  engine.tensor(Float32Array.from(values), [values.length], dtype);
const total = (of: (r: number) => number) => ranks.reduce((sum, r) => sum + of(r), 0);

const pids = mode === '' ? [] : group.gather(process.pid, 'process ids');
if (mode !== '') group.during = 'step 7';

if (mode === '') everyCollective();
else if (rank === 1 && mode === 'die') process.kill(process.pid, 'SIGKILL');
else if (rank === 1 && mode === 'hang') await new Promise((resolve) => setTimeout(resolve, 7000));
else if (rank === 1 && mode === 'stop') {
  // After its next post.
  await new Promise((resolve) => setTimeout(resolve, 700));
  process.kill(process.pid, 'SIGSTOP');
} else if (mode === 'sizes') group.allReduce([vector(rank === 0 ? [1] : [1, 2])], 'a sum').wait();
else if (mode === 'unnoticed') {
  // Both come to an end, each with something else.
  group.allReduce([rank === 0 ? vector([1]) : engine.tensor(Int32Array.of(1), [1])], 'a sum').wait();
  assert.throws(
    () => group.sum([1], 'a number'),
    (error: Error) => {
      console.log(error.message);
      return error instanceof LostRanks;
    },
  );
} else if (rank === 1 && mode === 'other') {
  assert.throws(
    () => group.broadcast(vector([1]), 0, 'a value').wait(),
    (error: Error) => {
      console.log(error.message);
      return error instanceof LostRanks;
    },
  );
} else {
  const began = performance.now();
  assert.throws(
    () => group.allReduce([vector([1])], 'a sum').wait(),
    (error: Error) => {
      console.log(`${((performance.now() - began) / 1000).toFixed(3)} ${error.message}`);
      return error instanceof LostRanks;
    },
  );
  if (mode === 'stop') process.kill(pids[1]!, 'SIGKILL');
}

function everyCollective(): void {
  // One message of several shapes, one of them not contiguous, and one alone.
  const square = engine.reshape(vector([rank, 1, 2, 3]), [2, 2]);
  const turned = engine.transpose(engine.reshape(vector([10 * rank, 1, 2, 3]), [2, 2]), 0, 1);
  const single = vector([rank + 1]);
  const works = [group.allReduce([square, turned], 'sums'), group.allReduce([single], 'a sum')];
  for (const work of works) work.wait();
  assert.ok(works.every(({ done }) => done));
  assert.deepEqual([...engine.read(square)], [total((r) => r), size, 2 * size, 3 * size]);
  assert.deepEqual([...engine.read(turned)], [total((r) => 10 * r), 2 * size, size, 3 * size]);
  assert.equal(
    engine.item(single),
    total((r) => r + 1),
  );

  const rough = vector([rank + 0.5], 'bfloat16');
  group.allReduce([rough], 'a bfloat16 sum').wait();
  assert.equal(
    engine.item(rough),
    total((r) => r + 0.5),
  );

  const given = vector([rank, 7]);
  group.broadcast(given, size - 1, 'values').wait();
  assert.deepEqual([...engine.read(given)], [size - 1, 7]);

  const gathered = vector(ranks.flatMap(() => [0, 0]));
  group.allGather(vector([rank, 7]), gathered, 'parts').wait();
  assert.deepEqual(
    [...engine.read(gathered)],
    ranks.flatMap((r) => [r, 7]),
  );

  const part = vector([0, 0]);
  group.reduceScatter(vector(ranks.flatMap((r) => [r, rank])), part, 'parts').wait();
  assert.deepEqual([...engine.read(part)], [size * rank, total((r) => r)]);

  assert.throws(() => group.reduceScatter(vector([1]), vector([0, 0]), 'parts'), /float32\[1\] does not make \d parts/);

  if (size > 1) {
    const box = vector([rank]);
    const next = vector([0]);
    const to = group.send(box, (rank + 1) % size, 'a box');
    const from = group.receive(next, (rank + size - 1) % size, 'a box');
    for (const work of [to, from]) work.wait();
    assert.equal(engine.item(next), (rank + size - 1) % size);
  }

  group.barrier('all');
  assert.deepEqual(group.sum([0.1 * (rank + 1), 1], 'numbers')[1], size);
  assert.deepEqual(group.share(rank === 0 ? { where: 'hér', n: [1] } : null, 'a word'), { where: 'hér', n: [1] });
  assert.deepEqual(
    group.gather('x'.repeat(rank), 'words'),
    ranks.map((r) => 'x'.repeat(r)),
  );
  assert.throws(() => group.broadcast(engine.transpose(engine.zeros([2, 3]), 0, 1), 0, 'x'), /not contiguous/);
  group.close();
  console.log('all right');
}
