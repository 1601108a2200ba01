/**
 * The dry run behind `neva data check`: every record read, encoded with the run's template and length, every image decoded.
 * Verdicts on image files are kept between runs by size and time of change.
 */
import { existsSync, readFileSync } from 'node:fs';
import { writeFileAtomic } from '../files.ts';
import { mapLimited } from './concurrent.ts';
import type { ImageFile } from './image-store.ts';
import { isRecordProblem, type ProblemKind } from './problem.ts';
import { SampleSource, type SourceOptions } from './source.ts';
import { IGNORE } from './types.ts';

export interface CheckOptions extends SourceOptions {
  onError: 'error' | 'skip' | 'replace';
  /** Share of bad records above which a run refuses to start, with `skip` and `replace`. */
  maxBadFraction: number;
  /** Check this many records, spread evenly over the file; all by default. */
  limit?: number;
  /** Where verdicts on image files are kept; nowhere by default. */
  cacheFile?: string;
  onProgress?: (done: number, total: number) => void;
}

export interface ProblemSummary {
  count: number;
  /** The first few, as a run would report them. */
  examples: { index: number; message: string }[];
}

export interface LengthSummary {
  min: number;
  mean: number;
  max: number;
  /** Records by length: `counts[i]` of them have at most `upTo[i]` positions and more than the bound before. */
  histogram: { upTo: number[]; counts: number[] };
}

export interface CheckReport {
  dataPath: string;
  template: string;
  records: number;
  checked: number;
  good: number;
  bad: number;
  problems: Partial<Record<ProblemKind, ProblemSummary>>;
  /** Good records that lose positions at the right. */
  truncated: number;
  textOnly: number;
  images: { used: number; decoded: number; remembered: number };
  /** Positions of the good records, after truncation. */
  positions: LengthSummary | null;
  labels: LengthSummary | null;
  /** A training run with these options would refuse to start or stop at such a record. */
  refused: boolean;
}

/** Verdict on an image file: null, or kind and message of what is wrong. */
interface Verdict {
  size: number;
  time: number;
  problem: { kind: ProblemKind; message: string } | null;
}

const EXAMPLES = 5;
const PARALLEL = 8;

export async function checkData(options: CheckOptions): Promise<CheckReport> {
  const source = await SampleSource.open(options);
  try {
    const images = new ImageVerdicts(options, source);
    const indices = spread(source.size, options.limit ?? source.size);
    const problems: Partial<Record<ProblemKind, ProblemSummary>> = {};
    const positions: number[] = [];
    const labels: number[] = [];
    const counted = { truncated: 0, textOnly: 0, used: 0, bad: 0, done: 0 };
    const check = async (index: number) => {
      const record = source.get(index);
      const example = source.encode(index, record);
      for (const file of source.imageFiles(index, record)) await images.require(file, source.nameOf(index, record));
      if (example.cut > 0) counted.truncated++;
      if (record.images.length === 0) counted.textOnly++;
      counted.used += record.images.length;
      positions.push(example.ids.length);
      labels.push(example.labels.reduce((sum, label) => sum + (label === IGNORE ? 0 : 1), 0));
    };
    await mapLimited(indices, PARALLEL, async (index) => {
      try {
        await check(index);
      } catch (error) {
        if (!isRecordProblem(error)) throw error;
        counted.bad++;
        const { kind, message } = error;
        problems[kind] ??= { count: 0, examples: [] };
        const summary = problems[kind];
        summary.count++;
        if (summary.examples.length < EXAMPLES) summary.examples.push({ index, message });
      }
      options.onProgress?.(++counted.done, indices.length);
    });
    images.save();
    const checked = indices.length;
    const { truncated, textOnly, used, bad } = counted;
    return {
      dataPath: source.name,
      template: source.template.name,
      records: source.size,
      checked,
      good: checked - bad,
      bad,
      problems,
      truncated,
      textOnly,
      images: { used, decoded: images.decoded, remembered: images.remembered },
      positions: summarize(positions),
      labels: summarize(labels),
      refused: bad === checked || (options.onError === 'error' ? bad > 0 : bad / checked > options.maxBadFraction),
    };
  } finally {
    source.close();
  }
}

