/**
 * WebDataset shards: tar archives in which neighbouring members with one stem are a sample, `dir/0001.json` or
 * `dir/0001.txt` with `dir/0001.jpg`. One pass over the headers finds where everything lies; contents are read when used.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { mistake } from '../errors.ts';
import { type TarEntry, walkTar } from '../tar_index.ts';
import { READ } from './files.ts';
import { archived } from './image-store.ts';
import { type DataRecord, parseRecord } from './parse-record.ts';
import { problem } from './problem.ts';
import { IMAGE_TAG } from './segments.ts';

const PICTURES = new Set(['jpg', 'jpeg', 'png', 'webp', 'gif', 'tif', 'tiff', 'avif']);
/** A record's text is read whole. */
const MAX_TEXT = 64 * 2 ** 20;

interface Shard {
  path: string;
  file: number;
  /** Time of change. */
  time: number;
}

/** A member of a sample; the extension is what follows the stem's first dot. */
type Member = TarEntry & { extension: string };

/** Where the samples of all shards lie, in flat arrays: half a million samples are no half a million objects. */
class SampleIndex {
  readonly stems: string[] = [];
  readonly #shards: number[] = [];
  /** First member of each sample. */
  readonly #starts: number[] = [];
  readonly #offsets: number[] = [];
  readonly #sizes: number[] = [];
  readonly #extensions: number[] = [];
  readonly #extensionIds = new Map<string, number>();

  add(shard: number, name: string, { offset, size }: TarEntry): void {
    const { stem, extension } = splitName(name);
    if (extension === '') return;
    if (this.#shards.at(-1) !== shard || this.stems.at(-1) !== stem) {
      this.stems.push(stem);
      this.#shards.push(shard);
      this.#starts.push(this.#offsets.length);
    }
    const id = this.#extensionIds.get(extension) ?? this.#extensionIds.size;
    this.#extensionIds.set(extension, id);
    this.#offsets.push(offset);
    this.#sizes.push(size);
    this.#extensions.push(id);
  }

  sample(index: number): { stem: string; shard: number; members: Member[] } {
    const names = [...this.#extensionIds.keys()];
    const end = this.#starts[index + 1] ?? this.#offsets.length;
    const members: Member[] = [];
    for (let at = this.#starts[index]!; at < end; at++) {
      const [offset, size] = [this.#offsets[at]!, this.#sizes[at]!];
      members.push({ extension: names[this.#extensions[at]!]!, offset, size });
    }
    return { stem: this.stems[index]!, shard: this.#shards[index]!, members };
  }
}

/** WebDataset's rule: the stem ends at the first dot of the file's own name. */
function splitName(name: string): { stem: string; extension: string } {
  const dot = name.indexOf('.', name.lastIndexOf('/') + 2);
  return dot < 0 ? { stem: name, extension: '' } : { stem: name.slice(0, dot), extension: name.slice(dot + 1) };
}

export interface Shards {
  readonly path: string;
  readonly size: number;
  get(index: number): DataRecord;
  close(): void;
}

/** Opens shards as one data set, in the order given; `path` is the pattern they came from. */
export function openShards(paths: readonly string[], path: string): Shards {
  const shards: Shard[] = [];
  const index = new SampleIndex();
  const close = () => {
    for (const { file } of shards.splice(0)) closeSync(file);
  };
  const fix = 'make it anew with `tar -cf` or webdataset.TarWriter; unpack gzipped shards';
  try {
    paths.forEach((each, shard) => {
      shards.push({ path: each, file: openShard(each), time: statSync(each).mtimeMs });
      walkTar(shards[shard]!.file, each, { fix }, (name, entry) => index.add(shard, name, entry));
    });
  } catch (error) {
    close();
    throw error;
  }
  return {
    path,
    size: index.stems.length,
    get(at) {
      const { stem, shard, members } = index.sample(at);
      return readSample(stem, at, shards[shard]!, members);
    },
    close,
  };
}

function openShard(path: string): number {
  try {
    return openSync(path, READ);
  } catch (error) {
    throw mistake({
      where: path,
      problem: 'cannot read the shard',
      found: (error as NodeJS.ErrnoException).code,
      fix: 'check the pattern in model.data.data_path',
    });
  }
}

function readSample(stem: string, index: number, shard: Shard, members: readonly Member[]): DataRecord {
  const name = `${shard.path}:${stem}`;
  const text = (extension: string) => readText(members, extension, shard.file, name);
  const files = members
    .filter(({ extension }) => PICTURES.has(extension.split('.').at(-1)!.toLowerCase()))
    .map((member) => archived(shard.path, `${stem}.${member.extension}`, member, shard.time));
  // The pictures are those beside the record, whatever it calls them.
  const pictures = files.length > 0 ? { image: files.map((file) => file.name) } : {};
  const finish = (record: object): DataRecord => {
    const parsed = parseRecord({ id: stem, ...record, ...pictures }, index, name);
    return files.length > 0 ? { ...parsed, files } : parsed;
  };
  const json = text('json');
  const raw = json === null ? null : parse(json, `${name}.json`);
  if (isObject(raw) && raw.conversations !== undefined) return finish(raw);
  const caption = text('txt') ?? text('caption') ?? (isObject(raw) ? raw.caption : null);
  if (typeof caption !== 'string') {
    throw problem('record', {
      where: name,
      problem: 'nothing to learn in this sample',
      expected: 'a .json member with conversations, or a .txt member with a caption',
      found: members.map(({ extension }) => `.${extension}`).join(' '),
    });
  }
  const conversations = [
    { from: 'human', value: IMAGE_TAG.repeat(files.length) },
    { from: 'gpt', value: caption.trim() },
  ];
  return finish({ conversations });
}

/** The text of a sample's member, or null where it has none of that extension. */
function readText(members: readonly Member[], extension: string, file: number, name: string): string | null {
  const member = members.find((each) => each.extension === extension);
  if (member === undefined) return null;
  if (member.size > MAX_TEXT) {
    throw problem('record', {
      where: `${name}.${extension}`,
      problem: 'too large for a text',
      expected: `at most ${MAX_TEXT} bytes`,
      found: `${member.size}`,
    });
  }
  const bytes = Buffer.alloc(member.size);
  readSync(file, bytes, 0, member.size, member.offset);
  return bytes.toString('utf8');
}

function parse(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw problem('json', {
      where,
      problem: `not valid JSON: ${(error as Error).message}`,
      found: JSON.stringify(text.slice(0, 60)),
    });
  }
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);
