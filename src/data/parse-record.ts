/** Records of a LLaVA-style data set, checked key by key before anything is made of them. */
import type { ImageFile } from './image-store.ts';
import { type ProblemKind, problem } from './problem.ts';
import { IMAGE_TAG, type Turn } from './segments.ts';

export interface DataRecord {
  index: number;
  /** The record's own id, or its index where it has none. For messages: ids need not be unique. */
  id: string;
  /** Paths as written in the record, one for each `<image>` tag. */
  images: string[];
  turns: Turn[];
  system?: string;
  /** The pictures themselves, where they come with the record and not from the image folder. */
  files?: ImageFile[];
}

const HUMAN = new Set(['human', 'user']);
const ASSISTANT = new Set(['gpt', 'assistant']);

/** A record checked key by key; `where` names it in messages. */
export function parseRecord(raw: unknown, index: number, where: string): DataRecord {
  let name = where;
  const wrong = (
    key: string,
    what: string,
    expected: string,
    found: unknown,
    fix?: string,
    kind: ProblemKind = 'record',
  ) =>
    problem(kind, {
      where: key === '' ? name : `${name}: ${key}`,
      problem: what,
      expected,
      found: describe(found),
      fix,
    });

  if (typeof raw !== 'object' || raw === null || Array.isArray(raw)) {
    throw wrong('', 'not a record', 'an object {id, image, conversations}', raw);
  }
  const record = raw as Record<string, unknown>;
  const named = typeof record.id === 'string' || typeof record.id === 'number';
  const id = named ? String(record.id) : String(index);
  if (named) name += ` (id ${id})`;

  const turns = readTurns(record.conversations, wrong);
  const images = record.image === undefined ? takeInlineImages(turns) : readImages(record.image, wrong);
  const tags = turns.reduce((sum, turn) => sum + turn.text.split(IMAGE_TAG).length - 1, 0);
  if (tags !== images.length) {
    throw wrong(
      'image',
      'the number of images and of <image> tags differ',
      `${tags} image${tags === 1 ? '' : 's'}, one for each <image> tag in the conversation`,
      images.length,
      'add the missing paths or tags, or take out the surplus',
      'image_count',
    );
  }
  if (record.system !== undefined && record.system !== null && typeof record.system !== 'string') {
    throw wrong('system', 'not a text', 'a string', record.system);
  }
  return { index, id, images, turns, ...(typeof record.system === 'string' ? { system: record.system } : {}) };
}

type Wrong = (key: string, what: string, expected: string, found: unknown, fix?: string, kind?: ProblemKind) => Error;

/** The turns, human first and alternating. A leading answer without a question is dropped, as LLaVA and NeMo do. */
function readTurns(value: unknown, wrong: Wrong): Turn[] {
  const form = 'a list of {from: "human" | "gpt", value: text}, human first, alternating';
  if (!Array.isArray(value)) throw wrong('conversations', value === undefined ? 'missing' : 'not a list', form, value);
  const turns: Turn[] = value.map((turn: unknown, at) => {
    const key = `conversations[${at}]`;
    if (typeof turn !== 'object' || turn === null) throw wrong(key, 'not a turn', form, turn);
    const { from, value: text, label } = turn as { from?: unknown; value?: unknown; label?: unknown };
    const speaker = typeof from === 'string' ? from.toLowerCase() : '';
    if (!HUMAN.has(speaker) && !ASSISTANT.has(speaker)) {
      throw wrong(`${key}.from`, 'unknown speaker', '"human" or "gpt"', from);
    }
    if (typeof text !== 'string') throw wrong(`${key}.value`, 'not a text', 'a string', text);
    return { from: HUMAN.has(speaker) ? 'human' : 'gpt', text, ...(typeof label === 'string' ? { label } : {}) };
  });
  if (turns[0]?.from === 'gpt') turns.shift();
  if (turns.length < 2)
    throw wrong('conversations', 'no question with an answer', form, `${turns.length} usable turns`);
  turns.forEach((turn, at) => {
    if ((turn.from === 'human') !== (at % 2 === 0)) {
      throw wrong(
        'conversations',
        `speakers do not alternate at turn ${at}`,
        form,
        turns.map((each) => each.from).join(', '),
      );
    }
  });
  return turns;
}

function readImages(value: unknown, wrong: Wrong): string[] {
  if (value === undefined || value === null) return [];
  const list = Array.isArray(value) ? value : [value];
  return list.map((path: unknown) => {
    if (typeof path !== 'string' || path === '') {
      throw wrong('image', 'not a path', 'a path below image_folder, or a list of such paths', path);
    }
    return path;
  });
}

/** SteerLM's form: pictures stand inside the text as `<img src="…">`; their base name lies below the image folder. */
function takeInlineImages(turns: Turn[]): string[] {
  const images: string[] = [];
  for (const turn of turns) {
    turn.text = turn.text.replace(/<img\s+src=(["'])(.*?)\1[^>]*>/g, (_tag, _quote, source: string) => {
      images.push(source.split('/').at(-1) ?? source);
      return IMAGE_TAG;
    });
  }
  return images;
}

/** What stands there, short enough for a message. */
function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = typeof value === 'string' && !value.includes('\n') ? value : written(value);
  return text.length > 80 ? `${text.slice(0, 77)}…` : text;
}

function written(value: unknown): string {
  try {
    return JSON.stringify(value) ?? String(value);
  } catch {
    // JSON is parsed at any depth, and written only as deep as the stack goes.
    return Array.isArray(value) ? 'a list, deeply nested' : 'an object, deeply nested';
  }
}
