/**
 * Checkpoints against the disk: saving, checking and converting as a share of `cp`'s speed on the same disk, the memory that conversion
 * takes, and how long training waits for a save.
 *
 *     npm run build && node dist/bench/checkpoint/run.js [--gb 2] [--rounds 3] [--folder /tmp] [--skip stall|speed]
 *
 * Needs four times --gb of free space. Writes bench/results/DATE-checkpoint.json.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { packageRoot } from '../../src/root.ts';
import { measureSpeed } from './speed.ts';
import { measureStall } from './stall.ts';

const { values: flags } = parseArgs({
  options: {
    gb: { type: 'string', default: '2' },
    rounds: { type: 'string', default: '3' },
    folder: { type: 'string', default: tmpdir() },
    skip: { type: 'string' },
  },
});

const folder = mkdtempSync(join(flags.folder, 'neva-bench-'));
try {
  const stall = flags.skip === 'stall' ? null : measureStall(folder);
  if (stall) console.log(JSON.stringify(stall, null, 2));
  const speed = flags.skip === 'speed' ? null : measureSpeed(folder, Number(flags.gb), Number(flags.rounds));
  if (speed) console.log(JSON.stringify(speed, null, 2));
  const date = new Date().toISOString().slice(0, 10);
  const out = join(packageRoot, 'bench/results', `${date}-checkpoint.json`);
  mkdirSync(join(packageRoot, 'bench/results'), { recursive: true });
  const load = spawnSync('cat', ['/proc/loadavg'], { encoding: 'utf8' }).stdout.trim();
  const machine = { cpu: cpus()[0]?.model, cores: cpus().length, node: process.version, load_after: load };
  // The half that was skipped stays as it was measured before.
  const before = existsSync(out) ? JSON.parse(readFileSync(out, 'utf8')) : {};
  const result = { ...before, date, machine, ...(stall ? { stall } : {}), ...(speed ? { speed } : {}) };
  writeFileSync(out, `${JSON.stringify(result, null, 2)}\n`);
  console.log(`written to ${out}`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
