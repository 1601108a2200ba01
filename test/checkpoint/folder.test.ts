import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import {
  type CheckpointContent,
  type CheckpointState,
  checkpointsIn,
  readCheckpoint,
  restore,
  verifyCheckpoint,
} from '../../src/checkpoint/folder.ts';
import { openWhole, referTo } from '../../src/checkpoint/parts.ts';
import { type KeepRule, pruneCheckpoints } from '../../src/checkpoint/prune.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { saveCheckpoint } from '../../src/checkpoint/write_folder.ts';
import type { AdamWState, Parameter } from '../../src/engine/engine.ts';
import { isUserError } from '../../src/errors.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { fixture } from '../support/fixtures.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const root = mkdtempSync(join(tmpdir(), 'neva-folder-'));
after(() => rmSync(root, { recursive: true }));
let made = 0;
const freshFolder = () => join(root, String(made++), 'checkpoints');

const llava = openWeights(fixture('llava/model'));
const shape = { llm: llava.config!.llm, vision: llava.config!.vision, projector: llava.config!.projector } as NevaShape;
const source = llava.source(engine, 'projector');

/** The tiny LLaVA's projector as a run that trains it holds it; `shift` makes another state of it. */
function training(shift = 0): { parameters: Parameter[]; optimizer: Map<string, AdamWState> } {
  const parameters = source.names.map((name): Parameter => {
    const value = engine.add(source.load(name), engine.full([1], shift));
    return { name, value, main: null, grad: null, trainable: true, decay: name.endsWith('weight') };
  });
  const moment = (p: Parameter) => engine.normal(p.value.shape, 0, 1);
  const optimizer = new Map(parameters.map((p) => [p.name, { expAvg: moment(p), expAvgSq: moment(p) }]));
  return { parameters, optimizer };
}

function content(step: number, shift = 0, more: Partial<CheckpointState> = {}): CheckpointContent {
  const weights = training(shift); // draws, so the random state is taken afterwards
  const state: CheckpointState = {
    format: 1,
    stage: 'pretrain',
    step,
    epoch: 0,
    consumedSamples: 8 * step,
    valLoss: null,
    loss: 0.1 + 0.2,
    rng: Buffer.from(engine.rngState()).toString('base64'),
    seed: 1234,
    template: 'v1',
    templateCompat: 'llava',
    imageAspect: 'pad',
    useImStartEnd: false,
    additionalTokens: [],
    frozen: [],
    ...more,
  };
  return { state, shape, ...weights, files: [fixture('llava/model/generation_config.json')] };
}

test('parameters, moments, position and random state come back bit for bit', () => {
  const dir = freshFolder();
  const saved = content(7, 0.25);
  const folder = saveCheckpoint(engine, dir, saved);
  const next = engine.read(engine.normal([5], 0, 1));
  const { parameters, optimizer } = training();
  restore(engine, folder, parameters, optimizer);
  parameters.forEach((p, i) => {
    assert.deepEqual(engine.bytes(p.value), engine.bytes(saved.parameters[i]!.value), p.name);
    for (const key of ['expAvg', 'expAvgSq'] as const) {
      assert.deepEqual(engine.bytes(optimizer.get(p.name)![key]), engine.bytes(saved.optimizer.get(p.name)![key]));
    }
  });
  const state = readCheckpoint(folder);
  assert.deepEqual(state, saved.state);
  engine.setRngState(Buffer.from(state.rng, 'base64'));
  assert.deepEqual(engine.read(engine.normal([5], 0, 1)), next);
  assert.equal(readFileSync(join(dir, 'last'), 'utf8'), 'step=0000007\n');
  assert.deepEqual(readdirSync(folder).sort(), [
    'config.json',
    'generation_config.json',
    'manifest.json',
    'model.safetensors',
    'optimizer.safetensors',
    'projector.safetensors',
    'state.json',
  ]);
});

test('the shapes that a checkpoint writes are those that it reads, for every kind of projector', () => {
  for (const type of ['linear', 'mlp2x_gelu', 'mlp3x_gelu']) {
    const changed = { ...shape, projector: { ...shape.projector, type } };
    const folder = saveCheckpoint(engine, freshFolder(), { ...content(1), shape: changed });
    const { llm, vision, projector } = openWeights(folder).config!;
    assert.deepEqual({ llm, vision, projector }, changed);
  }
});

for (const [what, damage, expected] of [
  ['a byte altered', (f: string) => flip(join(f, 'optimizer.safetensors')), /optimizer.safetensors does not match/],
  ['a file grown', (f: string) => appendFileSync(join(f, 'state.json'), ' '), /state.json has \d+ bytes instead of/],
  ['a file gone', (f: string) => rmSync(join(f, 'model.safetensors')), /model.safetensors is missing/],
  ['no manifest', (f: string) => rmSync(join(f, 'manifest.json')), /manifest.json is missing/],
] as const) {
  test(`damage is recognised and the checkpoint before it offered: ${what}`, () => {
    const dir = freshFolder();
    saveCheckpoint(engine, dir, content(10));
    const folder = saveCheckpoint(engine, dir, content(20));
    verifyCheckpoint(folder);
    damage(folder);
    assert.throws(
      () => readCheckpoint(folder),
      (error: unknown) => isUserError(error) && expected.test(error.message) && /step=0000010/.test(error.message),
    );
    verifyCheckpoint(join(dir, 'step=0000010'));
  });
}

