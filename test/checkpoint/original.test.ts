/** LLaVA's own folders, made by test/tools/foreign_models.py. */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { addTower, openWhole } from '../../src/checkpoint/parts.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { assertSame, contentsOf } from '../support/contents.ts';
import { fixture } from '../support/fixtures.ts';

const home = mkdtempSync(join(tmpdir(), 'neva-original-'));
after(() => rmSync(home, { recursive: true }));
const expected = contentsOf(openWeights(fixture('foreign/hf')).entries);
const part = (prefix: string) => (name: string) => name.startsWith(prefix);

test('pytorch_model.bin shards of a LLaVA without its tower', () => {
  const { entries, config, tokenizerFolder } = openWeights(fixture('foreign/original'));
  assertSame(contentsOf(entries), expected, (name) => !name.startsWith('vision_tower.'));
  assert.equal(config?.kind, 'llava');
  assert.equal(tokenizerFolder, fixture('foreign/original'));
  assert.equal([...entries.values()].filter(({ pieces }) => pieces).length, 0); // all of it is mapped
});

test('mm_projector.bin alone, as a file and as the folder that stage one leaves', () => {
  for (const path of ['foreign/stage1', 'foreign/stage1/mm_projector.bin']) {
    assertSame(contentsOf(openWeights(fixture(path)).entries), expected, part('multi_modal_projector.'));
  }
});

test('a projector beside weights that lack one is part of the model', () => {
  const folder = join(home, 'both');
  cpSync(fixture('foreign/vision'), folder, { recursive: true });
  cpSync(fixture('foreign/stage1/mm_projector.bin'), join(folder, 'mm_projector.bin'));
  assertSame(contentsOf(openWeights(folder).entries), expected, (name) => !name.startsWith('language_model.'));
});

test('a whole CLIP in pytorch_model.bin gives its tower', () => {
  const { entries, config } = openWeights(fixture('foreign/vision'));
  assertSame(contentsOf(entries), expected, part('vision_tower.'));
  assert.equal(config?.vision?.hiddenSize, 8);
});

test('the tower comes from the given path, else from where the model says', () => {
  const given = openWhole(fixture('foreign/original'));
  addTower(given, fixture('foreign/vision'));
  assert.equal(given.parts.vision?.path, fixture('foreign/vision'));
  assert.deepEqual(given.config?.vision, openWeights(fixture('foreign/hf')).config?.vision);

  process.env.HF_HOME = home;
  try {
    const named = openWhole(fixture('foreign/original'));
    const missing = /openai\/clip-tiny[\s\S]*neva download/;
    assert.throws(
      () => addTower(named, null),
      (error: unknown) => isUserError(error) && missing.test(error.message),
    );
    const snapshot = join(home, 'hub/models--openai--clip-tiny/snapshots/1');
    cpSync(fixture('foreign/vision'), snapshot, { recursive: true });
    addTower(named, null);
    assert.equal(named.parts.vision?.path, snapshot);
  } finally {
    delete process.env.HF_HOME;
  }
});
