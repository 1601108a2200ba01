import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, test } from 'node:test';
import { parse } from 'yaml';
import { isUserError } from '../../src/errors.ts';
import {
  markFinished,
  newestCheckpoint,
  openRunFolder,
  type RunFolder,
  type RunFolderOptions,
  recordConfig,
  removeUnused,
} from '../../src/report/run_folder.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-runs-'));
after(() => rmSync(folder, { recursive: true, force: true }));

let experiments = 0;
/** Options for an experiment that no other test uses. */
const fresh = (changes: Partial<RunFolderOptions> = {}): RunFolderOptions => ({
  expDir: join(folder, `experiment-${experiments++}`),
  name: 'pretrain',
  version: null,
  explicitDir: null,
  resumeIfExists: true,
  resumePastEnd: false,
  resumeIgnoreNoCheckpoint: true,
  resumeFrom: null,
  ...changes,
});

function save(run: RunFolder, step: number): string {
  const name = `step=${String(step).padStart(7, '0')}`;
  const checkpoint = join(run.checkpointsDir, name);
  mkdirSync(checkpoint);
  writeFileSync(join(checkpoint, 'model.safetensors'), '');
  writeFileSync(join(run.checkpointsDir, 'last'), `${name}\n`);
  return checkpoint;
}

const userError = (pattern: RegExp) => (error: unknown) => isUserError(error) && pattern.test(error.message);

test('a run that was left unfinished is gone on with; a finished one makes the next version', () => {
  const options = fresh();
  const first = openRunFolder(options);
  assert.equal(first.dir, join(options.expDir!, 'pretrain/version_0'));
  assert.deepEqual([first.lastCheckpoint, first.resumedStep], [null, 0]);
  const checkpoint = save(first, 40);

  const again = openRunFolder(options);
  assert.deepEqual([again.dir, again.lastCheckpoint, again.resumedStep], [first.dir, checkpoint, 40]);
  assert.match(again.notice, /^Going on in /);

  markFinished(again);
  const next = openRunFolder(options);
  assert.equal(basename(next.dir), 'version_1');
  assert.equal(next.lastCheckpoint, null);
  assert.match(next.notice, /version_0 has finished/);
  rmSync(next.dir, { recursive: true });
  assert.equal(openRunFolder({ ...options, resumePastEnd: true }).lastCheckpoint, checkpoint);
});

test('versions are never shared: without resuming, and without a checkpoint, each start gets its own', () => {
  const options = fresh({ resumeIfExists: false });
  save(openRunFolder(options), 1);
  assert.equal(basename(openRunFolder(options).dir), 'version_1');
  assert.equal(basename(openRunFolder({ ...options, resumeIfExists: true }).dir), 'version_2');
  // Ten and above sort as numbers.
  mkdirSync(join(options.expDir!, 'pretrain/version_10'));
  assert.equal(basename(openRunFolder(options).dir), 'version_11');
});

test('a folder asked for by name is that folder, and another run in it is refused', () => {
  const options = fresh({ explicitDir: join(folder, 'explicit'), resumeIfExists: false });
  const run = openRunFolder(options);
  assert.equal(run.dir, join(folder, 'explicit'));
  recordConfig(run, { a: 1 }, ['a=1']);
  assert.throws(() => openRunFolder(options), userError(/^exp_manager.explicit_log_dir: there is a run/));
  save(run, 7);
  assert.equal(openRunFolder({ ...options, resumeIfExists: true }).resumedStep, 7);
  markFinished(run);
  assert.throws(() => openRunFolder({ ...options, resumeIfExists: true }), userError(/has finished/));
  assert.equal(openRunFolder({ ...options, resumeIfExists: true, resumePastEnd: true }).resumedStep, 7);
  assert.equal(basename(openRunFolder(fresh({ version: 'mine' })).dir), 'mine');
});

test('having nothing to resume is a mistake when the configuration says so', () => {
  const options = fresh({ resumeIgnoreNoCheckpoint: false });
  assert.throws(() => openRunFolder(options), userError(/^exp_manager.resume_if_exists: there is no checkpoint/));
  const source = openRunFolder(fresh());
  const checkpoint = save(source, 12);
  const run = openRunFolder({ ...options, resumeFrom: source.dir });
  assert.deepEqual([run.lastCheckpoint, run.resumedStep], [checkpoint, 12]);
});

test('checkpoints/last must name a checkpoint that is there', () => {
  const options = fresh();
  const run = openRunFolder(options);
  writeFileSync(join(run.checkpointsDir, 'last'), 'step=0000009\n');
  assert.throws(() => openRunFolder(options), userError(/last: it names a checkpoint that is not there/));
});

test('config.yaml and overrides.yaml hold what was given', () => {
  const run = openRunFolder(fresh());
  const shared = { betas: [0.9, 0.98] };
  recordConfig(run, { model: { optim: shared }, other: shared }, ['model.optim.lr=1e-3', '+note="a: b"']);
  const read = (name: string) => parse(readFileSync(join(run.dir, name), 'utf8'));
  assert.deepEqual(read('config.yaml'), { model: { optim: shared }, other: shared });
  assert.deepEqual(read('overrides.yaml'), ['model.optim.lr=1e-3', '+note="a: b"']);
  recordConfig(run, {}, []);
  assert.deepEqual(read('overrides.yaml'), []);
});

test('newestCheckpoint accepts a checkpoint, a run and an experiment, and says what it looked for', () => {
  const options = fresh({ resumeIfExists: false });
  const run = openRunFolder(options);
  save(run, 1);
  const checkpoint = save(run, 2);
  openRunFolder(options); // A newer version that has saved nothing is passed over.
  for (const path of [checkpoint, run.dir, run.checkpointsDir, join(options.expDir!, 'pretrain')]) {
    assert.equal(newestCheckpoint(path), checkpoint);
  }
  const empty = join(folder, 'empty');
  mkdirSync(empty);
  assert.throws(
    () => newestCheckpoint(empty),
    userError(/there is no checkpoint in it[\s\S]*run folder[\s\S]*an empty folder/),
  );
  assert.throws(() => newestCheckpoint(join(folder, 'nowhere')), userError(/there is no such folder/));
  assert.throws(() => newestCheckpoint(join(checkpoint, 'model.safetensors')), userError(/it is a file/));
  assert.equal(existsSync(join(folder, 'nowhere')), false);
});

test('a run that ended before its first step leaves no folder; one that trained stays', () => {
  const options = fresh({ resumeIfExists: false });
  const run = openRunFolder(options);
  recordConfig(run, {}, []);
  writeFileSync(run.metricsFile, '');
  removeUnused(run);
  assert.equal(existsSync(run.dir), false);
  const again = openRunFolder(options);
  assert.equal(again.dir, run.dir);
  writeFileSync(again.metricsFile, '{"step":1}\n');
  removeUnused(again);
  assert.ok(existsSync(again.dir));

  const mine = join(folder, 'mine-and-empty');
  mkdirSync(mine);
  removeUnused(openRunFolder({ ...options, explicitDir: mine }));
  assert.ok(existsSync(mine));
});

test('a wrong path to resume from makes no folder', () => {
  const options = fresh({ resumeFrom: join(folder, 'nowhere') });
  assert.throws(() => openRunFolder(options), userError(/no such folder/));
  assert.equal(existsSync(options.expDir!), false);
});
