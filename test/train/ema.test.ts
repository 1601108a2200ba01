import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { widen } from '../../src/checkpoint/cast.ts';
import { convert } from '../../src/checkpoint/convert.ts';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import type { Parameter } from '../../src/engine/engine.ts';
import { isUserError } from '../../src/errors.ts';
import { ALONE } from '../../src/parallel/group.ts';
import { packageRoot } from '../../src/root.ts';
import { Optimizer } from '../../src/train/optimizer.ts';
import { ShardedOptimizer } from '../../src/train/sharded_optimizer.ts';
import { neva } from '../cli/neva.ts';
import { tiny } from '../cli/tiny.ts';
import { assertClose } from '../support/allclose.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const folder = mkdtempSync(join(tmpdir(), 'neva-ema-'));
after(() => rmSync(folder, { recursive: true, force: true }));

for (const { kind, everySteps } of [
  { kind: 'float32', everySteps: 1 },
  { kind: 'float32', everySteps: 3 },
  { kind: 'main weights', everySteps: 1 },
  { kind: 'remainders', everySteps: 2 },
  { kind: 'sharded main weights', everySteps: 1 },
  { kind: 'sharded remainders', everySteps: 1 },
  { kind: 'sharded float32', everySteps: 2 },
]) {
  test(`the average is decay · average + (1 − decay) · weight, every ${everySteps} steps, of ${kind}`, async () => {
    const dtype = kind.endsWith('float32') ? 'float32' : 'bfloat16';
    const parameters = ['w', 'v'].map((name): Parameter => {
      const main = engine.normal([4, 5], 0, 1);
      const value = dtype === 'float32' ? main : engine.cast(main, dtype);
      return {
        name,
        value,
        main: dtype === 'float32' ? null : main,
        grad: null,
        trainable: true,
        decay: true,
      };
    });
    const decay = 0.9;
    const options = { betas: [0.9, 0.95], eps: 1e-8, weightDecay: 0.1, clip: 0, ema: { decay, everySteps } } as const;
    const sharded = kind.startsWith('sharded')
      ? new ShardedOptimizer(
          engine,
          ALONE,
          parameters,
          options,
          { bytes: 1e6, overlap: false },
          () => true,
          kind.endsWith('remainders'),
        )
      : null;
    const optimizer = sharded ?? new Optimizer(engine, parameters, options, ALONE, kind === 'remainders');
    /** Float32 weights and averages of both parameters. */
    const read = () => {
      const found: { weights: number[]; averages: number[] } = { weights: [], averages: [] };
      optimizer.withWhole((states) => {
        for (const { name, main, value } of parameters) {
          found.weights.push(...engine.read(main ?? value));
          found.averages.push(...engine.read(states.get(name)!.average!));
        }
      });
      return found;
    };
    let expected = read().weights;
    assert.deepEqual(read().averages, expected);
    for (let step = 1; step <= 7; step++) {
      for (const parameter of parameters) parameter.grad = engine.normal([4, 5], 0, 1);
      sharded?.finish();
      sharded?.wait();
      optimizer.step(step, 0.1);
      // The recurrence in float64, from the weights as they are.
      const { weights } = read();
      if (step % everySteps === 0) expected = expected.map((average, i) => decay * average + (1 - decay) * weights[i]!);
    }
    const { averages } = read();
    for (const [i, average] of averages.entries()) {
      assert.ok(Math.abs(average - expected[i]!) < 1e-6 * Math.max(1, Math.abs(average)));
    }
    const own = parameters.map(({ value }) => engine.bytes(value));
    const seen = await optimizer.withAverages(async () => {
      assert.ok(parameters.every(({ value }) => value.dtype === dtype));
      return parameters.flatMap(({ value }) => [...engine.read(value)]);
    });
    const whole = engine.tensor(Float32Array.from(averages), [averages.length]);
    assert.deepEqual(seen, [...engine.read(dtype === 'float32' ? whole : engine.cast(whole, dtype))]);
    assert.deepEqual(
      parameters.map(({ value }) => engine.bytes(value)),
      own,
    );
    assert.deepEqual(read().averages, averages, 'the average lives on');
  });
}

/** Six steps in all; a folder that has a run goes on with it. */
function run(stage: 'pretrain' | 'finetune', name: string, steps: number, ...more: string[]): void {
  const { status, stderr } = neva(
    [
      stage,
      `trainer.max_steps=${steps}`,
      `exp_manager.explicit_log_dir=${join(folder, name)}`,
      'exp_manager.resume_if_exists=true',
      'exp_manager.resume_past_end=true',
      'exp_manager.ema.enable=true',
      'exp_manager.ema.decay=0.5',
      'trainer.precision=32',
      'model.optim.sched.max_steps=6',
      'model.mm_cfg.pretrain_mm_mlp_adapter=null',
      ...tiny,
      ...more,
    ],
    { env: { OMP_NUM_THREADS: '1' } },
  );
  assert.equal(status, 0, stderr);
}
const checkpoint = (name: string) => join(folder, name, 'checkpoints/step=0000006');
const file = (name: string, of: string) => readFileSync(join(checkpoint(name), of));

