/** Kills a run with SIGKILL at random moments and starts it again, over and over. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, type FSWatcher, mkdtempSync, readdirSync, readFileSync, rmSync, watch } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { checkpointsIn } from '../../src/checkpoint/folder.ts';
import { damageOf } from '../../src/checkpoint/manifest.ts';
import { neva, nevaArgs } from '../cli/neva.ts';
import { tiny } from '../cli/tiny.ts';

const STEPS = 60;

export interface Campaign {
  kills: number;
  /** Of them, while a checkpoint was half-written. */
  whileSaving: number;
  /** Runs that reached their last step between the kills. */
  completed: number;
}

/**
 * Goes on until `kills` processes have been killed: a third of them while they start, train, or save. After every kill, whatever has a
 * checkpoint's name is whole; every run that reaches its end has the losses of one that was never interrupted.
 */
export async function killCampaign(stage: 'pretrain' | 'finetune', kills: number, seed: number): Promise<Campaign> {
  const folder = mkdtempSync(join(tmpdir(), 'neva-kill-'));
  const options = { cwd: folder, env: { ...process.env, OMP_NUM_THREADS: '1' } };
  const args = (name: string) => [
    stage,
    `trainer.max_steps=${STEPS}`,
    `exp_manager.exp_dir=${name}`,
    'exp_manager.version=version_0',
    'exp_manager.resume_if_exists=true',
    'exp_manager.checkpoint_callback_params.every_n_train_steps=2',
    'exp_manager.checkpoint_callback_params.save_top_k=2',
    'trainer.log_every_n_steps=1',
    'trainer.precision=32',
    'model.mm_cfg.pretrain_mm_mlp_adapter=null',
    ...tiny,
  ];
  const runFile = (name: string, file: string) => join(folder, name, `neva_${stage}/version_0`, file);
  const losses = (name: string) =>
    readFileSync(runFile(name, 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line))
      .map(({ step, loss, grad_norm }) => [step, loss, grad_norm]);
  const random = mulberry32(seed);
  const result: Campaign = { kills: 0, whileSaving: 0, completed: 0 };
  try {
    const whole = neva(args('whole'), options);
    assert.equal(whole.status, 0, whole.stderr);
    const expected = losses('whole');
    const complete = () => {
      assert.deepEqual(losses('run'), expected);
      result.completed++;
      rmSync(join(folder, 'run'), { recursive: true });
    };
    while (result.kills < kills) {
      const checkpoints = runFile('run', 'checkpoints');
      const { pid, died } = await oneLife(args('run'), options, checkpoints, random);
      if (died) result.kills++;
      for (const name of checkpointsIn(checkpoints)) {
        assert.equal(damageOf(join(checkpoints, name)), null, `${name} after kill ${result.kills}`);
      }
      const left = existsSync(checkpoints) ? readdirSync(checkpoints) : [];
      if (left.some((name) => name.includes(`.${pid}.`) && isPartial(name))) result.whileSaving++;
      if (existsSync(runFile('run', 'finished'))) complete();
      else assert.ok(died, 'it ended without being killed or reaching its end');
    }
    const last = neva(args('run'), options);
    assert.equal(last.status, 0, last.stderr);
    complete();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return result;
}

const isPartial = (name: string) => name.endsWith('.partial');

/** One process from start to death; not killed, it came to its end. */
function oneLife(
  args: readonly string[],
  options: { cwd: string; env: NodeJS.ProcessEnv },
  checkpoints: string,
  random: () => number,
): Promise<{ pid: number; died: boolean }> {
  const child = spawn(process.execPath, nevaArgs(args), { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
  const moment = Math.floor(random() * 3);
  const [delay, skipped] = [random(), Math.floor(random() * 4)];
  let text = '';
  let watcher: FSWatcher | null = null;
  let timer: NodeJS.Timeout | null = null;
  const killIn = (ms: number) => {
    timer ??= setTimeout(() => child.kill('SIGKILL'), ms);
  };
  let seen = 0;
  const onTraining = () => {
    // Saving a checkpoint of this model takes some 100 ms, most of it waiting for the disk.
    if (moment === 1) killIn(delay * 1000);
    if (moment !== 2 || watcher) return;
    watcher = watch(checkpoints, (_event, name) => {
      if (name && isPartial(name) && seen++ >= skipped) killIn(delay * 120);
    });
  };
  if (moment === 0) killIn(delay * 2500);
  child.stderr.on('data', (piece) => {
    text += piece;
    if (/^\w+ +\d+\/\d+ /m.test(text)) onTraining();
  });
  return new Promise((resolve, reject) => {
    child.on('close', (status, signal) => {
      if (timer) clearTimeout(timer);
      watcher?.close();
      if (signal === 'SIGKILL' || status === 0) resolve({ pid: child.pid!, died: signal === 'SIGKILL' });
      else reject(new Error(`exit ${status}: ${text}`));
    });
  });
}

/** A small generator with a seed, so that a campaign's choices can be made again. */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
