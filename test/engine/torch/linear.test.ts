/** Products large enough for oneDNN (native/kernels.cpp) against LibTorch's own linear in float64, on the same numbers. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { DType, Parameter, Tensor } from '../../../src/engine/engine.ts';
import { assertClose } from '../../support/allclose.ts';
import { float32Bound, torchEngine } from '../../support/torch.ts';

const engine = torchEngine(3);
const [B, T, K, N] = [2, 96, 256, 512]; // 2·B·T·K·N = 5e7, above the threshold

const drawn = {
  x: engine.normal([B, T, K], 0, 1),
  weight: engine.normal([N, K], 0, 0.1),
  bias: engine.normal([N], 0, 1),
  gradient: engine.normal([B, T, N], 0, 1),
};

function run(dtype: DType, { bias, trains }: { bias: boolean; trains: boolean }) {
  const as = (tensor: Tensor) => engine.cast(tensor, dtype);
  const parameter = (name: string, value: Tensor): Parameter => ({
    name,
    value,
    trainable: trains,
    decay: true,
    grad: null,
    main: null,
  });
  const [w, b] = [parameter('w', as(drawn.weight)), parameter('b', as(drawn.bias))];
  const segment = {
    name: 'linear',
    parameters: bias ? [w, b] : [w],
    forward: ([x]: readonly Tensor[]) => [engine.linear(x!, w.value, bias ? b.value : null)],
  };
  const vjp = engine.vjp(segment, [as(drawn.x)], [true]);
  const y = engine.read(vjp.outputs[0]!);
  const [dx] = vjp.backward([as(drawn.gradient)]);
  return {
    y,
    dx: engine.read(dx!),
    dw: w.grad && engine.read(w.grad),
    db: b.grad && engine.read(b.grad),
    shape: dx!.shape,
  };
}

for (const bias of [true, false]) {
  for (const trains of [true, false]) {
    test(`${bias ? 'with' : 'without'} bias, weights ${trains ? 'learn' : 'are frozen'}`, () => {
      const [got, want] = [run('float32', { bias, trains }), run('float64', { bias, trains })];
      assert.deepEqual(got.shape, [B, T, K]);
      assertClose(got.y, want.y, { relative: float32Bound }, 'y');
      assertClose(got.dx, want.dx, { relative: float32Bound }, 'dx');
      for (const name of ['dw', 'db'] as const) {
        assert.equal(got[name] === null, !trains || (name === 'db' && !bias));
        if (got[name]) assertClose(got[name], want[name]!, { relative: float32Bound }, name);
      }
    });
  }
}

test('the same product twice: the same bits', () => {
  const twice = [1, 2].map(() => run('float32', { bias: true, trains: true }));
  assert.deepEqual(twice[0], twice[1]);
});
