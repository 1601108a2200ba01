/** Token ids and label masks against LLaVA's rendering and transformers' whole-string tokenization (test/tools/data_tokenizer.py). */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import { encodePrompt, encodeRecord, renderRecord, requireTokens } from '../../src/data/example.ts';
import { fromSentencePiece } from '../../src/data/sentencepiece.ts';
import { findTemplate, IMAGE_TAG, placeImages, type Turn, templateNames } from '../../src/data/templates.ts';
import { loadTokenizer, makeTokenizer, type Tokenizer } from '../../src/data/tokenizer.ts';
import { packageRoot } from '../../src/root.ts';

const fixtures = join(packageRoot, 'test', 'fixtures', 'data');

interface Row {
  tokenizer: 'legacy' | 'new';
  template: string;
  turns: ['human' | 'gpt', string][];
  text: string;
  ids: number[];
  labels: number[];
}
interface Reference {
  sentencepiece: { text: string; ids: number[] }[];
  rows: Row[];
}
const reference = JSON.parse(readFileSync(join(fixtures, 'conversations.json'), 'utf8')) as Reference;
const tokenizers: Record<string, Tokenizer> = {
  legacy: loadTokenizer(join(fixtures, 'tokenizer-legacy')),
  new: loadTokenizer(join(fixtures, 'tokenizer-new')),
};
const options = { maxLength: 4096, featuresPerImage: 1, useImStartEnd: false };

const asTurns = (turns: Row['turns']): Turn[] => turns.map(([from, text]) => ({ from, text }));

function encode(row: Omit<Row, 'tokenizer'>, tokenizer: Tokenizer, template = findTemplate(row.template)) {
  const turns = asTurns(row.turns);
  const images = turns.flatMap(({ text }) =>
    text
      .split(IMAGE_TAG)
      .slice(1)
      .map(() => 'a.png'),
  );
  const example = encodeRecord({ index: 0, id: '0', images, turns }, template, tokenizer, options, 'record');
  const ids = [...example.ids];
  for (const start of example.imageStarts) ids[start] = -200;
  return { ids, labels: [...example.labels] };
}

test('the system texts are the ones the models were trained on', () => {
  const hash = (name: string) => createHash('sha256').update(findTemplate(name).system).digest('hex').slice(0, 16);
  assert.equal(hash('v1'), '1fa69e2371b762d1');
  assert.equal(hash('llava_llama_2'), '790f4cfc05523b0e');
  assert.equal(hash('v0'), 'ace78a978005f68a');
  assert.equal(hash('llama_2'), 'd52c188a3c969c4e');
});

test('segments render the text that LLaVA renders', () => {
  for (const row of reference.rows) {
    const turns = asTurns(row.turns).map((turn) => ({ ...turn, text: placeImages(turn.text) }));
    const rendered = findTemplate(row.template)
      .render({ turns })
      .map(({ text, special }, at) => (special === 'eos' ? '</s>' : special === 'bos' && at > 0 ? '<s>' : text))
      .join('');
    assert.equal(rendered, row.text);
  }
});

for (const template of new Set(reference.rows.map((row) => row.template))) {
  test(`ids and labels of ${template} are those of the whole string`, () => {
    const rows = reference.rows.filter((row) => row.template === template);
    assert.ok(rows.length >= 16);
    for (const row of rows)
      assert.deepEqual(
        encode(row, tokenizers[row.tokenizer] as Tokenizer),
        { ids: row.ids, labels: row.labels },
        JSON.stringify(row.text),
      );
  });
}

test('a text alone gives the ids of SentencePiece itself', () => {
  const tokenizer = tokenizers.legacy as Tokenizer;
  for (const { text, ids } of reference.sentencepiece) {
    // Metaspace adds no second mark before a leading space; SentencePiece does.
    if (!text.startsWith(' ')) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
  }
});

test('a prompt for generation is the beginning of the training ids', () => {
  for (const row of reference.rows) {
    const answer = row.labels.findIndex((label) => label !== -100);
    const tokenizer = tokenizers[row.tokenizer] as Tokenizer;
    const prompt = encodePrompt(
      tokenizer,
      findTemplate(row.template),
      { turns: asTurns(row.turns).slice(0, 1) },
      options,
    );
    const ids = [...prompt.ids];
    for (const start of prompt.imageStarts) ids[start] = -200;
    assert.deepEqual(ids, row.ids.slice(0, answer));
  }
});

