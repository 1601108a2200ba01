/** Files of data with damage at random: reading one gives records, pictures or ids, or a user error; soon, and nothing else. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { openDataset } from '../../src/data/dataset.ts';
import { openImageStore } from '../../src/data/image-store.ts';
import { decode } from '../../src/data/images.ts';
import { isRecordProblem } from '../../src/data/problem.ts';
import { loadTokenizer } from '../../src/data/tokenizer.ts';
import { isUserError } from '../../src/errors.ts';
import { damage, random } from './damage.ts';
import { fixture } from './fixtures.ts';

interface Kind {
  /** The file that is damaged, by the name it is read under. */
  name: string;
  make: (next: () => number) => Buffer;
  /** Reads all that is in it; what one record or picture is refused for is passed over. */
  read: (path: string) => Promise<void>;
}

const records = Array.from({ length: 12 }, (_, i) => ({
  id: i % 2 ? i : `r${i}`,
  image: i % 3 ? 'rgb.png' : ['a.png', 'b.png'],
  conversations: [
    { from: 'human', value: `${'<image>\n'.repeat(i % 3 ? 1 : 2)}What is "this" \\ here? é` },
    { from: 'gpt', value: 'A [dog], {one}.' },
  ],
}));
const json = Buffer.from(JSON.stringify(records, null, 1));
const jsonl = Buffer.from(records.map((record) => JSON.stringify(record)).join('\n'));

async function passOver(work: () => unknown): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!isRecordProblem(error)) throw error;
  }
}

async function readAll(path: string): Promise<void> {
  const dataset = await openDataset(path);
  try {
    for (let index = 0; index < dataset.size; index++) {
      await passOver(async () => {
        for (const file of dataset.get(index).files ?? []) await decode(await file.read(1 << 24), file.name);
      });
    }
  } finally {
    dataset.close();
  }
}

const plain = (bytes: Buffer) => (next: () => number) => damage(bytes, next);
const picture = (name: string): Kind => ({
  name,
  make: plain(readFileSync(fixture(`data/images/${name}`))),
  read: (path) => passOver(async () => decode(readFileSync(path), path)),
});

async function readTokenizer(path: string): Promise<void> {
  const tokenizer = loadTokenizer(path);
  for (const start of ['text', 'special', 'bare'] as const) {
    const ids = tokenizer.encode('What is é in <image> the picture?</s>', { start });
    tokenizer.decode(ids);
  }
}

export const DATA_KINDS: Record<string, Kind> = {
  'JSON array': { name: 'data.json', make: plain(json), read: readAll },
  'JSON lines': { name: 'data.jsonl', make: plain(jsonl), read: readAll },
  'gzip, damaged': { name: 'data.json.gz', make: plain(gzipSync(json)), read: readAll },
  'gzip of damaged JSON': { name: 'data.json.gz', make: (next) => gzipSync(damage(json, next)), read: readAll },
  shard: { name: 'set.tar', make: plain(readFileSync(fixture('data/shards/set-001.tar'))), read: readAll },
  'shard of conversations': {
    name: 'set.tar',
    make: plain(readFileSync(fixture('data/shards/set-002.tar'))),
    read: readAll,
  },
  'tar of pictures': {
    name: 'images.tar',
    make: plain(readFileSync(fixture('data/shards/set-000.tar'))),
    async read(path) {
      const store = openImageStore(path, 'data.json');
      for (const name of ['00000.jpg', '00001.png']) {
        await passOver(async () => decode(await store.locate(name, 'record').read(1 << 24), name));
      }
    },
  },
  ...Object.fromEntries(
    ['rgb.png', 'palette.png', 'photo.jpg', 'progressive.jpg', 'cmyk.jpg', 'still.gif', 'lossy.webp', 'cmyk.tif'].map(
      (name) => [name, picture(name)],
    ),
  ),
  'tokenizer.model': {
    name: 'tokenizer.model',
    make: plain(readFileSync(fixture('data/spm/tokenizer.model'))),
    read: readTokenizer,
  },
  'tokenizer.json': {
    name: 'tokenizer.json',
    make: plain(readFileSync(fixture('data/tokenizer-new/tokenizer.json'))),
    read: readTokenizer,
  },
};

/** Tries `count` cases of a kind; `seed` + i is the seed of the i-th. Returns how many were refused as a whole. */
export async function fuzzData(kind: string, count: number, seed: number): Promise<number> {
  const { name, make, read } = DATA_KINDS[kind]!;
  const folder = mkdtempSync(join(tmpdir(), 'neva-fuzz-data-'));
  const inside = join(folder, 'in');
  mkdirSync(inside);
  const path = join(inside, name);
  let refused = 0;
  try {
    for (let i = 0; i < count; i++) {
      const where = `${kind}, seed ${seed + i}`;
      writeFileSync(path, make(random(seed + i)));
      const begin = performance.now();
      try {
        await read(path);
      } catch (error) {
        if (!isUserError(error)) throw new Error(where, { cause: error });
        refused++;
      }
      assert.ok(performance.now() - begin < 10_000, `${where}: took too long`);
      assert.deepEqual([...readdirSync(inside), ...readdirSync(folder)], [name, 'in'], `${where}: wrote a file`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  // In KiB: the most that was ever held, so that a bomb shows even when it is gone.
  assert.ok(process.resourceUsage().maxRSS < 2 ** 20, `${kind}: ${process.resourceUsage().maxRSS} KiB were held`);
  return refused;
}
