/** The optional decoder: what it takes, it decodes to the bytes that sharp gives; what it builds from. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import fc from 'fast-check';
import sharp, { type JpegOptions } from 'sharp';
import { jpegFrame } from '../../../src/data/images.ts';
import { buildJpeg, jpegPath, loadJpeg } from '../../../src/engine/jpeg.ts';
import { fixture } from '../../support/fixtures.ts';

const buildDir = mkdtempSync(join(tmpdir(), 'neva-jpeg-'));
after(() => rmSync(buildDir, { recursive: true, force: true }));

await buildJpeg(() => {});
const decoder = loadJpeg();
const skip = decoder === null && 'the headers of libjpeg-turbo are not installed';

const pictures = readdirSync(fixture('data/images'))
  .map((name) => readFileSync(fixture(`data/images/${name}`)))
  .filter((bytes) => jpegFrame(bytes)?.components === 3);

/** Null where it is refused. */
async function fast(bytes: Uint8Array): Promise<Buffer | null> {
  const frame = jpegFrame(bytes);
  if (frame?.bits !== 8 || frame.components !== 3 || frame.width * frame.height === 0) return null;
  // What the decoder left as it was must not pass for a picture.
  const pixels = Buffer.alloc(frame.width * frame.height * 3, 0x5a);
  return (await decoder!.decode(bytes, pixels, frame.width, frame.height)) ? pixels : null;
}

const slow = (bytes: Uint8Array) => sharp(bytes, { failOn: 'truncated', ignoreIcc: true }).raw().toBuffer();

/** A photograph's noise at that size, so that rows and columns at the edges of blocks are cut everywhere. */
async function noise(width: number, height: number, options: JpegOptions): Promise<Buffer> {
  const data = Uint8Array.from({ length: width * height * 3 }, (_, i) => (i * 2654435761) >>> 24);
  return sharp(data, { raw: { width, height, channels: 3 } })
    .blur(1)
    .jpeg(options)
    .toBuffer();
}

test('JPEGs of every kind decode to the bytes that sharp gives', { skip }, async () => {
  const made: Promise<Buffer>[] = [];
  for (const chromaSubsampling of ['4:2:0', '4:4:4']) {
    for (const progressive of [false, true]) {
      for (const [width, height] of [
        [1, 1],
        [7, 9],
        [8, 16],
        [33, 17],
        [64, 63],
      ] as const) {
        made.push(noise(width, height, { chromaSubsampling, progressive, quality: 85 }));
      }
    }
  }
  const all = [...pictures, ...(await Promise.all(made))];
  assert.ok(pictures.length >= 4);
  for (const bytes of all) {
    const pixels = await fast(bytes);
    assert.ok(pixels !== null);
    assert.ok(pixels.equals(await slow(bytes)));
  }
});

test('a cut file is refused wherever it was cut', { skip }, async () => {
  for (const bytes of pictures) {
    for (const share of [0.3, 0.6, 0.9, 0.99]) {
      assert.equal(await fast(bytes.subarray(0, Math.floor(bytes.length * share))), null);
    }
    assert.equal(await fast(bytes.subarray(0, -2)), null);
  }
});

test('of damaged files it takes none that sharp refuses, and gives the same bytes', { skip }, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...pictures),
      fc.array(fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.nat(255)), { minLength: 1, maxLength: 4 }),
      async (original, changes) => {
        const bytes = Buffer.from(original);
        for (const [at, value] of changes) bytes[Math.floor(at * (bytes.length - 1))] = value;
        if ((jpegFrame(bytes)?.width ?? 0) > 4096 || (jpegFrame(bytes)?.height ?? 0) > 4096) return;
        const pixels = await fast(bytes);
        if (pixels) assert.ok(pixels.equals(await slow(bytes)));
      },
    ),
    { numRuns: 1000 },
  );
});

test('a size that is not the picture’s is refused, and nothing is written beyond the array', { skip }, async () => {
  const bytes = pictures[0]!;
  const { width, height } = jpegFrame(bytes)!;
  assert.equal(await decoder!.decode(bytes, Buffer.alloc(width * (height - 1) * 3), width, height - 1), false);
  assert.throws(() => decoder!.decode(bytes, Buffer.alloc(10), width, height), /width x height x 3/);
});

test('without headers it stays unbuilt, says why in a file, and is tried again only when asked', async () => {
  const said: string[] = [];
  const say = (line: string) => void said.push(line);
  const without = { CXX: '/bin/false' };
  await buildJpeg(say, { buildDir, env: without });
  const reason = `${jpegPath(buildDir)}.absent`;
  assert.match(readFileSync(reason, 'utf8'), /could not build jpeg/);
  rmSync(reason);
  await buildJpeg(say, { buildDir, env: { CXX: 'no-such-compiler' } });
  assert.match(readFileSync(reason, 'utf8'), /no such compiler/);
  await buildJpeg(say, { buildDir });
  assert.equal(existsSync(jpegPath(buildDir)), false);
  if (decoder !== null) {
    await buildJpeg(say, { buildDir, again: true });
    assert.equal(existsSync(jpegPath(buildDir)), true);
  }
  assert.deepEqual(said, decoder === null ? [] : ['JPEGs are decoded by libjpeg-turbo']);
});