test('decoding gives back the text', () => {
  for (const tokenizer of Object.values(tokenizers)) {
    for (const { text } of reference.sentencepiece) {
      if (text !== '' && !text.startsWith(' ') && !text.includes('<image>')) {
        assert.equal(tokenizer.decode(tokenizer.encode(text, { bos: true })), text);
      }
    }
  }
});

test("NeMo's form: whole conversations as one SentencePiece text", () => {
  const { rows } = JSON.parse(readFileSync(join(fixtures, 'nemo.json'), 'utf8')) as { rows: Omit<Row, 'tokenizer'>[] };
  const tokenizer = loadTokenizer(join(fixtures, 'tokenizer-nemo'));
  for (const row of rows) {
    const template = findTemplate(row.template, 'nemo');
    const { ids, labels } = encode(row, tokenizer, template);
    // Labels by segments; those that NeMo counts are in quirks.test.ts.
    const expected = { ids: row.ids, labels: template.mask === null ? row.labels : labels };
    assert.deepEqual({ ids, labels }, expected, JSON.stringify([row.template, row.turns]));
  }
});

test('sep_image_conv_front puts the picture before the speaker', () => {
  const tokenizer = tokenizers.new as Tokenizer;
  const turns = asTurns([
    ['human', 'What is this?\n<image>'],
    ['gpt', 'A dog.'],
  ]);
  const record = { index: 0, id: '0', images: ['a.png'], turns };
  const front = { ...options, imageToFront: true };
  // NeMo: tag, separator and speaker of its default conversation, then the words.
  const nemo = renderRecord(record, findTemplate('llama_2', 'nemo'), front, 'r');
  const text = nemo.map((segment) => segment.text).join('');
  assert.ok(text.includes('<</SYS>>\n\n<image> USER: What is this? [/INST]'), text);
  const same = {
    ...record,
    turns: asTurns([
      ['human', '<image> USER: What is this?'],
      ['gpt', 'A dog.'],
    ]),
  };
  assert.deepEqual(
    encodeRecord(record, findTemplate('v1', 'nemo'), tokenizer, front, 'r'),
    encodeRecord(same, findTemplate('v1', 'nemo'), tokenizer, options, 'r'),
  );
  // A prompt is what training showed before the answer.
  const prompt = encodePrompt(tokenizer, findTemplate('v1'), { turns: turns.slice(0, 1) }, front);
  const { ids } = encodeRecord(record, findTemplate('v1'), tokenizer, front, 'r');
  assert.deepEqual(prompt.ids, ids.slice(0, prompt.ids.length));
  assert.ok(ids.length > prompt.ids.length);
  assert.notDeepEqual(prompt, encodePrompt(tokenizer, findTemplate('v1'), { turns: turns.slice(0, 1) }, options));

  const later = asTurns([
    ['human', 'Look.'],
    ['gpt', 'Where?'],
    ['human', '<image>'],
    ['gpt', 'A dog.'],
  ]);
  const late = { ...record, turns: later };
  assert.throws(() => encodeRecord(late, findTemplate('v1'), tokenizer, front, 'r'), { kind: 'record' });
  // A record without a picture has nothing to move.
  encodeRecord(
    { ...late, images: [], turns: later.map((turn) => ({ ...turn, text: 'x' })) },
    findTemplate('v1'),
    tokenizer,
    front,
    'r',
  );
});

test('a template whose tokens the vocabulary lacks is refused, and they can be added', () => {
  const folder = join(fixtures, 'tokenizer-new');
  const tokens = ['<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>'];
  const lacking = loadTokenizer(folder);
  assert.throws(() => requireTokens(findTemplate('llama_3'), lacking), {
    userError: true,
    message: /no <\|start_header_id\|>/,
  });
  const tokenizer = loadTokenizer(folder, tokens);
  requireTokens(findTemplate('llama_3'), tokenizer);
  assert.deepEqual(
    tokens.map((token) => tokenizer.tokenId(token)),
    [0, 1, 2].map((i) => lacking.vocabSize + i),
  );
  assert.equal(tokenizer.vocabSize, lacking.vocabSize + 3);
  assert.deepEqual(tokenizer.encode('<|eot_id|>a', { start: 'middle' }), [
    lacking.vocabSize + 2,
    ...lacking.encode('a', { start: 'middle' }),
  ]);
});