test('a manifest with SHA-256, as they were before, is compared too', () => {
  const folder = saveCheckpoint(engine, freshFolder(), content(10));
  const manifest = join(folder, 'manifest.json');
  const names = Object.keys(JSON.parse(readFileSync(manifest, 'utf8')).files);
  const files = Object.fromEntries(
    names.map((name) => {
      const bytes = readFileSync(join(folder, name));
      return [name, { bytes: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') }];
    }),
  );
  writeFileSync(manifest, JSON.stringify({ format: 1, files }));
  verifyCheckpoint(folder);
  flip(join(folder, 'model.safetensors'));
  assert.throws(() => verifyCheckpoint(folder), /model.safetensors does not match its checksum/);
});

function flip(file: string): void {
  const bytes = readFileSync(file);
  bytes[bytes.length - 3]! ^= 1;
  writeFileSync(file, bytes);
}

test('a step that is saved again replaces what was there, damaged or of other settings', () => {
  const dir = freshFolder();
  const folder = saveCheckpoint(engine, dir, content(5, 0));
  flip(join(folder, 'model.safetensors'));
  const again = content(5, 1);
  assert.equal(saveCheckpoint(engine, dir, again), folder);
  verifyCheckpoint(folder);
  const { parameters, optimizer } = training();
  restore(engine, folder, parameters, optimizer);
  assert.deepEqual(engine.bytes(parameters[0]!.value), engine.bytes(again.parameters[0]!.value));
  assert.deepEqual(readdirSync(dir).sort(), ['last', 'step=0000005']);
});

test('a save that fails leaves the checkpoint before it, the name of the last, and nothing half-written', () => {
  const dir = freshFolder();
  saveCheckpoint(engine, dir, content(1));
  const failing = { ...content(2), files: [join(root, 'no such file')] };
  assert.throws(() => saveCheckpoint(engine, dir, failing), /no such file/);
  assert.deepEqual(readdirSync(dir).sort(), ['last', 'step=0000001']);
  assert.equal(readFileSync(join(dir, 'last'), 'utf8').trim(), 'step=0000001');
  verifyCheckpoint(join(dir, 'step=0000001'));
});

const keep = (topK: number, more: Partial<KeepRule> = {}): KeepRule => ({
  topK,
  monitor: 'val_loss',
  mode: 'min',
  last: true,
  ...more,
});

test('pruning keeps the newest and the best, sweeps what interrupted saves left, and survives a damaged one', () => {
  const dir = freshFolder();
  for (const [step, valLoss] of [
    [1, 0.3],
    [2, 0.1],
    [3, 0.2],
    [4, 0.9],
  ] as const) {
    saveCheckpoint(engine, dir, content(step, 0, { valLoss }));
  }
  mkdirSync(join(dir, 'step=0000009.123.partial'));
  pruneCheckpoints(dir, keep(-1));
  assert.deepEqual(checkpointsIn(dir).length, 4);
  assert.ok(!existsSync(join(dir, 'step=0000009.123.partial')));
  rmSync(join(dir, 'step=0000001', 'state.json'));
  pruneCheckpoints(dir, keep(2));
  assert.deepEqual(checkpointsIn(dir), ['step=0000002', 'step=0000003', 'step=0000004']);
  pruneCheckpoints(dir, keep(0));
  assert.deepEqual(checkpointsIn(dir), ['step=0000004']);
});

test('without the file that names the last one, nothing is pruned', () => {
  const dir = freshFolder();
  for (const step of [1, 2]) saveCheckpoint(engine, dir, content(step));
  rmSync(join(dir, 'last'));
  pruneCheckpoints(dir, keep(0));
  assert.equal(checkpointsIn(dir).length, 2);
});

test('a run of other settings cannot be continued, and the message names the parameter', () => {
  const folder = saveCheckpoint(engine, freshFolder(), content(1));
  const { parameters, optimizer } = training();
  const other: Parameter = { ...parameters[0]!, value: engine.zeros([3, 3]) };
  assert.throws(
    () => restore(engine, folder, [other], optimizer),
    (e: unknown) => isUserError(e) && e.message.includes(other.name) && /\[3, 3\]/.test(e.message),
  );
  assert.throws(() => restore(engine, folder, [{ ...other, name: 'language_model.x' }], optimizer), /nothing of that/);
});

test('frozen parts are found through their references; a part gone or changed, even in place, is refused', () => {
  const home = join(root, 'parts');
  cpSync(fixture('llava/llm'), join(home, 'llm'), { recursive: true });
  cpSync(fixture('llava/vision'), join(home, 'vision'), { recursive: true });
  const frozen = (['llm', 'vision'] as const).map((part) => referTo(part, openWeights(join(home, part))));
  const folder = saveCheckpoint(engine, freshFolder(), content(1, 0, { frozen }));
  const whole = openWhole(folder);
  assert.deepEqual(Object.keys(whole.parts).sort(), ['llm', 'projector', 'vision']);
  assert.equal(whole.parts.projector!.path, folder);
  const head = 'language_model.lm_head.weight';
  assert.deepEqual(
    engine.read(whole.parts.llm!.source(engine, 'llm').load(head)),
    engine.read(llava.source(engine, 'llm').load(head)),
  );
  // The same size, other values: what retraining the part in the same folder gives.
  const weights = join(home, 'vision', 'model.safetensors');
  const { entries } = openWeights(join(home, 'vision'));
  const bytes = readFileSync(weights);
  for (const { offset, nbytes } of entries.values()) bytes.subarray(offset, offset + nbytes).reverse();
  writeFileSync(weights, bytes);
  assert.throws(
    () => openWhole(folder),
    (e: unknown) => isUserError(e) && /vision has changed/.test(e.message),
  );
  rmSync(join(home, 'vision'), { recursive: true });
  assert.throws(
    () => openWhole(folder),
    (e: unknown) => isUserError(e) && /vision[\s\S]*no longer there/.test(e.message),
  );
});
