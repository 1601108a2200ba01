/** Weights that are not the configured model's: refused in one table. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openWeights, type Weights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { NevaModel } from '../../src/model/neva.ts';
import type { NevaShape } from '../../src/model/shapes.ts';
import { fixture } from '../support/fixtures.ts';
import { torchEngine } from '../support/torch.ts';

const engine = torchEngine();
const folders = {
  llm: openWeights(fixture('llava/llm')),
  vision: openWeights(fixture('llava/vision')),
  projector: openWeights(fixture('llava/model')),
};
const shape = { ...folders.projector.config } as NevaShape;

/** The message with which a model is refused that is of another shape, or of other weights. */
function refusal(change: Partial<NevaShape>, weights: Partial<Record<keyof typeof folders, Weights>> = {}): string {
  const from = { ...folders, ...weights };
  const sources = {
    llm: from.llm.source(engine, 'llm'),
    vision_encoder: from.vision.source(engine, 'vision'),
    projector: from.projector.source(engine, 'projector'),
  };
  try {
    new NevaModel(engine, { ...shape, ...change }, { sources });
  } catch (error) {
    assert.ok(isUserError(error), String(error));
    return error.message.replace(/ +/g, ' ');
  }
  return assert.fail('it was not refused');
}

test('another picture size: the table and what it means', () => {
  const message = refusal({ vision: { ...shape.vision, imageSize: 42 } });
  assert.match(message, /^ 1 of another shape$/m);
  assert.match(message, /position_embedding\.weight \[37, 32\] \[17, 32\]/);
  assert.match(
    message,
    /trained on 4×4 patches, and 6×6 are configured: set model\.mm_cfg\.vision_encoder\.image_size/,
  );
});

test('another width: every weight once, blocks together', () => {
  const message = refusal({ llm: { ...shape.llm, ffnHiddenSize: 96 } });
  assert.match(message, /^ 9 of another shape$/m);
  assert.match(message, /model\.layers\.\{0-2\}\.mlp\.gate_proj\.weight \[96, 48\] \[80, 48\]/);
  assert.equal(message.match(/gate_proj/g)!.length, 1);
  assert.match(message, /fix: leave the shape keys out/);
});

test('fewer blocks, more blocks: too many and missing ones', () => {
  const fewer = refusal({ llm: { ...shape.llm, numLayers: 2 } });
  assert.match(fewer, /^ 9 that the model does not have$/m);
  assert.match(fewer, /layers\.2\.self_attn\.q_proj\.weight — \[48, 48\]/);
  const more = refusal({ llm: { ...shape.llm, numLayers: 5 } });
  assert.match(more, /^ 18 missing$/m);
  assert.match(more, /layers\.\{3-4\}\.mlp\.down_proj\.weight \[48, 80\] —/);
});

test('another family', () => {
  const message = refusal({}, { llm: openWeights(fixture('gpt/nemotron_bias')) });
  assert.match(message, /\d+ missing, \d+ of another shape, \d+ that the model does not have/);
  assert.match(message, /layers\.\{0-2\}\.mlp\.gate_proj\.weight \[80, 48\] —/);
  assert.match(message, /layers\.\{0-1\}\.input_layernorm\.bias — \[48\]/);
  assert.match(message, /… and \d+ lines more/);
});
