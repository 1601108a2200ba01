/** Runs of several ranks from the command line: started, stopped, failed and gone on with, leaving no process behind. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { packageRoot } from '../../src/root.ts';
import { neva, nevaArgs } from './neva.ts';
import { tiny } from './tiny.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-ranks-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const env = { ...process.env, OMP_NUM_THREADS: '1' };
const options = { cwd: folder, env };
const common = ['trainer.precision=32', 'trainer.log_every_n_steps=1', 'trainer.num_threads=1'];
/** Two micro batches of four a step, unlike the tiny model's one of eight. */
const overrides = (steps: number, name: string, ...more: string[]) => [
  `trainer.max_steps=${steps}`,
  `exp_manager.exp_dir=${name}`,
  ...tiny,
  'model.micro_batch_size=4',
  ...common,
  ...more,
];
const runFolder = (name: string, version = 0) => join(folder, name, 'neva_pretrain', `version_${version}`);
const lines = (file: string): Record<string, never>[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
const figures = (name: string) => lines(join(runFolder(name), 'metrics.jsonl')) as unknown as Record<string, number>[];
const losses = (name: string) => figures(name).flatMap(({ loss }) => (loss === undefined ? [] : [loss]));

/** Process ids by rank, as neva.log has them. */
function pids(name: string): Map<number, number> {
  const all = lines(join(runFolder(name), 'neva.log')) as unknown as { rank: number; pid: number }[];
  return new Map(all.map(({ rank, pid }) => [rank, pid]));
}

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

async function until(what: () => boolean, seconds: number, name: string): Promise<void> {
  for (const end = performance.now() + seconds * 1000; !what(); ) {
    assert.ok(performance.now() < end, `${name}: not within ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Starts a run and acts on it once `step` has been printed, as often as that is to be. */
async function during(args: string[], step: number, act: (child: ChildProcess) => void, times = 1) {
  const child = spawn(process.execPath, nevaArgs(args), { ...options, stdio: 'pipe' });
  let text = '';
  let acted = 0;
  let count = 0;
  child.stderr.on('data', (piece) => {
    text += piece;
    if (count < times && (text.match(new RegExp(`^pretrain +${step}/`, 'gm'))?.length ?? 0) > count) {
      count += 1;
      acted = performance.now();
      act(child);
    }
  });
  const [status] = await once(child, 'close');
  return { status, text, seconds: (performance.now() - acted) / 1000 };
}

const close = (a: number[], b: number[]) => {
  assert.equal(a.length, b.length);
  a.forEach((value, i) => {
    assert.ok(Math.abs(value / b[i]! - 1) < 1e-5, `step ${i + 1}: ${value} and ${b[i]}`);
  });
};

test('trainer.devices=2 and neva launch give the losses of one process; rank 0 writes, all log', () => {
  const more = [
    `model.data.validation_data_path=${join(packageRoot, 'data/demo/pretrain.json')}`,
    'trainer.val_check_interval=4',
    'trainer.limit_val_batches=3',
  ];
  const single = neva(['pretrain', ...overrides(6, 'single', ...more)], options);
  assert.equal(single.status, 0, single.stderr);
  const two = neva(['pretrain', ...overrides(6, 'two', ...more, 'trainer.devices=2')], options);
  assert.equal(two.status, 0, two.stderr);
  assert.match(two.stderr, /^2 ranks = pipeline 1 × data 2 × tensor 1$/m);
  const launched = neva(['launch', '--nproc', '2', 'pretrain', ...overrides(6, 'launched', ...more)], options);
  assert.equal(launched.status, 0, launched.stderr);
  const stages = ['trainer.devices=2', 'model.pipeline_model_parallel_size=2'];
  const piped = neva(['pretrain', ...overrides(6, 'piped', ...more, ...stages)], options);
  assert.equal(piped.status, 0, piped.stderr);
  assert.match(piped.stderr, /^2 ranks = pipeline 2 × data 1 × tensor 1$/m);
  const parts = (text: string) => text.match(/^(?:vision_encoder|projector|llm|all) .*$/gm);
  assert.deepEqual(parts(piped.stderr), parts(single.stderr), 'parts are counted over all stages');
  for (const name of ['two', 'launched', 'piped']) {
    close(losses(name), losses('single'));
    for (const key of ['tokens', 'label_tokens', 'consumed_samples']) {
      assert.deepEqual(
        figures(name).map((line) => line[key]),
        figures('single').map((line) => line[key]),
        key,
      );
    }
    const validation = (run: string) =>
      figures(run).flatMap(({ val_loss: loss }) => (loss === undefined ? [] : [loss]));
    assert.equal(validation(name).length, 1);
    close(validation(name), validation('single'));
    assert.deepEqual([...pids(name).keys()].sort(), [0, 1]);
    // The validation after step 4 saves too.
    assert.deepEqual(readdirSync(join(runFolder(name), 'checkpoints')), ['last', 'step=0000004', 'step=0000006']);
  }
});

/** Ways to lay out a run, by what stands in messages. */
const layouts = {
  'one process': [],
  tp2: ['trainer.devices=2', 'model.tensor_model_parallel_size=2'],
  'tp2, sequence parallel': ['trainer.devices=2', 'model.tensor_model_parallel_size=2', 'model.sequence_parallel=true'],
  tp4: ['trainer.devices=4', 'model.tensor_model_parallel_size=4'],
  'dp2, sharded': ['trainer.devices=2', 'model.optim.name=distributed_fused_adam'],
  dp4: ['trainer.devices=4'],
  pp2: ['trainer.devices=2', 'model.pipeline_model_parallel_size=2'],
  'tp2 × dp2, sharded': [
    'trainer.devices=4',
    'model.tensor_model_parallel_size=2',
    'model.optim.name=distributed_fused_adam',
  ],
  'pp2 × tp2': ['trainer.devices=4', 'model.tensor_model_parallel_size=2', 'model.pipeline_model_parallel_size=2'],
} as const;
type Layout = keyof typeof layouts;

/** Where a run begins, and where its checkpoint is gone on with. */
const journeys: [Layout, Layout[]][] = [
  ['tp2 × dp2, sharded', ['one process', 'tp4', 'dp4', 'pp2']],
  ['pp2', ['one process', 'tp2, sequence parallel', 'dp2, sharded']],
  ['one process', ['tp2', 'pp2 × tp2']],
];

test('checkpoints are whole, and are gone on with in any other layout: losses, weights and answers of one process', () => {
  const all = [
    ...['model.mm_cfg.pretrain_mm_mlp_adapter=null', 'model.micro_batch_size=2'],
    // The demo's 512 tokens are padded then.
    'model.make_vocab_size_divisible_by=96',
    ...['trainer.max_steps=6', 'model.optim.sched.max_steps=6', 'model.optim.sched.warmup_steps=1'],
  ];
  const folderOf = (name: string) => join(folder, name, 'neva_finetune', 'version_0');
  const lossesOf = (name: string) =>
    lines(join(folderOf(name), 'metrics.jsonl')).map(({ loss }) => loss as unknown as number);
  const run = (name: string, ...more: string[]) => {
    const { status, stderr } = neva(['finetune', ...overrides(6, name, ...all, ...more)], options);
    assert.equal(status, 0, stderr);
    return stderr;
  };
  const ended = (name: string) => join(folderOf(name), 'checkpoints', 'step=0000006');
  const weights = (name: string) => [...readSafetensors(join(ended(name), 'model.safetensors')).entries.values()];
  const shapes = (name: string) =>
    weights(name)
      .map(({ name: key, dtype, shape }) => `${key} ${dtype} ${shape.join()}`)
      .sort();
  const lossBy = (name: string) => {
    const asked = ['--model', ended(name), '--no-answers', '--limit', '40'];
    const held = ['heldout.json', 'images'].map((each) => join(packageRoot, 'data/demo', each));
    const data = [`model.data.data_path=${held[0]}`, `model.data.image_folder=${held[1]}`];
    const { status, stdout, stderr } = neva(['evaluate', ...asked, ...data], options);
    assert.equal(status, 0, stderr);
    return (JSON.parse(stdout) as { loss: number }).loss;
  };

  run('whole');
  for (const [from, others] of journeys) {
    const first = `from ${from.replaceAll(/\W+/g, '-')}`;
    const said = run(first, ...layouts[from], 'trainer.max_steps=3');
    if (from === 'pp2') assert.match(said, /^layers of the language model on each stage: 1, 1$/m);
    for (const [i, to] of others.entries()) {
      const name = `${first} ${i}`;
      cpSync(join(folder, first), join(folder, name), { recursive: true });
      run(name, ...layouts[to], 'exp_manager.resume_past_end=true');
      const [own, wanted] = [lossesOf(name), lossesOf('whole')];
      assert.equal(own.length, 6, `${from} → ${to}`);
      own.forEach((loss, step) => {
        const off = Math.abs(loss / wanted[step]! - 1);
        assert.ok(off < 1e-5, `${from} → ${to}: step ${step + 1}: ${loss}, alone ${wanted[step]}`);
      });
      assert.deepEqual(shapes(name), shapes('whole'), `${from} → ${to}`);
    }
  }
  const [own, wanted] = [lossBy('from tp2-dp2-sharded 3'), lossBy('whole')];
  assert.ok(Math.abs(own / wanted - 1) < 1e-5, `evaluated: ${own}, alone ${wanted}`);
});

for (const victim of ['one rank', 'the launcher'] as const) {
  test(`SIGTERM to ${victim} saves once and ends all with 143; going on gives the uninterrupted run`, async () => {
    const name = `stopped-${victim.replaceAll(' ', '-')}`;
    const args = ['pretrain', ...overrides(40, name, 'trainer.devices=2', 'trainer.max_restarts=1')];
    const { status, text } = await during(args, 3, (child) => {
      if (victim === 'the launcher') child.kill('SIGTERM');
      else process.kill(pids(name).get(1)!, 'SIGTERM');
    });
    assert.equal(status, 143, text);
    assert.doesNotMatch(text, /restart/);
    const done = losses(name).length;
    assert.ok(done >= 3 && done < 40, `it stopped after step ${done}`);
    const saved = readdirSync(join(runFolder(name), 'checkpoints'));
    assert.deepEqual(saved, ['last', `step=${String(done).padStart(7, '0')}`]);
    for (const pid of pids(name).values()) assert.ok(!isAlive(pid));

    const again = neva(args, options);
    assert.equal(again.status, 0, again.stderr);
    const whole = neva(['pretrain', ...overrides(40, `whole-${name}`, 'trainer.devices=2')], options);
    assert.equal(whole.status, 0, whole.stderr);
    assert.deepEqual(losses(name), losses(`whole-${name}`), 'bit for bit');
  });
}

test('the checkpoint of a sharded optimizer goes on bit for bit, and on another number of ranks', () => {
  const sharded = [
    'model.mm_cfg.pretrain_mm_mlp_adapter=null',
    'model.optim.name=distributed_fused_adam',
    'model.optim.sched.max_steps=8',
  ];
  const o2 = ['trainer.precision=bf16', 'model.megatron_amp_O2=true', 'model.optim.grad_sync_dtype=bf16'];
  for (const [kind, more] of [
    ['float32', sharded],
    ['o2', [...sharded, ...o2]],
  ] as const) {
    const run = (name: string, steps: number, devices: number, ...also: string[]) => {
      const args = overrides(steps, `${kind}-${name}`, ...more, `trainer.devices=${devices}`, ...also);
      const { status, stderr } = neva(['finetune', ...args], options);
      assert.equal(status, 0, stderr);
    };
    const goOn = ['exp_manager.resume_past_end=true', 'exp_manager.version=version_0'];
    const of = (name: string) =>
      lines(join(folder, `${kind}-${name}`, 'neva_finetune', 'version_0', 'metrics.jsonl')).map(
        ({ loss }) => loss as unknown as number,
      );
    run('whole', 8, 2);
    run('same', 4, 2);
    run('same', 8, 2, ...goOn);
    assert.deepEqual(of('same'), of('whole'), `${kind}: bit for bit`);
    if (kind === 'o2') continue;
    run('fewer', 4, 2);
    run('fewer', 8, 1, ...goOn);
    of('fewer').forEach((loss, i) => {
      assert.ok(Math.abs(loss / of('whole')[i]! - 1) < 1e-5, `step ${i + 1}: ${loss} and ${of('whole')[i]}`);
    });
  }
});

test('a rank that is killed ends the others at once, with its name, exit 1 and no orphan', async () => {
  const name = 'killed';
  const args = ['pretrain', ...overrides(4000, name, 'trainer.devices=2')];
  for (const rank of [1, 0]) {
    const { status, text, seconds } = await during(args, rank === 1 ? 3 : 5, () => {
      process.kill(pids(`${name}`).get(rank)!, 'SIGKILL');
    });
    assert.equal(status, 1, text);
    assert.match(text, new RegExp(`^neva: rank ${rank} of 2 on \\S+ was killed by SIGKILL`, 'm'));
    assert.match(text, new RegExp(`^ {2}seen by: rank ${1 - rank} of 2 on \\S+ waited for .*, at step \\d+: `, 'm'));
    assert.ok(seconds < 10, `${seconds} s`);
    for (const pid of pids(name).values()) assert.ok(!isAlive(pid));
    rmSync(join(folder, name), { recursive: true });
  }
});

test('trainer.max_restarts: after a failure all ranks go on from the last checkpoint, to the uninterrupted losses', async () => {
  const every = 'exp_manager.checkpoint_callback_params.every_n_train_steps=2';
  const args = (name: string, steps: number, ...more: string[]) =>
    overrides(steps, name, every, 'trainer.max_restarts=1', ...more);
  const kill = (name: string) => () => process.kill(pids(name).get(1) ?? pids(name).get(0)!, 'SIGKILL');
  const whole = neva(['pretrain', ...args('unkilled', 60, 'trainer.devices=2')], options);
  assert.equal(whole.status, 0, whole.stderr);
  assert.doesNotMatch(whole.stderr, /restart/);
  // Whatever the configuration says of resuming, and whatever its folder is called.
  const name = 'restarted, once';
  const own = args(`'${name}'`, 60, 'trainer.devices=2', 'exp_manager.resume_if_exists=false');
  const { status, text } = await during(['pretrain', ...own], 5, kill(name));
  assert.equal(status, 0, text);
  assert.match(text, /^neva: rank 1 of 2 on \S+ was killed by SIGKILL/m);
  assert.equal(text.match(/^neva: restart .*$/gm)?.length, 1, text);
  assert.match(text, /^neva: restart 1 of 1: all ranks begin again, from the last checkpoint in \/.*version_0$/m);
  assert.deepEqual(losses(name), losses('unkilled'), 'bit for bit');
  const { resumed_step: from } = JSON.parse(readFileSync(join(runFolder(name), 'run.json'), 'utf8'));
  assert.ok(from >= 2, `gone on from step ${from}`);
  // A single process has a launcher for this too.
  const alone = await during(['pretrain', ...args('alone', 60)], 5, kill('alone'));
  assert.equal(alone.status, 0, alone.text);
  assert.match(alone.text, /^neva: rank 0 of 1 .* was killed[\s\S]*^neva: restart 1 of 1/m);
  close(losses('alone'), losses('unkilled'));
  // neva launch takes the number from the configuration that its ranks read; no step is saved, so that each start has a first one.
  const launch = ['launch', '--nproc', '2', 'pretrain', ...overrides(4000, 'twice', 'trainer.max_restarts=1')];
  const twice = await during(launch, 1, kill('twice'), 2);
  assert.equal(twice.status, 1, twice.text);
  assert.equal(twice.text.match(/^neva: restart 1 of 1: /gm)?.length, 1, twice.text);
  assert.match(twice.text, /^neva: it failed again after 1 restart, which is all$/m);
  for (const pid of pids('twice').values()) assert.ok(!isAlive(pid));
});

test('a rank that hangs is waited for no longer than trainer.collective_timeout', async () => {
  const name = 'hung';
  const limits = ['trainer.collective_timeout=2', 'trainer.failure_timeout=4'];
  const args = ['pretrain', ...overrides(4000, name, 'trainer.devices=2', ...limits)];
  const { status, text, seconds } = await during(args, 3, () => process.kill(pids(name).get(1)!, 'SIGSTOP'));
  assert.equal(status, 1, text);
  assert.match(text, /^neva: rank 0 of 2 on \S+ waited for .*, at step \d+: nothing came in time/m);
  assert.ok(seconds > 2 && seconds < 12, `${seconds} s`);
  for (const pid of pids(name).values()) assert.ok(!isAlive(pid));
});

test('ranks do not outlive their launcher', async () => {
  const name = 'orphaned';
  const child = spawn(process.execPath, nevaArgs(['pretrain', ...overrides(100_000, name, 'trainer.devices=2')]), {
    ...options,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (piece) => {
    text += piece;
  });
  await until(() => /^pretrain +3\//m.test(text), 60, text);
  const ranks = [...pids(name).values()];
  assert.equal(ranks.length, 2);
  child.kill('SIGKILL');
  await until(() => !ranks.some(isAlive), 10, 'ranks end');
});

test("mistakes are told once, with exit 2: of the configuration, and of one rank's records", () => {
  const places: [string[], RegExp][] = [
    [['trainer.devices=3'], /model\.global_batch_size: it cannot be divided/],
    [['trainer.num_nodes=2'], /trainer\.num_nodes: 2 machines are asked for[\s\S]*neva launch --nproc 1 --nnodes 2/],
    [
      ['trainer.devices=8', 'model.tensor_model_parallel_size=8', 'model.num_attention_heads=4'],
      /model\.num_attention_heads: not divisible by model\.tensor_model_parallel_size/,
    ],
  ];
  for (const [more, pattern] of places) {
    const { status, stderr } = neva(['pretrain', ...overrides(2, 'wrong', ...more)], options);
    assert.equal(status, 2, stderr);
    assert.match(stderr, pattern);
  }
  const verb = neva(['launch', '--nproc', '2', 'generate', 'x=1'], options);
  assert.equal(verb.status, 2);
  assert.match(verb.stderr, /launch: this verb has no ranks/);

  // Eight records, one batch; the fifth, in rank 1's micro batch, shows a picture that is not there.
  const records = JSON.parse(readFileSync(join(packageRoot, 'data/demo/pretrain.json'), 'utf8')).slice(0, 8);
  records[4].image = 'nowhere.png';
  const file = join(folder, 'records.json');
  writeFileSync(file, JSON.stringify(records));
  const data = [`model.data.data_path=${file}`, 'model.data.dataloader_type=single', 'trainer.devices=2'];
  // It would come again.
  data.push('trainer.max_restarts=2');
  const { status, stderr } = neva(['pretrain', ...overrides(2, 'wrong-record', ...data)], options);
  assert.equal(status, 2, stderr);
  assert.equal(stderr.match(/nowhere\.png/g)?.length, 1, stderr);
  assert.doesNotMatch(stderr, /restart/);
});

test('neva doctor --distributed tests links and collectives, alone and under neva launch', () => {
  const text = neva(['doctor', '--distributed'], options);
  assert.equal(text.status, 0, text.stderr);
  assert.match(text.stdout, /^2 ranks on \S+ \(ranks 0, 1\), through Gloo on CPUs$/m);
  assert.match(text.stdout, /^all-reduce +16\.78 +[\d.]+ +[\d.]+ +[\d.]+$/m);
  assert.match(text.stdout, /^Every link and every collective gave what it should\.$/m);
  const launched = neva(['launch', '--nproc', '2', 'doctor', '--distributed', '--json'], options);
  assert.equal(launched.status, 0, launched.stderr);
  const { ok, hosts, bandwidth } = JSON.parse(launched.stdout);
  assert.deepEqual([ok, hosts.length, bandwidth.length], [true, 2, 9]);
  for (const [words, pattern] of [
    [['launch', '--nproc', '1', 'doctor', '--distributed'], /one rank has nobody to reach/],
    [['launch', '--nproc', '2', 'doctor'], /without --distributed it looks at one machine/],
  ] as const) {
    const { status, stderr } = neva(words, options);
    assert.equal(status, 2, stderr);
    assert.match(stderr, pattern);
  }
});
