/** Pictures against Pillow and CLIPImageProcessor (test/tools/data_images.py). */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { CLIP_MEAN, CLIP_STD, decode, decodeFile, loadImage, preprocess } from '../../src/data/images.ts';
import { generator } from '../../src/data/permutation.ts';
import { resampleJob } from '../../src/data/resample.ts';
import { normalizeScalar, resampleScalar } from '../../src/data/resample-scalar.ts';
import { resampleVector } from '../../src/data/resample-vector.ts';
import { packageRoot } from '../../src/root.ts';

const fixtures = join(packageRoot, 'test', 'fixtures', 'data');
const folder = mkdtempSync(join(tmpdir(), 'neva-images-'));
after(() => rmSync(folder, { recursive: true }));

interface Row {
  file: string;
  width: number;
  height: number;
  sha256: string;
  square: string;
  pad: string;
  squareSample: number[];
  padSample: number[];
}
const { size, rows } = JSON.parse(readFileSync(join(fixtures, 'images.json'), 'utf8')) as { size: number; rows: Row[] };
/** Where the samples of the reference were taken, in [3, S, S] flattened. */
const SAMPLED = [0, 500, 1500, 2351];

for (const row of rows) {
  test(`${row.file} decodes and preprocesses as in Pillow and CLIPImageProcessor`, async () => {
    const picture = await decodeFile(join(fixtures, 'images', row.file));
    assert.deepEqual([picture.width, picture.height], [row.width, row.height]);
    assert.equal(createHash('sha256').update(picture.data).digest('hex'), row.sha256);
    for (const aspect of ['square', 'pad'] as const) {
      const pixels = preprocess(picture, { imageSize: size, aspect });
      const grey = Uint8Array.from(pixels, (value, i) => {
        const channel = Math.floor(i / (size * size));
        return Math.round((value * (CLIP_STD[channel] as number) + (CLIP_MEAN[channel] as number)) * 255);
      });
      assert.ok(Buffer.from(grey).equals(Buffer.from(row[aspect], 'base64')), aspect);
      SAMPLED.forEach((at, i) => {
        assert.ok(
          Math.abs((pixels[at] as number) - (row[`${aspect}Sample`][i] as number)) < 1e-6,
          `${aspect} at ${at}`,
        );
      });
    }
  });
}

const options = { imageSize: size, aspect: 'square' } as const;
const png = readFileSync(join(fixtures, 'images', 'rgb.png'));
const jpeg = readFileSync(join(fixtures, 'images', 'photo.jpg'));

const broken: [name: string, bytes: Uint8Array][] = [
  ['empty.png', new Uint8Array(0)],
  ['text.jpg', Buffer.from('<html>404 not found</html>')],
  ['cut.png', png.subarray(0, png.length >> 1)],
  ['cut.jpg', jpeg.subarray(0, jpeg.length >> 1)],
  ['vector.svg', Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')],
  ['noise.png', Uint8Array.from({ length: 500 }, (_, i) => (i * 7919) % 256)],
  ['header.png', png.subarray(0, 33)],
];
for (const [name, bytes] of broken) {
  test(`${name} is an unreadable image, named in the message`, async () => {
    const path = join(folder, name);
    writeFileSync(path, bytes);
    await assert.rejects(loadImage(path, options), (error: Error & { kind?: string; userError?: boolean }) => {
      assert.equal(error.kind, 'image_unreadable', error.message);
      assert.ok(error.userError && error.message.includes(path));
      return true;
    });
  });
}

test('a missing file and a folder are told apart', async () => {
  await assert.rejects(loadImage(join(folder, 'none.png'), options), { kind: 'image_missing', userError: true });
  await assert.rejects(loadImage(folder, options), { kind: 'image_unreadable', message: /not a file/ });
});

test('bytes and pixels are limited', async () => {
  const path = join(fixtures, 'images', 'odd.png');
  await assert.rejects(loadImage(path, { ...options, maxBytes: 100 }), {
    kind: 'image_too_large',
    message: /at most 100 bytes/,
  });
  await assert.rejects(loadImage(path, { ...options, maxPixels: 1000 }), {
    kind: 'image_too_large',
    message: /at most 1000 pixels/,
  });
  // A picture that claims 60000 × 60000 pixels in a few bytes.
  const bomb = Buffer.from(png);
  bomb.writeUInt32BE(60000, 16);
  bomb.writeUInt32BE(60000, 20);
  await assert.rejects(
    decode(bomb, 'bomb.png'),
    (error: Error & { kind?: string }) => error.kind?.startsWith('image_') === true,
  );
});

test('vectors and plain JavaScript resample to the same bytes', () => {
  fc.assert(
    fc.property(
      fc.record({ width: fc.integer({ min: 1, max: 70 }), height: fc.integer({ min: 1, max: 70 }) }),
      fc.record({ width: fc.integer({ min: 1, max: 60 }), height: fc.integer({ min: 1, max: 60 }) }),
      fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true }), fc.nat()),
      ({ width, height }, to, [x, y, seed]) => {
        const left = Math.floor(x * (to.width - 1));
        const top = Math.floor(y * (to.height - 1));
        const random = generator(seed);
        const data = Uint8Array.from({ length: width * height * 3 }, () => Math.floor(random() * 256));
        const crop = { left, top, width: to.width - left, height: to.height - top };
        const job = resampleJob({ data, width, height }, to.width, to.height, crop);
        const affine = { mul: [0.01, 0.02, 0.03].map(Math.fround), add: [-1, 0.5, 2] };
        assert.deepEqual(resampleVector(job, affine), normalizeScalar(resampleScalar(job), affine));
      },
    ),
    { numRuns: 300 },
  );
});

test('damaged pictures are decoded or refused by kind, never anything else', async () => {
  const files = ['rgb.png', 'photo.jpg', 'still.gif', 'lossy.webp', 'cmyk.tif', 'grey16.png'].map((name) =>
    readFileSync(join(fixtures, 'images', name)),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...files),
      fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(255)), { minLength: 1, maxLength: 6 }),
      async (original, changes) => {
        const bytes = Buffer.from(original);
        for (const [at, value] of changes) bytes[Math.floor(at * (bytes.length - 1))] = value;
        try {
          const { data, width, height } = await decode(bytes, 'damaged', 1 << 22);
          assert.equal(data.length, width * height * 3);
        } catch (error) {
          assert.match(String((error as { kind?: string }).kind), /^image_(unreadable|too_large)$/, String(error));
        }
      },
    ),
    { numRuns: 300 },
  );
});
