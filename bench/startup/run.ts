/**
 * From a command line to its end: help, a composed configuration, and the demo's first step; beside them what importing torch and
 * transformers costs a Python trainer before its first line.
 *
 *     npm run build && node dist/bench/startup/run.js [--repeats 7] [--out FILE]
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/root.ts';
import { median } from '../peer.ts';
import { writeResult } from '../results.ts';

const { values: flags } = parseArgs({
  options: { repeats: { type: 'string', default: '7' }, out: { type: 'string' } },
});
const folder = mkdtempSync(join(tmpdir(), 'neva-startup-'));
const neva = join(packageRoot, 'bin/neva.js');
const firstStep = [
  'pretrain',
  'trainer.max_steps=1',
  'exp_manager.resume_if_exists=false',
  'exp_manager.create_checkpoint_callback=false',
];
const COMMANDS: readonly (readonly [string, string, readonly string[]])[] = [
  ['neva --help', process.execPath, [neva, '--help']],
  ['neva config show', process.execPath, [neva, 'config', 'show']],
  ['neva pretrain, one step of the demo', process.execPath, [neva, ...firstStep]],
  ['node -e 0', process.execPath, ['-e', '0']],
  [
    'python: import torch, transformers',
    'python3',
    ['-c', 'import torch; from transformers import LlavaForConditionalGeneration'],
  ],
];

const seconds = new Map<string, number[]>(COMMANDS.map(([name]) => [name, []]));
try {
  for (let i = 0; i < Number(flags.repeats); i++) {
    for (const [name, program, args] of COMMANDS) {
      const began = performance.now();
      const { status, stderr } = spawnSync(program, args, { cwd: folder, encoding: 'utf8' });
      if (status !== 0) throw new Error(`${name}: ended with ${status}\n${stderr}`);
      seconds.get(name)!.push((performance.now() - began) / 1000);
    }
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
const results = [...seconds].map(([name, all]) => ({
  name,
  median_s: median(all),
  min_s: Math.min(...all),
  max_s: Math.max(...all),
}));
for (const { name, median_s, min_s, max_s } of results)
  console.log(`${name.padEnd(40)} ${median_s.toFixed(3)} s  (${min_s.toFixed(3)} to ${max_s.toFixed(3)})`);
writeResult('startup', { repeats: Number(flags.repeats), results }, flags.out);
