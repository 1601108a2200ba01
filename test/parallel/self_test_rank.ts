/** One rank of self_test.test.ts: the self-test, with what `mode` breaks on rank 1. */
import type { Tensor } from '../../src/engine/engine.ts';
import { readPlace } from '../../src/parallel/environment.ts';
import { type Group, joinGroup } from '../../src/parallel/group.ts';
import { selfTest } from '../../src/parallel/self_test.ts';
import { torchEngine } from '../support/torch.ts';

const [mode = ''] = process.argv.slice(2);
const engine = torchEngine();
const group = await joinGroup(readPlace(process.env)!, 10, process.env);

/** The same ranks, where a tensor has one wrong element once a collective is done. */
const breaking = (which: 'allReduce' | 'allGather' | 'reduceScatter' | 'receive'): Group =>
  new Proxy(group, {
    get(target, name) {
      const own = Reflect.get(target, name, target);
      if (typeof own !== 'function') return own;
      if (name !== which || group.rank !== 1) return own.bind(target);
      return (...args: Tensor[]) => {
        const work = own.apply(target, args);
        const tensor =
          which === 'allReduce' ? (args[0] as unknown as Tensor[])[0]! : args[which === 'receive' ? 0 : 1]!;
        return {
          wait() {
            work.wait();
            engine.scope(() => engine.assign(engine.slice(tensor, 0, 5, 6), engine.full([1], 0.5)));
          },
        };
      };
    },
    set: (target, name, value) => Reflect.set(target, name, value, target),
  });

if (mode === 'gone' && group.rank === 1) {
  group.gather('elsewhere', 'hosts');
  process.kill(process.pid, 'SIGKILL');
}
try {
  const under = mode === 'gone' || mode === 'well' ? group : breaking(mode as 'allReduce');
  console.log(JSON.stringify(selfTest(engine, under, [4096, 40_000])));
} catch (error) {
  console.log(JSON.stringify({ name: (error as Error).name, message: (error as Error).message }));
}
