/** Two "machines": network namespaces with a cable between them. Needs root and iproute2; skipped elsewhere. */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { neva, nevaArgs } from '../cli/neva.ts';
import { tiny } from '../cli/tiny.ts';

const id = process.pid % 10_000;
const hosts = [0, 1].map((i) => ({ name: `neva-${id}-${i}`, link: `nv${id}x${i}`, address: `10.77.0.${i + 1}` }));
const ip = (...args: string[]) => execFileSync('ip', args, { stdio: 'pipe' });
const possible = process.getuid?.() === 0 && spawnSync('ip', ['netns', 'add', hosts[0]!.name]).status === 0;
const skip = possible ? false : 'needs root, iproute2 and the right to make network namespaces';

const folder = mkdtempSync(join(tmpdir(), 'neva-hosts-'));
after(() => {
  rmSync(folder, { recursive: true, force: true });
  for (const { name } of hosts) spawnSync('ip', ['netns', 'del', name]);
});

if (possible) {
  ip('netns', 'add', hosts[1]!.name);
  ip('link', 'add', hosts[0]!.link, 'type', 'veth', 'peer', 'name', hosts[1]!.link);
  for (const { name, link, address } of hosts) {
    ip('link', 'set', link, 'netns', name);
    ip('-n', name, 'addr', 'add', `${address}/24`, 'dev', link);
    ip('-n', name, 'link', 'set', link, 'up');
    ip('-n', name, 'link', 'set', 'lo', 'up');
  }
}

const env = { ...process.env, OMP_NUM_THREADS: '1' };
const args = (steps: number, name: string, ...more: string[]) => [
  'pretrain',
  `trainer.max_steps=${steps}`,
  `exp_manager.exp_dir=${name}`,
  ...tiny,
  'model.micro_batch_size=4',
  'trainer.precision=32',
  'trainer.log_every_n_steps=1',
  ...more,
];

/** `neva launch` on one of the two; `onText` sees its standard error as it grows. */
function start(host: number, command: string[], onText: (text: string) => void = () => {}, nproc = 1) {
  const launch = [
    'launch',
    '--nproc',
    String(nproc),
    '--nnodes',
    '2',
    '--node-rank',
    String(host),
    '--rdzv',
    '10.77.0.1:29400',
  ];
  const child = spawn(
    'ip',
    ['netns', 'exec', hosts[host]!.name, process.execPath, ...nevaArgs([...launch, ...command])],
    { cwd: folder, env, stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let text = '';
  child.stderr.on('data', (piece) => {
    text += piece;
    onText(text);
  });
  return once(child, 'close').then(([status]) => ({ status: status as number, text, at: performance.now() }));
}

const losses = (name: string) =>
  readFileSync(join(folder, name, 'neva_pretrain/version_0/metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line).loss as number);

test('two machines give the losses of one process', { skip }, async () => {
  const both = await Promise.all([0, 1].map((host) => start(host, args(10, 'two'))));
  for (const { status, text } of both) assert.equal(status, 0, text);
  assert.equal(neva(args(10, 'one'), { cwd: folder, env }).status, 0);
  losses('two').forEach((loss, i) => {
    assert.ok(Math.abs(loss / losses('one')[i]! - 1) < 1e-5, `step ${i + 1}: ${loss}`);
  });
});

/** Ranks on each of the two, and the way in which they share the work. */
const LAYOUTS: readonly (readonly [string, number, string[]])[] = [
  ['dp2', 1, []],
  ['tp2', 1, ['model.micro_batch_size=8', 'model.tensor_model_parallel_size=2']],
  ['pp2', 1, ['model.pipeline_model_parallel_size=2']],
  ['dp2+tp2', 2, ['model.tensor_model_parallel_size=2']],
];

for (const [name, nproc, layout] of LAYOUTS) {
  test(`${name}: a cut cable ends both sides within the timeout, and each names the ranks beyond`, {
    skip,
  }, async () => {
    let cut = 0;
    const command = args(100_000, `cut-${name}`, ...layout, 'trainer.collective_timeout=5');
    const onText = (text: string) => {
      if (cut > 0 || !/^pretrain +3\//m.test(text)) return;
      cut = performance.now();
      ip('-n', hosts[0]!.name, 'link', 'set', hosts[0]!.link, 'down');
    };
    try {
      const both = await Promise.all([start(0, command, onText, nproc), start(1, command, () => {}, nproc)]);
      const world = 2 * nproc;
      for (const [host, { status, text, at }] of both.entries()) {
        assert.equal(status, 1, text);
        assert.match(text, new RegExp(`^neva: rank \\d of ${world} on \\S+ waited for .*, at step \\d+: `, 'm'));
        // Beyond the cable: on the host of rank 0 by their posts, on the other by the store, which is silent.
        const beyond =
          host === 0 ? `rank [${nproc}-${world - 1}] of ${world} on \\S+ does not answer` : 'rank 0, at whose store';
        assert.match(text, new RegExp(beyond));
        assert.ok((at - cut) / 1000 < 25, `${(at - cut) / 1000} s`);
      }
    } finally {
      for (const { name: space, link } of hosts) ip('-n', space, 'link', 'set', link, 'up');
    }
  });
}
