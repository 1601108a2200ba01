/**
 * The demo's world: 1 to 4 coloured shapes on a plain ground, at most one in each quadrant of the picture.
 * A quadrant is 2×2 cells, and a shape stands inside one cell of a 4×4 grid, so that a tower with
 * 16-pixel patches sees each shape in exactly one patch.
 */
import { hash, type Random } from './random.ts';

/** Cells a side, pixels a cell, pixels a picture's side. */
export const GRID = 2;
export const CELL = 16;
export const SIDE = GRID * CELL;

export const SHAPES = ['circle', 'square', 'triangle', 'cross', 'diamond', 'ring'] as const;
export const COLORS = ['red', 'green', 'blue', 'yellow', 'purple', 'orange'] as const;
/** In reading order, which is also the order of captions. */
export const QUADRANTS = ['top left', 'top right', 'bottom left', 'bottom right'] as const;

export type Shape = (typeof SHAPES)[number];
export type Color = (typeof COLORS)[number];
export type Quadrant = (typeof QUADRANTS)[number];
/** Where a thing or a pair of alike things stands. */
export type Place = Quadrant | 'top' | 'bottom' | 'left' | 'right';

export type Rgb = readonly [number, number, number];
export const RGB: Record<Color, Rgb> = {
  red: [214, 32, 40],
  green: [32, 160, 60],
  blue: [36, 84, 220],
  yellow: [244, 214, 24],
  purple: [150, 50, 190],
  orange: [246, 132, 16],
};
export const BACKGROUNDS: readonly Rgb[] = [
  [252, 252, 252],
  [238, 238, 238],
  [222, 222, 222],
];

export interface Thing {
  shape: Shape;
  color: Color;
  /** Cell, from 0 at the top and at the left. */
  row: number;
  column: number;
  /** Pixels: half the extent, and the centre's distance from the cell's centre. */
  radius: number;
  dx: number;
  dy: number;
}

export interface Scene {
  /** Index into BACKGROUNDS. */
  background: number;
  /** In reading order of their quadrants. */
  things: Thing[];
}

/** Things of one colour and shape. */
export interface Group {
  color: Color;
  shape: Shape;
  count: number;
  place: Place;
}

export function quadrantOf({ row, column }: Thing): Quadrant {
  return QUADRANTS[(row < GRID / 2 ? 0 : 2) + (column < GRID / 2 ? 0 : 1)]!;
}

/** Groups of alike things in reading order of their first member; `undefined` where a group has no place with one name. */
export function groupsOf(scene: Scene): Group[] | undefined {
  const members = new Map<string, Thing[]>();
  for (const thing of scene.things) {
    const key = `${thing.color} ${thing.shape}`;
    members.set(key, [...(members.get(key) ?? []), thing]);
  }
  const groups: Group[] = [];
  for (const things of members.values()) {
    const place = commonPlace(things.map(quadrantOf));
    if (place === undefined) return undefined;
    groups.push({ color: things[0]!.color, shape: things[0]!.shape, count: things.length, place });
  }
  return groups;
}

/** The words that all the quadrants share: {top left, top right} is `top`; a diagonal shares none. */
function commonPlace(quadrants: Quadrant[]): Place | undefined {
  const words = quadrants[0]!.split(' ').filter((word) => quadrants.every((q) => q.split(' ').includes(word)));
  return words.length === 0 ? undefined : (words.join(' ') as Place);
}

/** Draws until every group has a place with a name, which leaves out diagonal pairs and three alike. */
export function drawScene(random: Random): Scene {
  for (;;) {
    const scene = anyScene(random);
    if (groupsOf(scene) !== undefined) return scene;
  }
}

function anyScene(random: Random): Scene {
  const count = random.pick([1, 2, 2, 3, 3, 4, 4]);
  const quadrants = random.shuffled([0, 1, 2, 3]).slice(0, count).sort();
  // From few shapes or few colours, half of the time: otherwise counts above one would be rare.
  const shapes = random.chance(0.5) ? random.shuffled(SHAPES).slice(0, 1 + random.below(2)) : SHAPES;
  const colors = random.chance(0.5) ? random.shuffled(COLORS).slice(0, 1 + random.below(2)) : COLORS;
  const things = quadrants.map((quadrant): Thing => {
    const radius = 6.25 + random.below(4) / 4;
    // A quarter pixel of ground stays around the shape, inside its cell; half a pixel of jitter where there is room.
    const room = Math.min(2, Math.floor((CELL / 2 - 0.25 - radius) * 4));
    return {
      shape: random.pick(shapes),
      color: random.pick(colors),
      row: quadrant >> 1,
      column: quadrant & 1,
      radius,
      dx: (random.below(2 * room + 1) - room) / 4,
      dy: (random.below(2 * room + 1) - room) / 4,
    };
  });
  return { background: random.below(BACKGROUNDS.length), things };
}

/** What makes two scenes the same to a reader: shapes, colours and cells, without ground, size and jitter. */
export function signature(scene: Scene): string {
  return scene.things.map((t) => `${t.color} ${t.shape} ${t.row}${t.column}`).join(', ');
}

/**
 * One scene in eight is never trained on, whatever the seed: the split is a property of the scene, so the weights
 * that come with the demo cannot have seen a held-out scene either.
 */
export function isHeldOut(scene: Scene): boolean {
  return hash(signature(scene)) % 8 === 0;
}
