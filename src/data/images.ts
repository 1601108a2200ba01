/**
 * Pictures: file → RGB bytes as Pillow's `convert('RGB')` gives them → CLIP's preprocessing → [3, S, S] float32.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import sharp, { type Sharp } from 'sharp';
import { loadJpeg } from '../engine/jpeg.ts';
import { mistake } from '../errors.ts';
import { readLimited } from './files.ts';
import { problem } from './problem.ts';
import { type Picture, resampleNormalized } from './resample.ts';

export type Aspect = 'square' | 'pad' | 'keep';

export interface ImageOptions {
  /** S: side of the picture the vision tower takes. */
  imageSize: number;
  /** `square`: centre crop; `pad`: mean-coloured square canvas around the whole picture. */
  aspect: Aspect;
  mean?: readonly number[];
  std?: readonly number[];
  maxBytes?: number;
  maxPixels?: number;
}

export const CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
export const CLIP_STD = [0.26862954, 0.26130258, 0.27577711] as const;
/** Pillow's own limit against decompression bombs, doubled: where it raises an error. */
export const MAX_PIXELS = 178_956_970;
export const MAX_BYTES = 256 * 2 ** 20;

/** Decoded, preprocessed picture [3, S, S]. What is wrong with the file is a problem naming `path`. */
export async function loadImage(path: string, options: ImageOptions): Promise<Float32Array> {
  return preprocess(await decodeFile(path, options), options);
}

export async function decodeFile(
  path: string,
  { maxBytes = MAX_BYTES, maxPixels = MAX_PIXELS }: { maxBytes?: number; maxPixels?: number } = {},
): Promise<Picture> {
  return decode(await readLimited(path, maxBytes), path, maxPixels);
}

/** What libvips can read without running a document renderer. `heif` is AVIF. */
const FORMATS: ReadonlySet<string> = new Set(['jpeg', 'png', 'webp', 'gif', 'tiff', 'heif']);

/**
 * RGB bytes of an encoded picture, whatever its name says. Orientation tags, colour profiles and alpha are left aside,
 * as Pillow's `convert('RGB')` leaves them; CMYK and 16-bit grey become RGB by Pillow's arithmetic.
 */
export async function decode(bytes: Uint8Array, path: string, maxPixels = MAX_PIXELS): Promise<Picture> {
  try {
    const options = { failOn: 'truncated', limitInputPixels: maxPixels, ignoreIcc: true, pages: 1 } as const;
    // The most frequent kind needs no look at the metadata first, which costs a tenth of its decoding.
    const frame = jpegFrame(bytes);
    if (frame?.bits === 8 && frame.components === 3) {
      const fast = await decodeJpeg(bytes, frame, maxPixels);
      if (fast) return fast;
      const { data, width, height, channels } = await raw(sharp(bytes, options));
      return { data: toRgb(data, channels, width * height), width, height };
    }
    const { format, space, channels: stored, width = 0, height = 0 } = await sharp(bytes, options).metadata();
    if (!FORMATS.has(format ?? '')) throw new Error(`${format} is not taken`);
    if (width * height > maxPixels) throw new Error('Input image exceeds pixel limit');
    if (space === 'cmyk')
      return fromCmyk(await raw(sharp(bytes, options).pipelineColourspace('cmyk').toColourspace('cmyk')));
    if (space === 'grey16' && stored === 1) {
      const grey = sharp(bytes, options).pipelineColourspace('grey16').toColourspace('grey16');
      return fromGrey16(await raw(grey, 'ushort'));
    }
    const { data, channels, ...size } = await raw(
      space === 'srgb' ? sharp(bytes, options) : sharp(bytes, options).toColourspace('srgb'),
    );
    return { data: toRgb(data, channels, size.width * size.height), ...size };
  } catch (error) {
    throw unreadable(error as Error, bytes, path, maxPixels);
  }
}

/**
 * Through libjpeg-turbo, where that is there and takes the file; null otherwise, and what is wrong with it is for sharp to say.
 */
async function decodeJpeg(
  bytes: Uint8Array,
  { width, height }: { width: number; height: number },
  maxPixels: number,
): Promise<Picture | null> {
  const decoder = loadJpeg();
  if (!decoder || width === 0 || height === 0 || width * height > maxPixels) return null;
  const data = Buffer.allocUnsafeSlow(width * height * 3);
  return (await decoder.decode(bytes, data, width, height)) ? { data, width, height } : null;
}

/** Frame header of a JPEG, or null where the bytes are none: its size is known without decoding. */
export function jpegFrame(bytes: Uint8Array) {
  if (bytes[0] !== 0xff || bytes[1] !== 0xd8) return null;
  const word = (at: number) => (bytes[at]! << 8) | bytes[at + 1]!;
  let at = 2;
  while (at + 9 < bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1]!;
    // SOF0 to SOF15, but for the markers among them that are no frames: DHT, JPG and DAC.
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      return { bits: bytes[at + 4]!, height: word(at + 5), width: word(at + 7), components: bytes[at + 9]! };
    }
    at += 2 + word(at + 2);
  }
  return null;
}

interface Raw extends Picture {
  channels: number;
}

