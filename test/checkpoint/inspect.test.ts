import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { convert } from '../../src/checkpoint/convert.ts';
import { diffModels } from '../../src/checkpoint/diff.ts';
import { inspect } from '../../src/checkpoint/inspect.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { neva } from '../cli/neva.ts';
import { fixture } from '../support/fixtures.ts';

const root = mkdtempSync(join(tmpdir(), 'neva-inspect-'));
after(() => rmSync(root, { recursive: true }));

for (const [path, kind, nemo] of [
  ['llava/model', 'LLaVA, Hugging Face, old (folder)', null],
  ['llava/llm', 'language model, Hugging Face (folder)', null],
  ['foreign/original', "LLaVA, LLaVA's own (folder)", null],
  ['foreign/llm_legacy.nemo', 'NeMo archive (tar): language model', { names: 'legacy', tp: 1, pp: 1 }],
  ['foreign/llm_mcore_gz.nemo', 'NeMo archive (gzipped tar): language model', { names: 'mcore', tp: 1, pp: 1 }],
  ['foreign/llm_mcore_tp2.nemo', 'NeMo archive (tar): language model', { names: 'mcore', tp: 2, pp: 1 }],
  ['foreign/nemo_tp2_pp2', 'NeMo archive (folder): language model', { names: 'legacy', tp: 2, pp: 2 }],
  ['foreign/neva_legacy_tp2.nemo', 'NeMo archive (tar): LLaVA', { names: 'legacy', tp: 2, pp: 1 }],
  ['foreign/neva_projector.nemo', 'NeMo archive (tar): LLaVA', { names: 'mcore', tp: 1, pp: 1 }],
] as const) {
  test(`${path} is known for what it is`, () => {
    const found = inspect(fixture(path));
    assert.equal(found.kind, kind);
    assert.deepEqual(found.nemo, nemo);
    assert.equal(found.checksums, null);
    const total = Object.values(found.parts).reduce((sum, { tensors }) => sum + tensors, 0);
    assert.equal(total, found.tensors.length);
    const elements = ({ shape }: { shape: readonly number[] }) => shape.reduce((product, size) => product * size, 1);
    const parameters = Object.values(found.parts).reduce((sum, part) => sum + part.parameters, 0);
    assert.equal(
      parameters,
      found.tensors.reduce((sum, tensor) => sum + elements(tensor), 0),
    );
  });
}

test('an archive has as many parameters as the model that it was made from, and its tokenizer', () => {
  const [archive, model] = [inspect(fixture('foreign/llm_mcore_tp2.nemo')), openWeights(fixture('foreign/hf'))];
  const llm = [...model.entries].filter(([name]) => name.startsWith('language_model.'));
  const count = llm.reduce((sum, [, { shape }]) => sum + shape.reduce((product, size) => product * size, 1), 0);
  assert.equal(archive.parts.llm?.parameters, count);
  assert.deepEqual(archive.parts.llm?.dtypes, ['bfloat16']);
  assert.deepEqual(archive.tokenizer, ['tokenizer.model']);
});

test('two layouts of one model are the same; another value, type or name is told, with how much', () => {
  const model = fixture('llava/model');
  const other = join(root, 'new');
  convert({ from: model, to: 'hf-new', out: other, part: 'all', dtype: null, tp: 1, pp: 1 });
  assert.deepEqual(diffModels(model, other).differences, []);
  assert.equal(diffModels(model, other).same, true);

  const entry = openWeights(other).entries.get('multi_modal_projector.linear_2.bias')!;
  const bytes = readFileSync(entry.file);
  const values = new Float32Array(bytes.buffer, bytes.byteOffset + entry.offset, 4);
  values[1]! += 0.5;
  values[3] = Number.NaN;
  const changed = join(root, 'changed');
  cpSync(other, changed, { recursive: true });
  writeFileSync(join(changed, 'model.safetensors'), bytes);
  const { same, identical, differences } = diffModels(other, changed);
  assert.equal(same, false);
  assert.equal(differences.length, 1);
  assert.equal(identical, openWeights(model).entries.size - 1);
  const [{ name, values: figures }] = differences as [(typeof differences)[0]];
  assert.equal(name, 'multi_modal_projector.linear_2.bias');
  assert.deepEqual([figures?.differing, figures?.elements], [2, entry.shape[0]]);
  assert.ok(Number.isNaN(figures?.largest));

  // The projector alone against the whole: what is missing has no values to compare.
  const part = join(root, 'projector');
  convert({ from: model, to: 'hf', out: part, part: 'projector', dtype: null, tp: 1, pp: 1 });
  const missing = diffModels(model, part);
  assert.ok(missing.differences.every(({ a, b, values: none }) => a && !b && none === null));
  assert.equal(missing.identical, 4);
});

test('neva checkpoint: text, JSON, exit codes', () => {
  const model = fixture('llava/model');
  const text = neva(['checkpoint', 'inspect', model]);
  assert.equal(text.status, 0, text.stderr);
  assert.match(text.stdout, /^ {2}llm +62,544 parameters in 30 tensors, 0\.3 MB, float32$/m);
  const json = JSON.parse(neva(['checkpoint', 'inspect', model, '--json']).stdout);
  assert.equal(json.tensors.length, 89);
  assert.equal(JSON.parse(neva(['checkpoint', 'diff', model, model, '--json']).stdout).same, true);
  assert.match(
    neva(['checkpoint', 'diff', model, fixture('llava/llm')]).stdout,
    /30 tensors are the same bit for bit, 59 are not$/m,
  );
  const absent = neva(['checkpoint', 'inspect', join(root, 'absent')]);
  assert.equal(absent.status, 2);
  const run = neva(
    [
      'pretrain',
      'trainer.max_steps=2',
      'exp_manager.exp_dir=runs',
      'exp_manager.create_tensorboard_logger=false',
      'trainer.precision=32',
    ],
    { cwd: root, env: { OMP_NUM_THREADS: '1' } },
  );
  assert.equal(run.status, 0, run.stderr);
  const whole = neva(['checkpoint', 'inspect', join(root, 'runs/neva_pretrain')]);
  assert.equal(whole.status, 0, whole.stderr);
  assert.match(
    whole.stdout,
    /checkpoint of neva[\s\S]*llm +elsewhere, found: [\s\S]*template +plain[\s\S]*pretrain, step 2,[\s\S]*checksums +whole/,
  );
  const folder = join(root, 'runs/neva_pretrain/version_0/checkpoints/step=0000002');
  writeFileSync(join(folder, 'config.yaml'), '');
  const damaged = neva(['checkpoint', 'inspect', folder]);
  assert.equal(damaged.status, 2);
  assert.match(damaged.stdout, /DAMAGED: config\.yaml has 0 bytes instead of/);
});
