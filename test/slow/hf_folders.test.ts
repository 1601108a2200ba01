/**
 * Folders of transformers and LLaVA in every layout, in float32 and bfloat16, in one file and in shards: opened by neva, they give the
 * logits, loss, gradients and greedy tokens that transformers computes from them (test/tools/hf_folders.py).
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { addTower, openWhole, type WholeModel } from '../../src/checkpoint/parts.ts';
import { readSafetensors } from '../../src/checkpoint/safetensors.ts';
import { load, openWeights } from '../../src/checkpoint/weights.ts';
import { decode } from '../../src/generate/decode.ts';
import { NevaModel } from '../../src/model/neva.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { packageRoot } from '../../src/root.ts';
import { forwardBackward } from '../../src/train/walk.ts';
import { assertClose } from '../support/allclose.ts';
import { greedy, reference, referenceInput, referencePrompt } from '../support/llava.ts';
import { torchEngine } from '../support/torch.ts';

const root = mkdtempSync(join(tmpdir(), 'neva-folders-'));
after(() => rmSync(root, { recursive: true, force: true }));
const python = spawnSync('python3', ['-c', 'import transformers']).status === 0;
const skip = !python && 'no transformers';
const engine = torchEngine();

const LAYOUTS: { name: string; files: number; open: (folder: string) => WholeModel }[] = [
  ...['saved', 'saved_bin', 'original'].map((name) => ({ name, files: 1, open: whole(name) })),
  ...['saved_shards', 'new_shards', 'original_bare'].map((name) => ({ name, files: 2, open: whole(name) })),
  {
    name: 'llm_shards',
    files: 2,
    open: (folder) => {
      const { config, parts } = openWhole(join(folder, 'saved'));
      const llm = openWeights(join(folder, 'llm_shards'));
      const vision = openWeights(join(folder, 'clip_shards'));
      const shapes = { ...config!, llm: llm.config!.llm!, vision: vision.config!.vision! };
      return { config: shapes, parts: { ...parts, llm, vision }, tokenizerFolder: null };
    },
  },
];

function whole(name: string) {
  return (folder: string): WholeModel => {
    const model = openWhole(join(folder, name));
    addTower(model, null);
    return model;
  };
}

function built({ config, parts }: WholeModel): NevaModel {
  const { llm, vision, projector } = config!;
  const sources = {
    vision_encoder: parts.vision!.source(engine, 'vision'),
    projector: parts.projector!.source(engine, 'projector'),
    llm: parts.llm!.source(engine, 'llm'),
  };
  const model = new NevaModel(engine, { llm, vision, projector } as NevaShape, { sources });
  for (const parameter of model.parameters) {
    parameter.value = engine.keep(engine.scale(parameter.value, 1));
    parameter.trainable = true;
  }
  return model;
}

test('every layout gives what transformers computes', { skip }, async (t) => {
  execFileSync('python3', [join(packageRoot, 'test/tools/hf_folders.py'), root], { stdio: 'pipe' });
  const input = referenceInput(engine);
  for (const dtype of ['float32', 'bfloat16']) {
    const folder = join(root, dtype);
    const { entries } = readSafetensors(join(folder, 'reference.safetensors'));
    const wanted = (name: string) => engine.read(load(engine, entries.get(name)!));
    const { loss: expected, tokens } = JSON.parse(readFileSync(join(folder, 'reference.json'), 'utf8'));
    for (const { name, files, open } of LAYOUTS) {
      await t.test(`${dtype}, ${name}`, () => {
        const weights = readdirSync(join(folder, name)).filter((file) => /\.(safetensors|bin)$/.test(file));
        assert.ok(files === 1 ? weights.length === 1 : weights.length > 1, weights.join());
        const model = built(open(folder));
        const logits = model.logits(input, input.labelRows);
        assertClose(engine.read(logits), wanted('logits'), { relative: 1e-4 }, 'logits');
        const labels = input.labelRows.length;
        const loss = engine.scope(() => forwardBackward(engine, model.lossChain(input), 1 / labels));
        assert.ok(Math.abs(engine.item(loss) / labels / expected - 1) < 1e-5);
        let compared = 0;
        for (const { name, grad } of model.parameters) {
          if (reference.zero_gradients.includes(name)) continue;
          assertClose(engine.read(grad!), wanted(`grad.${name}`), { relative: 1e-4 }, name);
          compared += 1;
        }
        assert.ok(compared > 40);
        const result = decode(engine, model, referencePrompt(engine), { ...greedy, maxTokens: tokens.length });
        assert.deepEqual(result.tokens, tokens);
      });
    }
  }
});
