/** NVGPT and GPT-2 in NeMo's archives: as an independent script fuses and splits them, and as neva writes them. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { convert } from '../../src/checkpoint/convert.ts';
import { parseNemoConfig } from '../../src/checkpoint/nemo_config.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { assertSame, contentsOf } from '../support/contents.ts';
import { fixture } from '../support/fixtures.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-nemo-gpt-'));
after(() => rmSync(folder, { recursive: true }));
let count = 0;

function converted(from: string, options: Partial<Parameters<typeof convert>[0]>): string {
  const out = join(folder, `${count++}${options.to === 'hf' ? '' : '.nemo'}`);
  convert({ from, to: 'nemo', out, part: 'llm', dtype: null, tp: 1, pp: 1, ...options });
  return out;
}

test('biases in one half of the blocks are more than NeMo has', () => {
  assert.throws(
    () => converted(fixture('gpt/llama_attention_bias'), {}),
    (error: unknown) => isUserError(error) && /all linear layers or in none[\s\S]*attention alone/.test(error.message),
  );
});

for (const name of ['nemotron_bias', 'gpt2', 'nvgpt', 'llama_bias']) {
  const hf = openWeights(fixture(`gpt/${name}`));
  const expected = contentsOf(hf.entries);

  const other = name === 'llama_bias' ? { skip: 'no archive of it was made' } : {};
  test(`${name}: an archive that was fused and split by another program`, other, () => {
    const nemo = openWeights(fixture(`gpt/${name}.nemo`));
    assertSame(contentsOf(nemo.entries), expected);
    assert.deepEqual(nemo.config, hf.config);
  });

  test(`${name}: through NeMo's archives of any size and back, bit for bit`, () => {
    for (const [to, tp, pp] of [
      ['nemo', 1, 1],
      ['nemo-mcore', 2, 1],
      ['nemo', 2, name === 'gpt2' ? 1 : 2],
    ] as const) {
      const nemo = converted(fixture(`gpt/${name}`), { to, tp, pp });
      assert.deepEqual(openWeights(nemo).config, hf.config);
      const back = openWeights(converted(nemo, { to: 'hf' }));
      assertSame(contentsOf(back.entries), expected);
      assert.deepEqual(back.config, hf.config);
    }
  });
}

test('activations without a gate, with one, and by tanh are told apart', () => {
  const sizes = 'num_layers: 2\nhidden_size: 8\nffn_hidden_size: 16\nnum_attention_heads: 2\nencoder_seq_length: 8\n';
  const activation = (text: string) => parseNemoConfig(sizes + text, 'x').llm?.gpt?.activation ?? 'swiglu';
  assert.equal(activation('activation: swiglu'), 'swiglu');
  assert.equal(activation('activation: reglu'), 'reglu');
  assert.equal(activation('activation: gelu'), 'gelu');
  assert.equal(activation('activation: gelu\nopenai_gelu: true'), 'gelu-tanh');
  // The fused kernel needs a bias to fuse.
  assert.equal(activation('activation: gelu\nbias_activation_fusion: true'), 'gelu');
  assert.equal(activation('activation: gelu\nbias: true\nbias_activation_fusion: true'), 'gelu-tanh');
  assert.equal(activation('activation: gelu\nbias: true\nbias_activation_fusion: false'), 'gelu');
  assert.deepEqual(parseNemoConfig(`${sizes}seq_len_interpolation_factor: 4`, 'x').llm?.rotaryScaling, {
    type: 'linear',
    factor: 4,
  });
});

test('stretched positions: linear ones are written, others are refused', () => {
  const linear = join(folder, 'linear');
  const source = fixture('gpt/llama3');
  convert({ from: source, to: 'hf', out: linear, part: 'llm', dtype: null, tp: 1, pp: 1 });
  const config = {
    ...JSON.parse(readFileSync(join(linear, 'config.json'), 'utf8')),
    rope_scaling: { rope_type: 'linear', factor: 2 },
  };
  writeFileSync(join(linear, 'config.json'), JSON.stringify(config));
  const nemo = openWeights(converted(linear, {}));
  assert.deepEqual(nemo.config?.llm?.rotaryScaling, { type: 'linear', factor: 2 });
  assert.throws(
    () => converted(source, {}),
    (error: unknown) => isUserError(error) && /stretch positions[\s\S]*llama3, factor 4/.test(error.message),
  );
});
