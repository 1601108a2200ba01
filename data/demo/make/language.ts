/** A scene in words: its caption, its description for a reader without eyes, and every question that has one answer. */
import type { Random } from './random.ts';
import { COLORS, type Color, groupsOf, quadrantOf, type Scene, SHAPES, type Shape, type Thing } from './world.ts';

export const CATEGORIES = ['count', 'color', 'position', 'existence', 'shape'] as const;
export type Category = (typeof CATEGORIES)[number];

export interface Question {
  category: Category;
  /** The pattern it is made from; answers are balanced within a kind. */
  kind: string;
  prompt: string;
  answer: string;
}

export const CAPTION_PROMPTS = ['Describe the picture.', 'What is in the picture?'] as const;

const NUMBERS = ['zero', 'one', 'two', 'three', 'four'];

function plural(shape: Shape): string {
  return shape === 'cross' ? 'crosses' : `${shape}s`;
}

function article(noun: string): string {
  return noun.startsWith('o') ? `an ${noun}` : `a ${noun}`;
}

/** `a red circle at the top left, a green ring at the top right and two blue squares at the bottom` */
export function caption(scene: Scene): string {
  const parts = groupsOf(scene)!.map(({ color, shape, count, place }) => {
    const what = count === 1 ? article(`${color} ${shape}`) : `${NUMBERS[count]} ${color} ${plural(shape)}`;
    return `${what} at the ${place}`;
  });
  const last = parts.pop()!;
  return parts.length === 0 ? last : `${parts.join(', ')} and ${last}`;
}

/** `Scene: red circle row 1 column 1; blue square row 4 column 2.` in random order. */
export function description(scene: Scene, random: Random): string {
  const parts = random
    .shuffled(scene.things)
    .map((t) => `${t.color} ${t.shape} row ${t.row + 1} column ${t.column + 1}`);
  return `Scene: ${parts.join('; ')}.`;
}

export function questions(scene: Scene): Question[] {
  return [...counts(scene), ...colors(scene), ...positions(scene), ...existence(scene), ...shapes(scene)];
}

function counting(scene: Scene, wanted: (thing: Thing) => boolean): number {
  return scene.things.filter(wanted).length;
}

function counts(scene: Scene): Question[] {
  const ask = (kind: string, things: string, wanted: (thing: Thing) => boolean): Question => ({
    category: 'count',
    kind,
    prompt: `How many ${things} are there?`,
    answer: NUMBERS[counting(scene, wanted)]!,
  });
  return [
    ask('count of all', 'objects', () => true),
    ...SHAPES.map((shape) => ask('count of a shape', plural(shape), (t) => t.shape === shape)),
    ...COLORS.map((color) => ask('count of a color', `${color} objects`, (t) => t.color === color)),
  ];
}

/** One question for every thing, by its place: no place holds two. */
function atPlaces(scene: Scene, category: Category, subject: string, answer: (thing: Thing) => string): Question[] {
  return scene.things.map((thing) => ({
    category,
    kind: `${category} at a place`,
    prompt: `What ${subject}is at the ${quadrantOf(thing)}?`,
    answer: answer(thing),
  }));
}

const colors = (scene: Scene) => atPlaces(scene, 'color', 'color ', ({ color }) => color);
const shapes = (scene: Scene) => atPlaces(scene, 'shape', 'shape ', ({ shape }) => shape);
const positions = (scene: Scene) => atPlaces(scene, 'position', '', ({ color, shape }) => article(`${color} ${shape}`));

function existence(scene: Scene): Question[] {
  const ask = (kind: string, noun: string, wanted: (thing: Thing) => boolean): Question => ({
    category: 'existence',
    kind,
    prompt: `Is there ${article(noun)}?`,
    answer: scene.things.some(wanted) ? 'yes' : 'no',
  });
  const both = (color: Color, shape: Shape) =>
    ask('existence of both', `${color} ${shape}`, (t) => t.color === color && t.shape === shape);
  return [
    ...COLORS.flatMap((color) => SHAPES.map((shape) => both(color, shape))),
    ...SHAPES.map((shape) => ask('existence of a shape', shape, (t) => t.shape === shape)),
    ...COLORS.map((color) => ask('existence of a color', `${color} object`, (t) => t.color === color)),
  ];
}

/** Chooses questions so that, within a kind, every answer comes up equally often as far as the scenes allow. */
export class Balance {
  readonly #used = new Map<string, number>();

  /** @param candidates of one category, not empty */
  choose(candidates: Question[], random: Random): Question {
    const kind = random.pick([...new Set(candidates.map((q) => q.kind))]);
    const ofKind = candidates.filter((q) => q.kind === kind);
    const uses = ofKind.map((q) => this.#used.get(key(q)) ?? 0);
    const least = Math.min(...uses);
    const chosen = random.pick(ofKind.filter((_, i) => uses[i] === least));
    this.#used.set(key(chosen), least + 1);
    return chosen;
  }
}

function key(question: Question): string {
  return `${question.kind}: ${question.answer}`;
}
