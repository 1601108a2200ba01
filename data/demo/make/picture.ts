/** A scene as pixels, and as a PNG file. */
import sharp from 'sharp';
import { BACKGROUNDS, CELL, RGB, type Rgb, type Scene, type Shape, SIDE } from './world.ts';

/** Whether a point is inside, in units of the radius from the shape's centre, y downwards. */
const inside: Record<Shape, (x: number, y: number) => boolean> = {
  circle: (x, y) => x * x + y * y <= 1,
  square: (x, y) => Math.max(Math.abs(x), Math.abs(y)) <= 0.84,
  triangle: (x, y) => y <= 0.85 && Math.abs(x) <= (y + 0.95) * 0.55,
  cross: (x, y) => {
    const [near, far] = [Math.min(Math.abs(x), Math.abs(y)), Math.max(Math.abs(x), Math.abs(y))];
    return near <= 0.3 && far <= 1;
  },
  diamond: (x, y) => Math.abs(x) + Math.abs(y) <= 1,
  ring: (x, y) => x * x + y * y <= 1 && x * x + y * y >= 0.3,
};

/** Sample points a pixel's side, and the steps that coverage is rounded to: few colours make small files. */
const SAMPLES = 4;
const STEPS = 4;

/** [SIDE, SIDE, 3] bytes, red first. */
export function rasterize(scene: Scene): Uint8Array {
  const ground = BACKGROUNDS[scene.background]!;
  const pixels = new Uint8Array(SIDE * SIDE * 3);
  for (let i = 0; i < pixels.length; i++) pixels[i] = ground[i % 3]!;
  for (const thing of scene.things) {
    const [left, top] = [thing.column * CELL, thing.row * CELL];
    const [centreX, centreY] = [left + CELL / 2 + thing.dx, top + CELL / 2 + thing.dy];
    for (let y = top; y < top + CELL; y++) {
      for (let x = left; x < left + CELL; x++) {
        const share = coverage(thing.shape, x - centreX, y - centreY, thing.radius);
        blend(pixels, (y * SIDE + x) * 3, ground, RGB[thing.color], share);
      }
    }
  }
  return pixels;
}

/** Covered share of the pixel whose top left corner is (x, y) pixels from the shape's centre. */
function coverage(shape: Shape, x: number, y: number, radius: number): number {
  let hits = 0;
  for (let i = 0; i < SAMPLES; i++) {
    for (let j = 0; j < SAMPLES; j++) {
      if (inside[shape]((x + (j + 0.5) / SAMPLES) / radius, (y + (i + 0.5) / SAMPLES) / radius)) hits++;
    }
  }
  return Math.round((hits * STEPS) / SAMPLES ** 2) / STEPS;
}

function blend(pixels: Uint8Array, at: number, under: Rgb, over: Rgb, share: number): void {
  for (let c = 0; c < 3; c++) pixels[at + c] = Math.round(under[c]! + (over[c]! - under[c]!) * share);
}

export async function png(scene: Scene): Promise<Buffer> {
  const raw = { width: SIDE, height: SIDE, channels: 3 as const };
  return sharp(rasterize(scene), { raw }).png({ compressionLevel: 9, adaptiveFiltering: false }).toBuffer();
}
