/** What neva writes is read by transformers: a LLaVA around NVGPT, and one around a LLaMA with stretched positions. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { convert } from '../../src/checkpoint/convert.ts';
import { referTo } from '../../src/checkpoint/parts.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { saveCheckpoint } from '../../src/checkpoint/write_folder.ts';
import { packageRoot } from '../../src/root.ts';
import { fixture } from '../support/fixtures.ts';
import { gptModel } from '../support/gpt.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const root = mkdtempSync(join(tmpdir(), 'neva-transformers-'));
after(() => rmSync(root, { recursive: true }));

const python = (() => {
  try {
    execFileSync('python3', ['-c', 'import transformers, safetensors'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
})();

for (const [name, kind] of [
  ['nemotron', 'NemotronModel'],
  ['nemotron_bias', 'NemotronModel'],
  ['llama3', 'LlamaModel'],
] as const) {
  test(`${name}: a checkpoint of neva's, converted, has the reference's logits in transformers`, {
    skip: !python,
  }, () => {
    const { shape, llm, projector } = gptModel(engine, name, { change: (s) => ({ ...s, paddedVocabSize: 128 }) });
    const state = {
      ...{ format: 1 as const, stage: 'finetune', step: 1, epoch: 0, consumedSamples: 1, valLoss: null, loss: null },
      ...{
        rng: '',
        seed: 1,
        template: 'v1',
        templateCompat: 'llava' as const,
        imageAspect: 'pad',
        useImStartEnd: false,
      },
      additionalTokens: [],
      frozen: [referTo('vision', openWeights(fixture('llava/vision')))],
    };
    const parameters = [...llm.parameters, ...projector.parameters];
    const folder = saveCheckpoint(engine, join(root, name), {
      state,
      shape,
      parameters,
      optimizer: new Map(),
      files: [],
    });
    const folders = (['hf', 'hf-new'] as const).map((to) => {
      const out = join(root, `${name}-${to}`);
      convert({ from: folder, to, out, part: 'all', dtype: null, tp: 1, pp: 1 });
      return out;
    });
    const args = [join(packageRoot, 'test/tools/check_gpt.py'), fixture(`gpt/${name}.safetensors`), ...folders];
    const output = execFileSync('python3', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
    assert.equal(output.match(new RegExp(`${kind}, logits equal`, 'g'))?.length, 2, output);
  });
}
