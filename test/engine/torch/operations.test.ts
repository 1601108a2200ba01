/** Every model operation of the torch engine, and its gradients, against PyTorch (test/tools/op_reference.py). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { operationCases, testOperations } from '../../support/operations.ts';
import { float32Bound, torchEngine } from '../../support/torch.ts';

testOperations(torchEngine(), operationCases, float32Bound);

test('every operation of the engine has a case', () => {
  const tested = new Set(operationCases.map(({ op }) => op));
  const operations = (
    'linear embedding rmsNorm layerNorm attention rope patchEmbed silu siluMul relu gelu geluTanh quickGelu crossEntropy ' +
    'add mul scale cast reshape transpose expand slice concat gatherRows scatterRows argmax'
  ).split(' ');
  assert.deepEqual([...tested].sort(), operations.sort());
});
