/** Every model operation of the tfjs engine, and its gradients, against PyTorch (test/tools/op_reference.py). */
import { operationCases, testOperations } from '../../support/operations.ts';
import { tfjsEngine } from '../../support/tfjs.ts';

const lowPrecision = ({ op, name }: { op: string; name: string }) => name.endsWith('.bfloat16') && op !== 'cast';

testOperations(
  await tfjsEngine(),
  operationCases.filter((each) => !lowPrecision(each)),
);
