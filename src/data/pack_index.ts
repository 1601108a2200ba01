/**
 * The file of packs that `neva data pack` writes: a line of JSON that says for which data and which encoding, then one line
 * a pack, `{"records": [places among the records that are trained on], "length": positions}`. Records, pictures and tokens stay where they are.
 */
import { existsSync, readFileSync, statSync } from 'node:fs';
import { mistake } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { mapLimited } from './concurrent.ts';
import { type Part, selectPart } from './held-out.ts';
import { efficiency, type PackingAlgorithm, pack } from './packing.ts';
import { SampleSource, type SourceOptions } from './source.ts';
import { type MetProblem, type UsableOptions, UsableRecords } from './usable.ts';

export interface Pack {
  /** Places among the records that are trained on: the whole data, or what a held-out share leaves. */
  records: number[];
  /** Positions of all of them. */
  length: number;
}

/** What lengths depend on: packs made with other values would not fit. Names as in the configuration. */
interface Encoding {
  records: number;
  /** Size of the data files. */
  data_bytes: number;
  encoder_seq_length: number;
  conv_template: string;
  template_compat: string;
  image_positions: number;
  use_im_start_end: boolean;
}

interface Header extends Encoding {
  format: typeof FORMAT;
  packing_algorithm: PackingAlgorithm;
  seed: number;
  packs: number;
  packing_efficiency: number;
  /** Records that could not be used. */
  left_out: number;
}

const FORMAT = 'neva packs 1';

/** Where the packs of a `model.data.data_prefix` are. */
export const packFile = (prefix: string): string => (prefix.endsWith('.jsonl') ? prefix : `${prefix}.packs.jsonl`);

const encodingOf = (options: SourceOptions, records: number): Encoding => ({
  records,
  data_bytes: (options.blend ?? [options]).reduce((sum, { dataPath }) => sum + statSync(dataPath).size, 0),
  encoder_seq_length: options.maxLength,
  conv_template: options.template,
  template_compat: options.templateCompat ?? 'llava',
  image_positions: options.featuresPerImage,
  use_im_start_end: options.useImStartEnd,
});

interface PartOptions {
  validationFraction?: number;
  part?: Part;
}

export interface PackResult {
  path: string;
  header: Header;
  problems: MetProblem[];
}

/** Encodes every record, packs them, writes the file. A record that cannot be used ends it, or is left out (`onError`). */
export async function writePacks(
  options: SourceOptions & UsableOptions & PartOptions,
  prefix: string,
  { algorithm, seed }: { algorithm: PackingAlgorithm; seed: number },
  onProgress: (done: number, total: number) => void = () => {},
): Promise<PackResult> {
  const source = await SampleSource.open(options);
  try {
    const { members } = selectPart(source.sizes, options.part ?? 'all', options.validationFraction ?? 0);
    const usable = new UsableRecords(options, source.name, members);
    let done = 0;
    const all = [...members.keys()];
    const lengths = await mapLimited(all, 1, async (index) => {
      const length = await usable.take(index, false, (number) => {
        const record = source.get(number);
        source.imageFiles(number, record); // a picture that is not there is a problem now rather than in the run
        return source.encode(number, record).ids.length;
      });
      onProgress(++done, all.length);
      return length;
    });
    const good = all.filter((index) => lengths[index] !== null);
    const goodLengths = good.map((index) => lengths[index]!);
    const packs = pack(goodLengths, options.maxLength, algorithm, seed).map((members) => ({
      records: members.map((member) => good[member]!),
      length: members.reduce((sum, member) => sum + goodLengths[member]!, 0),
    }));
    const header: Header = {
      format: FORMAT,
      ...encodingOf(options, all.length),
      packing_algorithm: algorithm,
      seed,
      packs: packs.length,
      packing_efficiency: packs.length > 0 ? efficiency(goodLengths, packs.length, options.maxLength) : 0,
      left_out: all.length - good.length,
    };
    const path = packFile(prefix);
    writeFileAtomic(path, `${[header, ...packs].map((line) => JSON.stringify(line)).join('\n')}\n`);
    return { path, header, problems: usable.takeProblems() };
  } finally {
    source.close();
  }
}

/** The packs behind `prefix`, refused where they were made for other data or another encoding. */
export function readPacks(prefix: string, options: SourceOptions, records: number): Pack[] {
  const path = packFile(prefix);
  const where = `model.data.data_prefix=${prefix}`;
  const fix = 'make the packs again with `neva data pack` and the same overrides as the run';
  if (!existsSync(path)) {
    throw mistake({ where, problem: 'there are no packs', expected: path, fix: 'run `neva data pack --out PREFIX`' });
  }
  const [first = '', ...lines] = readFileSync(path, 'utf8').trimEnd().split('\n');
  const header = parse<Header>(first, path, 1);
  if (header.format !== FORMAT) {
    throw mistake({
      where: path,
      problem: 'not a file of packs',
      expected: `"format": "${FORMAT}"`,
      found: first,
      fix,
    });
  }
  if (lines.length !== header.packs) {
    throw mistake({
      where: path,
      problem: 'the file is not whole',
      expected: `${header.packs} packs`,
      found: `${lines.length}`,
      fix,
    });
  }
  const now = encodingOf(options, records);
  const different = (Object.keys(now) as (keyof Encoding)[]).filter((key) => now[key] !== header[key]);
  if (different.length > 0) {
    throw mistake({
      where,
      problem: 'the packs were made for other data or settings',
      expected: different.map((key) => `${key}=${now[key]}`).join(', '),
      found: different.map((key) => `${key}=${header[key]}`).join(', '),
      fix,
    });
  }
  return lines.map((line, i) => parse<Pack>(line, path, i + 2));
}

function parse<T>(line: string, path: string, number: number): T {
  try {
    return JSON.parse(line) as T;
  } catch {
    throw mistake({ where: `${path}, line ${number}`, problem: 'not JSON', found: line.slice(0, 80) });
  }
}
