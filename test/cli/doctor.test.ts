/** `neva doctor` on what TensorFlow.js finds and lacks. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeTfjs, type TfjsFindings, tfjsAdvice } from '../../src/cli/examine_tfjs.ts';
import { neva } from './neva.ts';

test('without LibTorch it says so, and that TensorFlow.js trains', () => {
  const { status, stdout } = neva(['doctor'], { env: { NEVA_LIBTORCH: '/nonexistent' } });
  assert.equal(status, 0);
  assert.match(stdout, /^tfjs +plain JavaScript; tfjs-node not installed; tfjs-node-gpu not installed$/m);
  assert.match(stdout, /^- NEVA_LIBTORCH: no LibTorch/m);
  assert.match(stdout, /^- trainer\.engine=tfjs trains without LibTorch/m);
  assert.match(stdout, /^- Faster than plain JavaScript: npm install --no-save @tensorflow\/tfjs-node/m);
  const { tfjs } = JSON.parse(neva(['doctor', '--json'], { env: { NEVA_LIBTORCH: '/nonexistent' } }).stdout);
  assert.deepEqual(tfjs, { backend: 'cpu', node: null, nodeGpu: null });
});

test('a package without its addon, and a GPU that it could use', () => {
  const broken: TfjsFindings = {
    backend: 'node',
    node: { path: '/p', version: '4.22.0', addon: false },
    nodeGpu: null,
  };
  assert.match(describeTfjs(broken), /tfjs-node 4\.22\.0 in \/p WITHOUT its addon/);
  assert.match(
    tfjsAdvice(broken, { torch: true, gpu: true }).join('\n'),
    /^tfjs-node has no addon .*docs\/engines\.md/,
  );
  const advice = tfjsAdvice(broken, { torch: false, gpu: true }).join('\n');
  assert.match(advice, /tfjs-node-gpu \(TensorFlow 2\.9: CUDA 11\.2/);
  const good: TfjsFindings = { backend: 'node', node: { path: '/p', version: '4.22.0', addon: true }, nodeGpu: null };
  assert.doesNotMatch(tfjsAdvice(good, { torch: true, gpu: false }).join('\n'), /addon|npm install/);
});
