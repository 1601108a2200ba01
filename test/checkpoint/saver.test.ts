import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { checkpointsIn, newestWhole, verifyCheckpoint } from '../../src/checkpoint/folder.ts';
import { type KeepRule, pruneCheckpoints } from '../../src/checkpoint/prune.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { Saver } from '../../src/checkpoint/saver.ts';
import { requireSpace, type Snapshot, writeCheckpoint } from '../../src/checkpoint/write_folder.ts';
import { isUserError } from '../../src/errors.ts';
import { isDue, NEVER } from '../../src/train/save_plan.ts';

const root = mkdtempSync(join(tmpdir(), 'neva-saver-'));
after(() => rmSync(root, { recursive: true }));
let made = 0;
const fresh = () => join(root, String(made++));

const ALL: KeepRule = { topK: -1, monitor: 'val_loss', mode: 'min', last: true };

/** One tensor that says of which step it is. */
function snapshot(step: number, state: object = {}): Snapshot {
  const bytes = new Uint8Array(new Float32Array(1000).fill(step).buffer);
  const weights = [{ name: 'multi_modal_projector.linear_1.weight', dtype: 'float32' as const, shape: [1000], bytes }];
  return {
    step,
    tensors: [
      ['model.safetensors', weights],
      ['projector.safetensors', weights],
    ],
    texts: [['state.json', JSON.stringify({ format: 1, step, ...state })]],
    files: [],
  };
}

function saver(dir: string, rule = ALL) {
  const failures: Error[] = [];
  const saved: string[] = [];
  const own = new Saver(
    { dir, rule, onSaved: (folder) => saved.push(folder), onFailure: (error) => failures.push(error) },
    'step=0000001',
  );
  return { own, failures, saved };
}

test('a snapshot is written while its maker goes on, and its memory is the writer’s', async () => {
  const dir = fresh();
  const { own, saved } = saver(dir);
  const first = snapshot(3);
  own.save(first);
  assert.equal(first.tensors[0]![1][0]!.bytes.length, 0, 'handed over, not copied once more');
  assert.throws(() => own.save(snapshot(4)), /still being written/);
  assert.deepEqual(saved, []);
  await own.idle();
  own.save(snapshot(4));
  await own.close();
  assert.deepEqual(saved, [join(dir, 'step=0000003'), join(dir, 'step=0000004')]);
  for (const folder of saved) verifyCheckpoint(folder);
  const { entries } = readSafetensors(join(saved[0]!, 'model.safetensors'));
  const { file, offset, nbytes } = [...entries.values()][0]!;
  assert.deepEqual(
    new Float32Array(readFileSync(file).buffer.slice(offset, offset + nbytes)),
    new Float32Array(1000).fill(3),
  );
  assert.equal(readFileSync(join(dir, 'last'), 'utf8'), 'step=0000004\n');
});

test('a failure is told with what to do, a later success makes up for it, and what was whole stays', async () => {
  const dir = fresh();
  const { own, failures } = saver(dir);
  own.save(snapshot(2));
  await own.idle();
  rmSync(join(dir, 'last'));
  // A folder in the place of the file, which no rename replaces: whole folders are there, and the save has failed.
  mkdirSync(join(dir, 'last', 'x'), { recursive: true });
  own.save(snapshot(3));
  await own.idle();
  assert.equal(failures.length, 1);
  assert.equal(own.failure, failures[0]);
  verifyCheckpoint(join(dir, 'step=0000002'));
  rmSync(join(dir, 'last'), { recursive: true });
  own.save(snapshot(4));
  await own.close();
  assert.equal(own.failure, null);
  assert.deepEqual(readdirSync(dir).sort(), ['last', 'step=0000002', 'step=0000003', 'step=0000004']);

  const file = fresh();
  writeFileSync(file, '');
  const lost = saver(file);
  lost.own.save(snapshot(5));
  await lost.own.close();
  const [error] = lost.failures as [Error];
  assert.ok(isUserError(error), error.stack);
  assert.match(error.message, /step 5 could not be written: there is a file where a folder is needed/);
  assert.match(error.message, /goes on from step=0000001/);
});

test('room is asked for before the first byte', () => {
  requireSpace(root, 1);
  assert.throws(
    () => requireSpace(root, 2 ** 52),
    (error: NodeJS.ErrnoException) =>
      error.code === 'ENOSPC' && /MB are needed and [\d.]+ MB are free/.test(error.message),
  );
});

function kept(rule: Partial<KeepRule>, states: object[]): number[] {
  const dir = fresh();
  for (const [i, state] of states.entries()) writeCheckpoint(dir, snapshot(i + 1, state));
  pruneCheckpoints(dir, { ...ALL, ...rule });
  assert.ok(checkpointsIn(dir).includes(readFileSync(join(dir, 'last'), 'utf8').trim()));
  return checkpointsIn(dir).map((name) => Number(name.slice(5)));
}

test('checkpoints are ranked by exp_manager’s monitor and mode', () => {
  const states = [
    { valLoss: 3, loss: 1 },
    { valLoss: 1, loss: 2 },
    { valLoss: 2, loss: 3 },
    { valLoss: 9, loss: 9 },
  ];
  assert.deepEqual(kept({ topK: 1 }, states), [2, 4]);
  assert.deepEqual(kept({ topK: 1, mode: 'max' }, states), [1, 4]);
  assert.deepEqual(kept({ topK: 1, monitor: 'loss' }, states), [1, 4]);
  assert.deepEqual(kept({ topK: 2, monitor: 'step', mode: 'max' }, states), [2, 3, 4]);
  assert.deepEqual(kept({ topK: 2, last: false }, states), [2, 3]);
  assert.deepEqual(kept({ topK: 1, last: false }, states), [2]);
  // Never validated: the training loss. Validated later: what came before is the worst.
  assert.deepEqual(
    kept(
      { topK: 1 },
      states.map(({ loss }) => ({ loss, valLoss: null })),
    ),
    [1, 4],
  );
  assert.deepEqual(kept({ topK: 1 }, [{ loss: 0 }, { loss: 5, valLoss: 7 }, { loss: 6, valLoss: 8 }]), [2, 3]);
});

test('the newest whole one is found, whatever was damaged after it', () => {
  const dir = fresh();
  for (const step of [1, 2, 3, 4]) writeCheckpoint(dir, snapshot(step));
  writeFileSync(join(dir, 'step=0000004', 'model.safetensors'), 'x');
  writeFileSync(join(dir, 'step=0000003', 'manifest.json'), '{');
  assert.equal(newestWhole(dir), 'step=0000002');
  assert.throws(
    () => verifyCheckpoint(join(dir, 'step=0000004')),
    (error: unknown) => isUserError(error) && /echo step=0000002 > /.test(error.message),
  );
  for (const step of [1, 2]) rmSync(join(dir, `step=000000${step}`), { recursive: true });
  assert.throws(() => verifyCheckpoint(join(dir, 'step=0000003')), /no whole one before it/);
  assert.ok(existsSync(dir));
});

test('a checkpoint is due by steps, by validation, or by the clock', () => {
  const at = (plan: object, step: number, validated = false, overdue = false) =>
    isDue({ ...NEVER, ...plan }, step, validated, overdue);
  assert.deepEqual(
    [3, 4, 6].map((step) => at({ everySteps: [3, 4] }, step)),
    [true, true, true],
  );
  assert.equal(at({ everySteps: [3, 4] }, 5), false);
  assert.equal(at({ afterValidation: true }, 5, true), true);
  assert.equal(at({ everySteps: [3] }, 5, true), false);
  assert.equal(at({}, 5, false, true), true);
});
