/**
 * Pictures are decoded several at a time; huge ones one after another, each until it has been made small, so that a batch of
 * them (or of decompression bombs just below the limit) takes the memory of one.
 */
import sharp from 'sharp';
import { decode, jpegFrame, MAX_PIXELS } from './images.ts';
import type { Picture } from './resample.ts';

/** 100 MB of RGB: a photograph of 33 megapixels. */
const LARGE = 2 ** 25;

let turn: Promise<unknown> = Promise.resolve();

export async function decodeInTurn<T>(
  bytes: Uint8Array,
  path: string,
  maxPixels = MAX_PIXELS,
  use: (picture: Picture) => T,
): Promise<T> {
  const work = async () => use(await decode(bytes, path, maxPixels));
  if (!(await isLarge(bytes))) return await work();
  const mine = turn.then(work, work);
  turn = mine.catch(() => {});
  return await mine;
}

async function isLarge(bytes: Uint8Array): Promise<boolean> {
  const frame = jpegFrame(bytes) ?? pngHeader(bytes);
  if (frame) return frame.width * frame.height > LARGE;
  try {
    const { width = 0, height = 0 } = await sharp(bytes, { limitInputPixels: false }).metadata();
    return width * height > LARGE;
  } catch {
    // What is wrong with it is told by decoding it.
    return false;
  }
}

/** Of a PNG, whose header chunk always comes first. */
function pngHeader(bytes: Uint8Array) {
  if (bytes.length < 24 || bytes[0] !== 0x89 || bytes[1] !== 0x50) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return { width: view.getUint32(16), height: view.getUint32(20) };
}
