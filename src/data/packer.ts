/**
 * Packed micro batches: which records of a global batch lie together, and this rank's share of the packs. Lengths are known
 * after encoding, before any picture is decoded, so ranks encode the whole global batch and decode only what they train on.
 */
import { mistake } from '../errors.ts';
import { collatePacked, type Sample } from './collate.ts';
import { mapLimited } from './concurrent.ts';
import type { Example } from './example.ts';
import type { Pack } from './pack_index.ts';
import { pack } from './packing.ts';
import type { DataRecord } from './parse-record.ts';
import { DECODING, type SampleSource } from './source.ts';
import type { MicroBatch } from './types.ts';
import type { UsableRecords } from './usable.ts';

export interface PackerOptions {
  /** Positions of a pack. */
  maxLength: number;
  imageSize: number;
  featuresPerImage: number;
  /** Packs in a micro batch. */
  microBatchSize: number;
  dataParallelRank: number;
  dataParallelSize: number;
}

interface Encoded {
  /** Of the record, among those of all sets. */
  number: number;
  /** Of the record, among those that are trained on. */
  member: number;
  record: DataRecord;
  example: Example;
}

export class Packer {
  readonly #source: SampleSource;
  readonly #options: PackerOptions;
  readonly #usable: UsableRecords;
  /** Made beforehand; null packs each global batch as it comes. */
  readonly #packs: readonly Pack[] | null;

  constructor(
    source: SampleSource,
    options: PackerOptions,
    usable: UsableRecords,
    packs: readonly Pack[] | null = null,
  ) {
    this.#source = source;
    this.#options = options;
    this.#usable = usable;
    this.#packs = packs;
  }

  /** This rank's micro batches of a global batch, of records or of packs made beforehand. May be none on some rank. */
  async microBatches(indices: readonly number[]): Promise<MicroBatch[]> {
    const { dataParallelRank: rank, dataParallelSize: ranks, microBatchSize, maxLength } = this.#options;
    const packs = this.#packs ? indices : await this.#packed(indices);
    // Dealt out pack by pack, so that no rank has more than one pack more than another.
    const own = packs.filter((_, i) => i % ranks === rank);
    const microBatches: MicroBatch[] = [];
    for (let from = 0; from < own.length; from += microBatchSize) {
      const parts = own.slice(from, from + microBatchSize);
      const samples: Sample[] = [];
      for (const part of parts) {
        const members = typeof part === 'number' ? await this.#members(part) : part;
        samples.push(...(await this.#illustrated(members)));
      }
      if (samples.length > 0) microBatches.push(this.#collate(samples, parts.length * maxLength));
    }
    return microBatches;
  }

  #collate(samples: readonly Sample[], room: number): MicroBatch {
    const { imageSize, featuresPerImage } = this.#options;
    return collatePacked(samples, room, { imageSize, featuresPerImage, padId: this.#source.tokenizer.padId ?? 0 });
  }

  #encode(member: number) {
    return (number: number): Encoded => {
      const record = this.#source.get(number);
      return { number, member, record, example: this.#source.encode(number, record) };
    };
  }

  /** First-fit decreasing over the records of the global batch. */
  async #packed(indices: readonly number[]): Promise<Encoded[][]> {
    const { dataParallelRank: rank, dataParallelSize: ranks } = this.#options;
    const found: Encoded[] = [];
    for (const [i, index] of indices.entries()) {
      // Every rank meets the problem, one reports it.
      const encoded = await this.#usable.take(index, this.#usable.replaces, this.#encode(index), i % ranks !== rank);
      if (encoded) found.push(encoded);
    }
    // A global batch cannot be empty: where all of its records are bad, the next good one stands in.
    const stand = found.length > 0 ? null : await this.#usable.take(indices[0]!, true, this.#encode(indices[0]!));
    if (stand) found.push(stand);
    const lengths = found.map(({ example }) => example.ids.length);
    return pack(lengths, this.#options.maxLength, 'first_fit_decreasing').map((members) =>
      members.map((member) => found[member]!),
    );
  }

  /** Records of a pack that was made beforehand. */
  async #members(number: number): Promise<Encoded[]> {
    const { records, length } = this.#packs![number]!;
    const found: Encoded[] = [];
    for (const member of records) {
      const encoded = await this.#usable.take(member, false, this.#encode(member));
      if (encoded) found.push(encoded);
    }
    const now = positions(found);
    if (found.length === records.length && now !== length) {
      throw mistake({
        where: this.#source.name,
        problem: `its records are not those that were packed: pack ${number}, records ${records.join(', ')}`,
        expected: `${length} positions`,
        found: `${now}`,
        fix: 'make the packs again with `neva data pack`',
      });
    }
    return found;
  }

  /**
   * A pack's samples with pictures. A picture that cannot be used takes its record out; with `on_error=replace` the next
   * usable record that fits into what is free of the pack comes in.
   */
  async #illustrated(members: readonly Encoded[]): Promise<Sample[]> {
    let free = this.#options.maxLength - positions(members);
    const first = await mapLimited(members, DECODING, ({ number, member, record, example }) =>
      this.#usable.take(member, false, () => this.#source.illustrate(number, record, example)),
    );
    const samples: Sample[] = [];
    for (const [i, sample] of first.entries()) {
      if (sample) {
        samples.push(sample);
        continue;
      }
      free += members[i]!.example.ids.length;
      if (!this.#usable.replaces) continue;
      const other = await this.#usable.take(members[i]!.member + 1, true, (number) => {
        const record = this.#source.get(number);
        const example = this.#source.encode(number, record);
        return example.ids.length <= free ? this.#source.illustrate(number, record, example) : null;
      });
      if (!other) continue;
      free -= other.example.ids.length;
      samples.push(other);
    }
    return samples;
  }
}

const positions = (members: readonly { example: Example }[]): number =>
  members.reduce((sum, { example }) => sum + example.ids.length, 0);
