/** Scenes with what is said about them, and their LLaVA records: with a picture, or with words in a picture's place. */
import { Balance, CAPTION_PROMPTS, CATEGORIES, type Category, caption, description, questions } from './language.ts';
import { Random } from './random.ts';
import { drawScene, isHeldOut, type Scene, signature } from './world.ts';

export interface Turn {
  category: Category | 'caption';
  prompt: string;
  answer: string;
}

export interface Example {
  scene: Scene;
  caption: string;
  /** Two to four questions of different categories; in every fifth example the caption is asked for among them. */
  turns: Turn[];
  /** A way to ask for the caption. */
  captionPrompt: string;
  /** The scene in words, for training without a picture. */
  description: string;
}

/** One LLaVA record; `image` is relative to the image folder. */
export interface LlavaRecord {
  id: string;
  image?: string;
  conversations: { from: 'human' | 'gpt'; value: string }[];
}

/** One line of a question file for `neva generate`. */
export interface QuestionLine {
  question_id: string;
  image: string;
  prompt: string;
  answer: string;
  category: Category;
}

const CAPTION_SHARE = 0.2;

/**
 * Examples without end, the same for the same seed, none of them of a held-out scene.
 * @param distinct no scene twice
 */
export function* examples(seed: number, { distinct = false } = {}): Generator<Example, never> {
  const random = new Random(seed, 'examples');
  const balance = new Balance();
  for (const scene of scenes(random, (s) => !isHeldOut(s), distinct)) {
    const all = questions(scene);
    // One or two questions of each category: as in LLaVA's mix, what is asked about a picture stands in one record.
    const turns = random.shuffled(
      CATEGORIES.flatMap((category) => {
        const asked: Turn[] = [];
        for (let left = 1 + random.below(2); left > 0; left--) {
          const open = all.filter((q) => q.category === category && asked.every(({ prompt }) => prompt !== q.prompt));
          if (open.length === 0) break;
          const { prompt, answer } = balance.choose(open, random);
          asked.push({ category, prompt, answer });
        }
        return asked;
      }),
    );
    const captionPrompt = random.pick(CAPTION_PROMPTS);
    if (random.chance(CAPTION_SHARE)) {
      const turn: Turn = { category: 'caption', prompt: captionPrompt, answer: caption(scene) };
      turns[random.below(turns.length)] = turn;
    }
    yield { scene, caption: caption(scene), turns, captionPrompt, description: description(scene, random) };
  }
  throw new Error('scenes ended');
}

export interface HeldOut {
  scene: Scene;
  questions: { category: Category; prompt: string; answer: string }[];
}

/** `count` held-out scenes, each once, with two questions each; the five categories come up equally often. */
export function heldOut(seed: number, count: number): HeldOut[] {
  const random = new Random(seed, 'held out');
  const balance = new Balance();
  const out: HeldOut[] = [];
  for (const scene of scenes(random, isHeldOut, true)) {
    const all = questions(scene);
    const asked = [0, 2].map((step) => {
      const category = CATEGORIES[(out.length + step) % CATEGORIES.length]!;
      const { prompt, answer } = balance.choose(
        all.filter((q) => q.category === category),
        random,
      );
      return { category, prompt, answer };
    });
    out.push({ scene, questions: asked });
    if (out.length === count) break;
  }
  return out;
}

function* scenes(random: Random, wanted: (scene: Scene) => boolean, distinct: boolean): Generator<Scene> {
  const seen = new Set<string>();
  for (;;) {
    const scene = drawScene(random);
    if (!wanted(scene) || (distinct && seen.has(signature(scene)))) continue;
    if (distinct) seen.add(signature(scene));
    yield scene;
  }
}

/** For stage 1: the picture and its caption. */
export function captionRecord(id: string, image: string, { caption, captionPrompt }: Example): LlavaRecord {
  return record(id, '<image>', [{ prompt: captionPrompt, answer: caption }], image);
}

/** For stage 2: the picture and questions about it. */
export function questionRecord(id: string, image: string, { turns }: Example): LlavaRecord {
  return record(id, '<image>', turns, image);
}

/** For a language model alone: the scene in words stands where the picture would. */
export function textRecord(id: string, { description, turns }: Example): LlavaRecord {
  return record(id, description, turns);
}

/** The same with the caption asked for. */
export function textCaptionRecord(id: string, { description, captionPrompt, caption }: Example): LlavaRecord {
  return record(id, description, [{ prompt: captionPrompt, answer: caption }]);
}

/** @param first stands on a line of its own before the first question */
export function record(
  id: string,
  first: string,
  turns: readonly { prompt: string; answer: string }[],
  image?: string,
): LlavaRecord {
  const conversations = turns.flatMap(({ prompt, answer }, i) => [
    { from: 'human' as const, value: i === 0 ? `${first}\n${prompt}` : prompt },
    { from: 'gpt' as const, value: answer },
  ]);
  return image === undefined ? { id, conversations } : { id, image, conversations };
}

/** A JSON array with one record a line. */
export function jsonLines(records: readonly unknown[]): string {
  return `[\n${records.map((r) => JSON.stringify(r)).join(',\n')}\n]\n`;
}
