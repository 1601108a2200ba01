/** WebDataset shards made with Python's tarfile (test/tools/data_shards.py). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { expandBraces } from '../../src/data/braces.ts';
import { openDataset } from '../../src/data/dataset.ts';
import type { DataOptions } from '../../src/data/pipeline.ts';
import { Pipeline } from '../../src/data/pipeline.ts';
import { packageRoot } from '../../src/root.ts';

const fixtures = join(packageRoot, 'test', 'fixtures', 'data');
const pattern = join(fixtures, 'shards', 'set-{000..002}.tar');

test('samples of all shards, in order, with their pictures', async () => {
  const dataset = await openDataset(pattern);
  assert.equal(dataset.size, 8);
  const expected: [id: string, answer: string, pictures: string[]][] = [
    ['00000', 'a red square', ['rgb.png']],
    ['00001', 'only in the json', ['odd.png']],
    [`deep/${'long/'.repeat(30)}n`, 'a long name', ['grey.png']],
    ['00000', 'same stem, another shard', ['grey.png']],
    ['talk', 'Both.', ['rgb.png', 'tiny.png']],
    ['t', 'Because.', []],
  ];
  for (const [index, [id, answer, pictures]] of expected.entries()) {
    const record = dataset.get(index);
    assert.equal(record.id, id);
    assert.equal(record.turns[1]?.text, answer);
    const bytes = await Promise.all((record.files ?? []).map((file) => file.read(1 << 20)));
    assert.deepEqual(
      bytes.map((each) => Buffer.from(each).toString('base64')),
      pictures.map((name) => readFileSync(join(fixtures, 'images', name)).toString('base64')),
      id,
    );
  }
  assert.equal(dataset.get(2).turns[0]?.text, '<image>');
  assert.throws(() => dataset.get(6), { kind: 'json', message: /set-002\.tar:bad\.json/ });
  assert.throws(() => dataset.get(7), { kind: 'record', message: /set-002\.tar:empty[\s\S]*found: +\.cls/ });
  dataset.close();
});

test('one shard alone is known by its content, and shards make batches', async () => {
  const options: DataOptions = {
    dataPath: join(fixtures, 'shards', 'set-{000,001}.tar'),
    imageFolder: null,
    tokenizerFolder: join(fixtures, 'tokenizer-new'),
    template: 'plain',
    maxLength: 64,
    imageSize: 28,
    featuresPerImage: 4,
    aspect: 'square',
    useImStartEnd: false,
    microBatchSize: 2,
    globalBatchSize: 2,
    dataParallelRank: 0,
    dataParallelSize: 1,
    seed: 0,
    dataloaderType: 'single',
    prefetchBatches: 1,
    onError: 'error',
  };
  const pipeline = await Pipeline.open(options);
  const { microBatches } = await pipeline.batch(0);
  assert.deepEqual(microBatches[0]?.records, ['00000', '00001']);
  assert.equal(microBatches[0]?.imageCount, 2);
  pipeline.close();
  const alone = await openDataset(join(fixtures, 'shards', 'set-002.tar'));
  assert.equal(alone.size, 4);
  alone.close();
});

test('a shard that is missing or broken is named', async () => {
  await assert.rejects(openDataset(join(fixtures, 'shards', 'set-{000..004}.tar')), {
    userError: true,
    message: /set-003\.tar: cannot read the shard/,
  });
  await assert.rejects(openDataset(join(fixtures, '{spm/tokenizer.model,images.json}')), {
    userError: true,
    message: /tokenizer\.model: not a usable tar archive/,
  });
});

test('patterns are expanded as a shell expands them', () => {
  // Expected: bash 5, `echo PATTERN`.
  assert.deepEqual(expandBraces('a.tar'), ['a.tar']);
  assert.deepEqual(expandBraces('s-{08..11}.tar'), ['s-08.tar', 's-09.tar', 's-10.tar', 's-11.tar']);
  assert.deepEqual(expandBraces('s-{8..10}'), ['s-8', 's-9', 's-10']);
  assert.deepEqual(expandBraces('{a,b}/{0..1}'), ['a/0', 'a/1', 'b/0', 'b/1']);
  for (const wrong of ['{a}', '{3..1}', '{0..9999999}', '{0..999}{0..999}']) {
    assert.throws(() => expandBraces(wrong), { userError: true }, wrong);
  }
});