const O2 = ['trainer.precision=bf16', 'model.megatron_amp_O2=true'];
const layouts: [name: string, words: string[]][] = [
  ['tp2', ['trainer.devices=2', 'model.tensor_model_parallel_size=2']],
  ['remainders', [...O2, 'model.optim.store_param_remainders=true']],
  [
    'sharded',
    [
      'trainer.devices=2',
      'model.micro_batch_size=4',
      ...O2,
      'model.optim.name=distributed_fused_adam',
      'model.optim.store_param_remainders=true',
    ],
  ],
];
for (const [name, words] of layouts) {
  test(`an average of a run that was interrupted is bit for bit that of one that was not: ${name}`, () => {
    run('finetune', `${name}-whole`, 6, ...words);
    run('finetune', `${name}-parts`, 3, ...words);
    run('finetune', `${name}-parts`, 6, ...words);
    const files = ['ema.safetensors', 'model.safetensors'] as const;
    for (const of of files) assert.ok(file(`${name}-parts`, of).equals(file(`${name}-whole`, of)), of);
    assert.ok(!file(`${name}-whole`, files[0]).equals(file(`${name}-whole`, files[1])));
  });
}

test('an average goes on in another layout as it would have in its own', () => {
  run('finetune', 'alone', 6);
  run('finetune', 'shared', 3, ...layouts[0]![1]);
  run('finetune', 'shared', 6);
  run('finetune', 'divided', 3);
  run('finetune', 'divided', 6, ...layouts[0]![1]);
  const averages = (name: string) => readSafetensors(join(checkpoint(name), 'ema.safetensors')).entries;
  const alone = averages('alone');
  for (const name of ['shared', 'divided', 'tp2-whole']) {
    const others = averages(name);
    assert.deepEqual([...others.keys()].sort(), [...alone.keys()].sort());
    for (const [weight, entry] of alone) {
      const [own, other] = [entry, others.get(weight)!].map(
        (each) => widen(readTensor(each), 'float32') as Float32Array,
      );
      assertClose(other!, own!, { relative: 1e-5 }, `${name}: ${weight}`);
    }
  }
});

test('a run keeps the average, validates with it, goes on with it bit for bit, and convert-checkpoint --ema writes it', () => {
  const validating = [
    'trainer.val_check_interval=6',
    'trainer.limit_val_batches=2',
    `model.data.validation_data_path=${join(packageRoot, 'data/demo/pretrain.json')}`,
  ];
  run('pretrain', 'whole', 6, ...validating);
  run('pretrain', 'parts', 3, ...validating);
  run('pretrain', 'parts', 6, ...validating);
  run('pretrain', 'original', 6, ...validating, 'exp_manager.ema.validate_original_weights=true');
  assert.deepEqual(file('parts', 'ema.safetensors'), file('whole', 'ema.safetensors'));
  assert.deepEqual(file('original', 'ema.safetensors'), file('whole', 'ema.safetensors'));
  assert.notDeepEqual(file('whole', 'projector.safetensors'), file('whole', 'ema.safetensors'));
  const validated = (name: string) =>
    readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8')
      .split('\n')
      .filter((line) => line.includes('val_loss'));
  assert.equal(validated('whole').length, 1);
  assert.equal(JSON.parse(validated('parts')[0]!).val_loss, JSON.parse(validated('whole')[0]!).val_loss);
  assert.notEqual(JSON.parse(validated('original')[0]!).val_loss, JSON.parse(validated('whole')[0]!).val_loss);

  const options = { to: 'hf', part: 'projector', dtype: null, tp: 1, pp: 1, ema: true } as const;
  const out = join(folder, 'averaged');
  const words = ['convert-checkpoint', '--from', checkpoint('whole'), '--to', 'hf', '--part', 'projector'];
  const converted = neva([...words, '--ema', '--out', out]);
  assert.equal(converted.status, 0, converted.stderr);
  const bytes = (path: string) => {
    const entries = [...readSafetensors(path).entries.values()].sort(
      (a, b) => a.nbytes - b.nbytes || (a.name < b.name ? -1 : 1),
    );
    return entries.map(({ file: at, offset, nbytes }) => readFileSync(at).subarray(offset, offset + nbytes));
  };
  assert.deepEqual(bytes(join(out, 'model.safetensors')), bytes(join(checkpoint('whole'), 'ema.safetensors')));
  const without = join(folder, 'without');
  cpSync(checkpoint('whole'), without, { recursive: true });
  rmSync(join(without, 'ema.safetensors'));
  rmSync(join(without, 'state.json'));
  assert.throws(
    () => convert({ ...options, from: without, out: join(folder, 'none') }),
    (error: unknown) => isUserError(error) && /no moving average[\s\S]*ema\.enable=true/.test(error.message),
  );
});
