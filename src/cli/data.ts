/** `neva data check`, `show` and `pack`: what a training run would read, before it reads it. */
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Command, Option } from 'commander';
import type { NevaConfig } from '../config/index.ts';
import { PACKING_ALGORITHMS, type PackingAlgorithm } from '../data/packing.ts';
import { mistake } from '../errors.ts';
import { userCache } from '../files.ts';
import { addConfigFlags, type ConfigFlags, composeOrShow, tellNotices } from './hydra.ts';
import { progressBar } from './progress_bar.ts';

export function define(command: Command): void {
  addConfigFlags(
    command.command('check').description('read every record and decode every picture, and report by kind of problem'),
  )
    .option('--json', 'print the report as one JSON object')
    .option('--html <file>', 'write the report as a page, with charts of the lengths')
    .option('--limit <n>', 'check only so many records, spread over the file', count)
    .option('--no-cache', 'decode pictures again that an earlier check has decoded')
    .action(async (overrides: string[], flags: ConfigFlags & CheckFlags) => {
      const composed = await composeOrShow('neva_pretrain', overrides, flags);
      if (!composed) return;
      await tellNotices(composed, 'inference');
      await check(composed.config, flags);
    });
  addConfigFlags(command.command('show').description('show one record as the model sees it'))
    .requiredOption('--index <n>', 'position of the record in the file, from 0', count)
    .option('--json', 'print it as one JSON object')
    .option('--pixels <file>', 'write its pictures, preprocessed, to a safetensors file')
    .action(async (overrides: string[], flags: ConfigFlags & ShowFlags) => {
      const composed = await composeOrShow('neva_pretrain', overrides, flags);
      if (!composed) return;
      await tellNotices(composed, 'inference');
      await show(composed.config, flags);
    });
  addConfigFlags(
    command
      .command('pack')
      .description(
        'lay records together in packs for model.data.packed_sequence=true; records and pictures stay where they are',
      ),
  )
    .requiredOption('--out <prefix>', 'writes PREFIX.packs.jsonl; train with model.data.data_prefix=PREFIX')
    .addOption(
      new Option('--algorithm <name>', 'which records share a pack')
        .choices(PACKING_ALGORITHMS)
        .default('first_fit_shuffle'),
    )
    .action(async (overrides: string[], flags: ConfigFlags & PackFlags) => {
      const composed = await composeOrShow('neva_pretrain', overrides, flags);
      if (!composed) return;
      await tellNotices(composed, 'inference');
      await packData(composed.config, flags);
    });
}

interface CheckFlags {
  json?: boolean;
  html?: string;
  limit?: number;
  cache: boolean;
}

interface ShowFlags {
  index: number;
  json?: boolean;
  pixels?: string;
}

interface PackFlags {
  out: string;
  algorithm: PackingAlgorithm;
}

function count(value: string): number {
  if (/^\d+$/.test(value)) return Number(value);
  throw mistake({ where: '--index, --limit', problem: 'not a count', expected: 'a whole number', found: value });
}

/** The options of a training run with this configuration, without an engine. */
async function runOptions(config: NevaConfig) {
  const { resolveSources } = await import('../train/assemble.ts');
  const { dataOptions } = await import('../train/data_options.ts');
  const { sources, shape, tokenizerFolder } = resolveSources(config);
  return dataOptions(config, { vision: shape.vision, tokenizerFolder, visionFolder: sources.vision?.path ?? null });
}

async function check(config: NevaConfig, flags: CheckFlags): Promise<void> {
  const options = await runOptions(config);
  const { checkData } = await import('../data/check.ts');
  const { presentCheck } = await import('../data/present.ts');
  const progress = await progressBar('{bar} {value}/{total} records, {eta_formatted} left');
  const report = await checkData({
    ...options,
    maxBadFraction: config.model.data.max_bad_fraction,
    ...(flags.limit === undefined ? {} : { limit: flags.limit }),
    ...(flags.cache ? { cacheFile: verdictFile(resolve(options.imageFolder ?? options.dataPath)) } : {}),
    onProgress: progress.update,
  }).finally(progress.stop);
  if (flags.html !== undefined) {
    const { checkPage } = await import('./check_page.ts');
    const { writeFileAtomic } = await import('../files.ts');
    writeFileAtomic(flags.html, checkPage(report));
  }
  console.log(flags.json ? JSON.stringify(report, null, 2) : presentCheck(report));
  if (report.refused) process.exitCode = 2;
}

/** One file of verdicts for each image folder, in the user's cache. */
function verdictFile(imageFolder: string): string {
  const folder = userCache();
  mkdirSync(folder, { recursive: true });
  return join(folder, `images-${createHash('sha256').update(imageFolder).digest('hex').slice(0, 16)}.json`);
}

/** On a terminal, how far the check is; elsewhere nothing. */

async function packData(config: NevaConfig, { out, algorithm }: PackFlags): Promise<void> {
  const options = await runOptions(config);
  const { writePacks } = await import('../data/pack_index.ts');
  const progress = await progressBar('{bar} {value}/{total} records, {eta_formatted} left');
  const seed = config.model.seed;
  const { path, header, problems } = await writePacks(options, out, { algorithm, seed }, progress.update).finally(
    progress.stop,
  );
  for (const { message } of problems) console.error(message);
  const left = header.left_out > 0 ? `, ${header.left_out} records left out` : '';
  console.log(
    `${header.records} records in ${header.packs} packs of ${header.encoder_seq_length} positions, ` +
      `${(100 * header.packing_efficiency).toFixed(1)} % full${left}: ${path}`,
  );
}

async function show(config: NevaConfig, flags: ShowFlags): Promise<void> {
  const options = await runOptions(config);
  const { showRecord } = await import('../data/show.ts');
  const { presentRecord } = await import('../data/present.ts');
  const { record, pieces, pixels } = await showRecord(options, flags.index);
  if (flags.pixels !== undefined) {
    const { writeSafetensors } = await import('../checkpoint/safetensors.ts');
    const size = options.imageSize;
    const bytes = new Float32Array(pixels.length * 3 * size * size);
    pixels.forEach((picture, i) => {
      bytes.set(picture, i * picture.length);
    });
    const shape = [pixels.length, 3, size, size];
    writeSafetensors(flags.pixels, [
      { name: 'pixel_values', dtype: 'float32', shape, data: () => new Uint8Array(bytes.buffer) },
    ]);
  }
  const colour = process.stdout.isTTY && !process.env.NO_COLOR;
  console.log(flags.json ? JSON.stringify(record) : presentRecord(record, pieces, colour));
}