class ImageVerdicts {
  decoded = 0;
  remembered = 0;
  readonly #options: CheckOptions;
  readonly #source: SampleSource;
  /** Limits are part of a verdict: a file written under other limits is not used. */
  readonly #limits: string;
  readonly #known: Map<string, Verdict>;
  /** Files met in this run: decoded once, however many records show them. */
  readonly #met = new Map<string, Promise<Verdict['problem']>>();

  constructor(options: CheckOptions, source: SampleSource) {
    this.#options = options;
    this.#source = source;
    this.#limits = `${options.maxImageBytes ?? ''}/${options.maxImagePixels ?? ''}`;
    this.#known = readVerdicts(options.cacheFile, this.#limits);
  }

  async require(file: ImageFile, where: string): Promise<void> {
    const met = this.#met.get(file.name) ?? this.#judge(file);
    this.#met.set(file.name, met);
    const verdict = await met;
    if (verdict !== null) {
      throw Object.assign(new Error(`${where}: ${verdict.message}`), { kind: verdict.kind, userError: true });
    }
  }

  async #judge(file: ImageFile): Promise<Verdict['problem']> {
    const stamp = file.stamp();
    const known = this.#known.get(file.name);
    if (stamp !== null && known?.size === stamp.size && known.time === stamp.time) {
      this.remembered++;
      return known.problem;
    }
    let found: Verdict['problem'] = null;
    this.decoded++;
    try {
      await this.#source.decode(file, () => null);
    } catch (error) {
      if (!isRecordProblem(error)) throw error;
      found = { kind: error.kind, message: error.message };
    }
    if (stamp !== null) this.#known.set(file.name, { ...stamp, problem: found });
    return found;
  }

  save(): void {
    if (this.#options.cacheFile === undefined) return;
    const verdicts = Object.fromEntries(this.#known);
    writeFileAtomic(this.#options.cacheFile, `${JSON.stringify({ version: 1, limits: this.#limits, verdicts })}\n`);
  }
}

/** What an earlier run found; nothing where the file is absent, of another version, or damaged: it is only a cache. */
function readVerdicts(path: string | undefined, limits: string): Map<string, Verdict> {
  if (path === undefined || !existsSync(path)) return new Map();
  try {
    const stored = JSON.parse(readFileSync(path, 'utf8')) as {
      version: number;
      limits: string;
      verdicts: Record<string, Verdict>;
    };
    return stored.version === 1 && stored.limits === limits ? new Map(Object.entries(stored.verdicts)) : new Map();
  } catch {
    return new Map();
  }
}

/** `count` indices evenly over 0 … size−1. */
function spread(size: number, count: number): number[] {
  const taken = Math.min(size, Math.max(1, count));
  return Array.from({ length: taken }, (_, i) => Math.floor((i * size) / taken));
}

function summarize(lengths: readonly number[]): LengthSummary | null {
  if (lengths.length === 0) return null;
  let min = Number.POSITIVE_INFINITY;
  let max = 0;
  let sum = 0;
  for (const length of lengths) {
    min = Math.min(min, length);
    max = Math.max(max, length);
    sum += length;
  }
  const bins = Math.min(32, max - min + 1);
  const width = (max - min + 1) / bins;
  const counts = new Array<number>(bins).fill(0);
  for (const length of lengths) {
    const bin = Math.min(bins - 1, Math.floor((length - min) / width));
    counts[bin] = (counts[bin] as number) + 1;
  }
  const upTo = Array.from({ length: bins }, (_, i) => Math.ceil(min + (i + 1) * width) - 1);
  return { min, mean: sum / lengths.length, max, histogram: { upTo, counts } };
}
