/**
 * The tfjs engine over 200 steps on plain JavaScript, and all of it again on tfjs-node where NEVA_TFJS_NODE names the folder
 * that test/tools/tfjs_node.sh made.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { TinyRun } from '../support/tiny_run.ts';

const STEPS = 200;
const program = fileURLToPath(new URL('../support/tfjs_run.js', import.meta.url));

interface Figures extends TinyRun {
  /** Resident bytes after each step. */
  resident: number[];
}

/** Node 23 has these two no longer, and tfjs-node 4.22 calls them. */
const WITHOUT_UTIL =
  "--import=data:text/javascript,import util from 'node:util'; delete util.isNullOrUndefined; delete util.isArray";

/** A process of its own for each backend: core has one at a time, and memory figures should be its alone. */
function run(backend: string, cwd: string, steps = STEPS, flags: string[] = []): Figures {
  const args = ['--expose-gc', ...flags, program, backend, String(steps)];
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: '2' },
    maxBuffer: 2 ** 26,
  });
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout);
}

const node = process.env.NEVA_TFJS_NODE;

test('every test of test/engine/tfjs on tfjs-node', { skip: node ? false : 'NEVA_TFJS_NODE is not set' }, () => {
  const folder = fileURLToPath(new URL('../engine/tfjs/', import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith('.test.js'));
  assert.ok(files.length >= 3);
  const { NODE_TEST_CONTEXT: _, ...env } = process.env; // or the inner tests would report to this one's runner
  const args = ['--test', '--test-concurrency=1', ...files.map((name) => join(folder, name))];
  const { status, stdout } = spawnSync(process.execPath, args, {
    cwd: node,
    encoding: 'utf8',
    env: { ...env, NEVA_TFJS_BACKEND: 'node', TF_CPP_MIN_LOG_LEVEL: '2' },
    maxBuffer: 2 ** 26,
  });
  assert.equal(status, 0, stdout);
});

const backends = [
  { backend: 'cpu', cwd: process.cwd(), skip: false },
  { backend: 'node', cwd: node ?? '', skip: node ? false : 'NEVA_TFJS_NODE is not set' },
];

for (const { backend, cwd, skip } of backends) {
  test(`${STEPS} steps on ${backend}: it learns, and tensors and memory stay flat`, { skip }, () => {
    const { losses, live, resident } = run(backend, cwd);
    assert.ok(losses.at(-1)! < 0.2 * losses[0]!, `${losses[0]} → ${losses.at(-1)}`);
    assert.deepEqual([...new Set(live)], [live[0]], 'live tensors');
    const [early, late] = [resident[STEPS / 4]!, Math.min(...resident.slice(-STEPS / 4))];
    assert.ok(late < early + 32 * 2 ** 20, `resident memory went from ${early} to ${late} bytes`);
  });
}

test('tfjs-node without the functions that Node 23 removed', {
  skip: node ? false : 'NEVA_TFJS_NODE is not set',
}, () => {
  const probe = spawnSync(process.execPath, [WITHOUT_UTIL, '-p', 'typeof require("util").isArray'], {
    encoding: 'utf8',
  });
  assert.equal(probe.stdout.trim(), 'undefined', 'the test takes them away');
  assert.equal(run('node', node!, 2, [WITHOUT_UTIL]).losses.length, 2);
});
