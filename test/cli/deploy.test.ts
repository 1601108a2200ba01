/** What deploy/ would run: its configurations compose, and the Slurm script starts the ranks that it asks for. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'yaml';
import { packageRoot } from '../../src/root.ts';
import { neva } from './neva.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-deploy-'));
after(() => rmSync(folder, { recursive: true, force: true }));
const deploy = (name: string) => join(packageRoot, 'deploy', name);
const manifest = (name: string) => parse(readFileSync(deploy(name), 'utf8'));

test('the manifests run a verb with overrides that compose', () => {
  const { Master, Worker } = manifest('pytorchjob.yaml').spec.pytorchReplicaSpecs;
  assert.deepEqual([Master.replicas, Worker.replicas], [1, 3]);
  assert.deepEqual(Worker.template, Master.template);
  const pods = [Master.template.spec, manifest('job.yaml').spec.template.spec];
  for (const { containers } of pods) {
    const [{ command, args }] = containers;
    const [program, ...words] = command;
    assert.equal(program, 'npx');
    const { status, stderr } = neva([...words.slice(1), ...args, '--cfg', 'job'], { cwd: folder });
    assert.equal(status, 0, stderr);
  }
});

test('the Slurm script sets up each machine once and starts a rank a task', () => {
  // Stands for srun: writes down how it was called.
  writeFileSync(join(folder, 'srun'), '#!/bin/bash\necho "$@"\n', { mode: 0o755 });
  const { status, stdout, stderr } = spawnSync('bash', [deploy('slurm.sh'), 'finetune', 'model=llama2_7b'], {
    encoding: 'utf8',
    env: {
      ...process.env,
      PATH: `${folder}:${process.env.PATH}`,
      SLURM_CPUS_PER_TASK: '8',
      SLURM_NNODES: '2',
      SLURM_NTASKS_PER_NODE: '4',
    },
  });
  assert.equal(status, 0, stderr);
  assert.deepEqual(stdout.trimEnd().split('\n'), [
    '--ntasks-per-node=1 --ntasks=2 npx neva setup',
    '--kill-on-bad-exit=1 --cpu-bind=cores npx neva finetune trainer.devices=4 trainer.num_nodes=2 exp_manager.resume_if_exists=true model=llama2_7b',
  ]);
});
