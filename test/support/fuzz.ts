/** Files of weights with damage at random: reading one gives tensors or a user error, soon, and never anything else. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { readTensor } from '../../src/checkpoint/pieces.ts';
import { fileEntries, wholeFile } from '../../src/checkpoint/raw.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { readMember, readZip } from '../../src/checkpoint/zip.ts';
import { isUserError } from '../../src/errors.ts';
import { damage, random } from './damage.ts';
import { fixture } from './fixtures.ts';
import { type Member, zipOf } from './torch_file.ts';

/** The same torch file with a damaged pickle whose checksum is right, or its zip is all that would be tried. */
function withDamagedPickle(file: string): (next: () => number) => Buffer {
  const members = [...readZip(wholeFile(file), file)].map(
    ([name, member]): Member => ({ name, data: readMember(member, file, 1 << 20) }),
  );
  return (next) =>
    zipOf(members.map((m) => (m.name.endsWith('data.pkl') ? { ...m, data: damage(Buffer.from(m.data), next) } : m)));
}

const plain = (name: string) => {
  const bytes = readFileSync(fixture(name));
  return (next: () => number) => damage(bytes, next);
};
/** Damage where headers are: a whole archive is mostly weights. */
const atFront = (name: string, size: number) => {
  const bytes = readFileSync(fixture(name));
  return (next: () => number) => Buffer.concat([damage(bytes.subarray(0, size), next), bytes.subarray(size)]);
};
const compressed = (name: string) => {
  const bytes = gunzipSync(readFileSync(fixture(name)));
  return (next: () => number) =>
    gzipSync(Buffer.concat([damage(bytes.subarray(0, 2500), next), bytes.subarray(2500)]), { level: 1 });
};

export const FUZZED: Record<string, (next: () => number) => Buffer> = {
  zip: plain('torch/state.pt'),
  'compressed zip': plain('torch/deflated.pt'),
  pickle: withDamagedPickle(fixture('torch/state.pt')),
  'pickle of protocol 5': withDamagedPickle(fixture('torch/state_protocol5.pt')),
  'Lightning pickle': withDamagedPickle(fixture('torch/lightning.ckpt')),
  safetensors: atFront('torch/expected.safetensors', 1100),
  'nemo tar': atFront('foreign/clip.nemo', 3000),
  'nemo tar.gz': compressed('foreign/llm_mcore_gz.nemo'),
};

/** Tries `count` cases of a kind; `seed` + i is the seed of the i-th. Returns how many were read in spite of their damage. */
export function fuzz(kind: string, count: number, seed: number): number {
  const folder = mkdtempSync(join(tmpdir(), 'neva-fuzz-'));
  const file = join(folder, 'file');
  let read = 0;
  try {
    for (let i = 0; i < count; i++) {
      writeFileSync(file, FUZZED[kind]!(random(seed + i)));
      const begin = performance.now();
      for (const open of [() => openWeights(file).entries, () => fileEntries(file)]) {
        try {
          for (const entry of open().values()) readTensor(entry);
          read++;
        } catch (error) {
          if (!isUserError(error)) throw new Error(`${kind}, seed ${seed + i}`, { cause: error });
        }
      }
      assert.ok(performance.now() - begin < 10_000, `${kind}, seed ${seed + i}: took too long`);
      assert.deepEqual(readdirSync(folder), ['file'], `${kind}, seed ${seed + i}: wrote a file`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  assert.ok(process.memoryUsage.rss() < 2 ** 30, `${kind}: ${process.memoryUsage.rss()} bytes are held`);
  return read;
}
