/** Several huge pictures at once: all are read, and memory stays that of one. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import sharp from 'sharp';
import { jpegFrame } from '../../src/data/images.ts';
import { decodeInTurn } from '../../src/data/large-images.ts';

test('huge pictures are decoded one after another', () => {
  // A process of its own, whose peak of memory is read at the end.
  const script = `
    import sharp from 'sharp';
    import { preprocess } from ${JSON.stringify(new URL('../../src/data/images.js', import.meta.url).href)};
    import { decodeInTurn } from ${JSON.stringify(new URL('../../src/data/large-images.js', import.meta.url).href)};
    sharp.concurrency(1);
    sharp.cache(false);
    const make = { create: { width: 8000, height: 8000, channels: 3, background: '#123456' } };
    const bytes = await sharp(make).png({ compressionLevel: 1 }).toBuffer();
    const all = await Promise.all(Array.from({ length: 8 }, () =>
      decodeInTurn(bytes, 'huge.png', undefined, (picture) => preprocess(picture, { imageSize: 28, aspect: 'square' }))));
    console.log(JSON.stringify({ count: new Set(all.map((pixels) => pixels.join())).size, peak: process.resourceUsage().maxRSS }));`;
  const out = execFileSync(process.execPath, ['--input-type=module', '-e', script], { encoding: 'utf8' });
  const { count, peak } = JSON.parse(out) as { count: number; peak: number };
  assert.equal(count, 1);
  // One is 183 MiB of RGB; eight at once would be 1.5 GiB.
  assert.ok(peak < 800 * 1024, `${peak} KiB`);
});

test('a bad huge picture does not keep the next from its turn', async () => {
  const make = { create: { width: 6000, height: 6000, channels: 3 as const, background: 'red' } };
  const bytes = await sharp(make).png({ compressionLevel: 1 }).toBuffer();
  const bad = decodeInTurn(bytes.subarray(0, bytes.length >> 1), 'bad.png', undefined, () => 0);
  const good = decodeInTurn(bytes, 'good.png', undefined, ({ width }) => width);
  await assert.rejects(bad, { kind: 'image_unreadable' });
  assert.equal(await good, 6000);
});

test('the size of a JPEG is known from its frame', async () => {
  for (const progressive of [false, true]) {
    const make = { create: { width: 70, height: 30, channels: 3 as const, background: 'red' } };
    const bytes = await sharp(make)
      .jpeg({ progressive })
      .withExif({ IFD0: { Artist: 'x'.repeat(300) } })
      .toBuffer();
    assert.deepEqual(jpegFrame(bytes), { bits: 8, height: 30, width: 70, components: 3 });
  }
  assert.equal(jpegFrame(Buffer.from('text')), null);
});
