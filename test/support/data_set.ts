/** A small LLaVA data set of the fixtures' pictures, every fourth record without one, and options that read it. */
import type { DataOptions } from '../../src/data/loader.ts';
import { fixture } from './fixtures.ts';

const PICTURES = ['rgb.png', 'photo.jpg', 'odd.png', 'grey.png', 'rgba.png'];

/** @param words how many the question has on top of its own */
export const record = (i: number, words: number, image: string | undefined = PICTURES[i % 5]) => ({
  id: `r${i}`,
  ...(i % 4 === 3 ? {} : { image }),
  conversations: [
    { from: 'human', value: i % 4 === 3 ? `What is ${i}?` : `<image>\nHow many ${'dogs '.repeat(words)}?` },
    { from: 'gpt', value: `There are ${i}.` },
  ],
});

export const dataOptions = (dataPath: string, overrides: Partial<DataOptions> = {}): DataOptions => ({
  dataPath,
  imageFolder: fixture('data/images'),
  tokenizerFolder: fixture('data/tokenizer-new'),
  template: 'v1',
  maxLength: 256,
  imageSize: 28,
  featuresPerImage: 4,
  aspect: 'square',
  useImStartEnd: false,
  microBatchSize: 2,
  globalBatchSize: 4,
  dataParallelRank: 0,
  dataParallelSize: 1,
  seed: 7,
  dataloaderType: 'cyclic',
  prefetchBatches: 2,
  onError: 'error',
  ...overrides,
});
