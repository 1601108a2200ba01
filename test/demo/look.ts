/** Reads a demo picture back from its pixels alone, and answers questions from what it sees: shares nothing with the generator. */
import assert from 'node:assert/strict';
import sharp from 'sharp';

export interface Seen {
  color: string;
  shape: string;
  vertical: 'top' | 'bottom';
  horizontal: 'left' | 'right';
}

const CELL = 16;
const HUES: [string, number, number, number][] = [
  ['red', 214, 32, 40],
  ['green', 32, 160, 60],
  ['blue', 36, 84, 220],
  ['yellow', 244, 214, 24],
  ['purple', 150, 50, 190],
  ['orange', 246, 132, 16],
];

/** What stands in the 2×2 cells of a picture, row by row. */
export async function look(file: string): Promise<Seen[]> {
  const { data, info } = await sharp(file).raw().toBuffer({ resolveWithObject: true });
  if (info.width !== 32 || info.height !== 32 || info.channels !== 3) throw new Error(`${file}: not 32×32 RGB`);
  const rgb = (x: number, y: number) => [...data.subarray((y * 32 + x) * 3, (y * 32 + x) * 3 + 3)];
  const ground = rgb(0, 0);
  const seen: Seen[] = [];
  for (let row = 0; row < 2; row++) {
    for (let column = 0; column < 2; column++) {
      const cell = [...Array(CELL).keys()].map((y) =>
        [...Array(CELL).keys()].map((x) => rgb(column * CELL + x, row * CELL + y)),
      );
      const color = mainColor(cell.flat().filter((pixel) => distance(pixel, ground) > 0));
      if (color === undefined) continue;
      const [name, ...full] =
        HUES.find(([, ...value]) => distance(value, color) === 0) ?? assert.fail(`${file}: ${color}`);
      const coverage = cell.map((line) => line.map((pixel) => distance(pixel, ground) / distance(full, ground)));
      const [vertical, horizontal] = [row < 1 ? 'top' : 'bottom', column < 1 ? 'left' : 'right'] as const;
      seen.push({ color: name, shape: shapeOf(coverage), vertical, horizontal });
    }
  }
  return seen;
}

function distance(a: number[], b: number[]): number {
  return Math.hypot(...a.map((value, i) => value - b[i]!));
}

/** The most frequent one. */
function mainColor(pixels: number[][]): number[] | undefined {
  const counts = new Map<string, number>();
  for (const pixel of pixels) counts.set(pixel.join(), (counts.get(pixel.join()) ?? 0) + 1);
  const [first] = [...counts].sort((a, b) => b[1] - a[1]);
  return first?.[0].split(',').map(Number);
}

/**
 * Tells the six shapes apart by their moments, which do not depend on size and place. For area A and distances x, y from
 * the centroid, Σ(x²+y²)/A² is 0.30 for the ring, 0.20 for the cross and at most 0.17 for circle, square and diamond;
 * Σ|xy|/A² is 0.042 for the diamond, 0.051 for the circle and 0.0625 for the square. The triangle alone is bottom-heavy.
 * @param coverage [CELL, CELL] from 0 to 1
 */
function shapeOf(coverage: number[][]): string {
  const sum = (of: (x: number, y: number) => number) =>
    coverage.reduce((total, line, y) => line.reduce((part, share, x) => part + share * of(x, y), total), 0);
  const area = sum(() => 1);
  const [centreX, centreY] = [sum((x) => x) / area, sum((_, y) => y) / area];
  const skew = sum((_, y) => (y - centreY) ** 3) / area ** 2.5;
  const spread = sum((x, y) => (x - centreX) ** 2 + (y - centreY) ** 2) / area ** 2;
  const diagonal = sum((x, y) => Math.abs((x - centreX) * (y - centreY))) / area ** 2;
  if (skew < -0.01) return 'triangle';
  if (spread > 0.25) return 'ring';
  if (spread > 0.185) return 'cross';
  return diagonal < 0.046 ? 'diamond' : diagonal < 0.0565 ? 'circle' : 'square';
}

const NUMBERS = ['zero', 'one', 'two', 'three', 'four'];

function singular(word: string): string {
  return word.startsWith('cross') ? 'cross' : word.replace(/s$/, '');
}

/** Throws where the question has no single answer. */
export function answer(question: string, seen: Seen[]): string {
  const words = question.replace(/[?.]/g, '').split(' ');
  const wanted = (list: string[]) =>
    seen.filter((s) =>
      list.every((word) => [s.color, s.shape, s.vertical, s.horizontal, 'object'].includes(singular(word))),
    );
  const rest = (skip: number) =>
    words.slice(skip).filter((w) => !['is', 'are', 'the', 'at', 'there', 'a', 'an'].includes(w));
  if (question.startsWith('How many')) return NUMBERS[wanted(rest(2)).length]!;
  if (question.startsWith('Is there')) return wanted(rest(2)).length > 0 ? 'yes' : 'no';
  const found = wanted(rest(question.startsWith('What is') ? 1 : 2));
  if (found.length !== 1) throw new Error(`${question}: ${found.length} found`);
  const { color, shape } = found[0]!;
  if (question.startsWith('What color')) return color;
  if (question.startsWith('What shape')) return shape;
  if (question.startsWith('What is')) return `${color === 'orange' ? 'an' : 'a'} ${color} ${shape}`;
  throw new Error(`not a question of ours: ${question}`);
}

function commonPlace(things: Seen[]): string {
  const same = (values: string[]) => (new Set(values).size === 1 ? [values[0]!] : []);
  return [...same(things.map((t) => t.vertical)), ...same(things.map((t) => t.horizontal))].join(' ');
}

/** Whether a caption names each thing once, in its place, and nothing else. */
export function describes(caption: string, seen: Seen[]): boolean {
  const left = new Set(seen);
  for (const part of caption.split(/, | and /)) {
    const match = /^(a|an|two) (\w+) (\w+) at the ([\w ]+)$/.exec(part);
    if (match === null) return false;
    const [, count, color, shape, place] = match;
    const found = seen.filter((s) => s.color === color && s.shape === singular(shape!));
    if (found.length !== (count === 'two' ? 2 : 1) || commonPlace(found) !== place) return false;
    if ((count === 'an') !== (color === 'orange') && count !== 'two') return false;
    for (const thing of found) if (!left.delete(thing)) return false;
  }
  return left.size === 0;
}