async function raw(image: Sharp, depth: 'uchar' | 'ushort' = 'uchar'): Promise<Raw> {
  const { data, info } = await image.raw({ depth }).toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height, channels: info.channels };
}

function unreadable({ message }: Error, bytes: Uint8Array, path: string, maxPixels: number): Error {
  if (/pixel limit/i.test(message)) {
    return problem('image_too_large', {
      where: path,
      problem: 'image has too many pixels',
      expected: `at most ${maxPixels} pixels`,
    });
  }
  if (isBmp(bytes)) {
    return problem('image_unreadable', {
      where: path,
      problem: 'a BMP image, which is not read',
      expected: 'JPEG, PNG, WebP, GIF, TIFF or AVIF',
      fix: 'convert it to PNG, or set model.data.on_error=skip',
    });
  }
  return problem('image_unreadable', {
    where: path,
    problem: `not a readable image: ${message.split('\n')[0]}`,
    expected: 'JPEG, PNG, WebP, GIF, TIFF or AVIF',
    found:
      bytes.length === 0
        ? 'an empty file'
        : `${bytes.length} bytes that begin ${Buffer.from(bytes.subarray(0, 8)).toString('hex')}`,
    fix: 'replace the file, or set model.data.on_error=skip',
  });
}

const isBmp = (bytes: Uint8Array): boolean => bytes[0] === 0x42 && bytes[1] === 0x4d; // "BM"

/** Keeps the first three channels, or repeats the first of one or two. */
function toRgb(data: Uint8Array, channels: number, pixels: number): Uint8Array {
  if (channels === 3) return data;
  const out = new Uint8Array(pixels * 3);
  const [green, blue] = channels > 3 ? [1, 2] : [0, 0];
  for (let i = 0, from = 0, to = 0; i < pixels; i++, from += channels, to += 3) {
    out[to] = data[from] as number;
    out[to + 1] = data[from + green] as number;
    out[to + 2] = data[from + blue] as number;
  }
  return out;
}

/** Ink on paper without a profile: (255 − k) − c·(255 − k)/255. */
function fromCmyk({ data, width, height, channels }: Raw): Picture {
  const out = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < out.length; from += channels, to += 3) {
    const white = 255 - (data[from + 3] as number);
    for (let c = 0; c < 3; c++) {
      const product = (data[from + c] as number) * white + 128;
      out[to + c] = white - (((product >> 8) + product) >> 8);
    }
  }
  return { data: out, width, height };
}

/** Pillow cuts 16-bit grey off at 255 where it takes the high byte of 16-bit colour. */
function fromGrey16({ data, width, height }: Raw): Picture {
  const wide = new Uint16Array(data.buffer, data.byteOffset, width * height);
  return {
    data: toRgb(
      Uint8Array.from(wide, (value) => Math.min(value, 255)),
      1,
      width * height,
    ),
    width,
    height,
  };
}

/** CLIPImageProcessor: shortest edge to S, centre crop S × S, ×1/255, normalise → [3, S, S]. */
export function preprocess(
  picture: Picture,
  { imageSize: size, aspect, mean = CLIP_MEAN, std = CLIP_STD }: ImageOptions,
): Float32Array {
  const source = aspect === 'pad' ? padToSquare(picture, mean) : picture;
  const short = Math.min(source.width, source.height);
  const width = source.width === short ? size : Math.trunc((size * source.width) / short);
  const height = source.height === short ? size : Math.trunc((size * source.height) / short);
  const crop = {
    left: Math.floor((width - size) / 2),
    top: Math.floor((height - size) / 2),
    width: size,
    height: size,
  };
  return resampleNormalized(source, width, height, crop, { mean, std });
}

/** Centred on a square of the mean colour, (122, 116, 104) for CLIP: LLaVA's `expand2square`. */
function padToSquare({ data, width, height }: Picture, mean: readonly number[]): Picture {
  if (width === height) return { data, width, height };
  const side = Math.max(width, height);
  const colour = mean.map((value) => Math.trunc(value * 255));
  const out = new Uint8Array(side * side * 3);
  out.set(colour);
  // Doubling copies: the canvas is filled in log₂(pixels) steps.
  for (let filled = 3; filled < out.length; filled *= 2) out.copyWithin(filled, 0, filled);
  const left = Math.floor((side - width) / 2);
  const top = Math.floor((side - height) / 2);
  for (let y = 0; y < height; y++) {
    out.set(data.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * side + left) * 3);
  }
  return { data: out, width: side, height: side };
}

/** Mean and standard deviation from a vision tower's preprocessor_config.json, if it has one. */
export function imageStatistics(folder: string): { mean: number[]; std: number[] } | null {
  const path = join(folder, 'preprocessor_config.json');
  if (!existsSync(path)) return null;
  const three = (value: unknown): value is number[] =>
    Array.isArray(value) && value.length === 3 && value.every((each) => typeof each === 'number');
  try {
    const config = JSON.parse(readFileSync(path, 'utf8')) as { image_mean?: unknown; image_std?: unknown };
    return {
      mean: three(config.image_mean) ? config.image_mean : [...CLIP_MEAN],
      std: three(config.image_std) ? config.image_std : [...CLIP_STD],
    };
  } catch (error) {
    throw mistake({ where: path, problem: `not readable as JSON: ${(error as Error).message}` });
  }
}