test('the prefix is chosen as transformers 5 chooses it', () => {
  const folder = join(fixtures, 'tokenizer-new');
  const read = (name: string) => JSON.parse(readFileSync(join(folder, name), 'utf8'));
  const config = read('tokenizer_config.json');
  const prepend = {
    ...read('tokenizer.json'),
    pre_tokenizer: null,
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '▁' },
        { type: 'Replace', pattern: { String: ' ' }, content: '▁' },
      ],
    },
  };
  // What LlamaTokenizer and PreTrainedTokenizerFast of transformers 5.18 give for such files.
  const cases: [tokenizerClass: string, legacy: boolean | undefined, files: object, prefixed: boolean][] = [
    ['LlamaTokenizer', true, read('tokenizer.json'), true],
    ['LlamaTokenizer', true, prepend, true],
    ['LlamaTokenizer', false, prepend, false],
    ['LlamaTokenizerFast', undefined, prepend, false],
    ['PreTrainedTokenizerFast', false, prepend, true],
    ['PreTrainedTokenizerFast', true, read('tokenizer.json'), false],
  ];
  for (const [tokenizer_class, legacy, files, prefixed] of cases) {
    const tokenizer = makeTokenizer(
      files as Parameters<typeof makeTokenizer>[0],
      { ...config, tokenizer_class, legacy },
      'here',
    );
    const after = tokenizer.encode('dog', { start: prefixed ? 'text' : 'middle' });
    assert.deepEqual(
      tokenizer.encode('a</s>dog').slice(-after.length - 1),
      [2, ...after],
      `${tokenizer_class} ${legacy}`,
    );
  }
});

test('tokenizer.model gives the same ids as the tokenizer.json made of it, and as SentencePiece', () => {
  const tokenizer = loadTokenizer(join(fixtures, 'spm'));
  const { bosId, eosId, unkId, padId } = tokenizer;
  assert.deepEqual({ bosId, eosId, unkId, padId }, { bosId: 1, eosId: 2, unkId: 0, padId: null });
  for (const { text, ids } of reference.sentencepiece) {
    if (!text.startsWith(' ')) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
    for (const start of ['text', 'special', 'middle'] as const) {
      assert.deepEqual(
        tokenizer.encode(text, { start }),
        tokenizers.new?.encode(text, { start }),
        JSON.stringify(text),
      );
    }
    assert.equal(tokenizer.decode(tokenizer.encode(text)), tokenizers.new?.decode(tokenizers.new.encode(text)));
  }
  assert.deepEqual(
    loadTokenizer(join(fixtures, 'spm', 'tokenizer.model')).encode('a</s>b'),
    tokenizers.new?.encode('a</s>b'),
  );
});

test('a damaged tokenizer.model is refused by name, or read as something harmless', () => {
  const bytes = readFileSync(join(fixtures, 'spm', 'tokenizer.model'));
  assert.throws(() => fromSentencePiece(new Uint8Array(0), 'a.model'), { userError: true, message: /a\.model/ });
  assert.throws(() => fromSentencePiece(Buffer.from('{"a": "json file"}'), 'a.model'), { userError: true });
  fc.assert(
    fc.property(fc.nat(bytes.length - 1), fc.nat(255), fc.nat(bytes.length), (at, value, length) => {
      const damaged = Buffer.from(bytes);
      damaged[at] = value;
      try {
        fromSentencePiece(damaged.subarray(0, length), 'a.model');
      } catch (error) {
        assert.equal((error as { userError?: boolean }).userError, true, String(error));
      }
    }),
    { numRuns: 300 },
  );
});

test('an unknown template is named, with the known ones', () => {
  assert.throws(() => findTemplate('toString'), { userError: true, message: /"toString"/ });
  assert.throws(() => findTemplate('v9'), new RegExp(templateNames.join(', ')));
});
