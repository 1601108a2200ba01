/** The shards of NeMo's ranks as whole tensors under neva's names; everything that does not fit is told in one table. */
import { mistake } from '../errors.ts';
import type { LlmShape, VisionShape } from '../model/shapes.ts';
import { readName } from './names.ts';
import type { RankFile } from './nemo_archive.ts';
import { adapterName, isIgnored, llmWeights, type NemoNames, type NemoWeight, visionWeights } from './nemo_layout.ts';
import { fitsShard, type Heads, headsOf, mergeShards, shardShape } from './nemo_shards.ts';
import type { TensorEntry } from './safetensors.ts';
import { readTorchFile } from './torch_zip.ts';

export interface NemoForm {
  names: NemoNames;
  tp: number;
  pp: number;
}

export class NemoMerger {
  readonly #path: string;
  readonly #numLayers: number;
  readonly #tp: number;
  readonly #pp: number;
  /** What was not taken yet: NeMo's name after `model.` → a tensor a tensor-parallel rank, blocks counted over all stages. */
  readonly #shards = new Map<string, TensorEntry[]>();
  readonly #entries = new Map<string, TensorEntry>();
  readonly #problems: string[] = [];

  constructor(path: string, ranks: readonly RankFile[], numLayers: number) {
    this.#path = path;
    this.#numLayers = numLayers;
    this.#tp = Math.max(...ranks.map((rank) => rank.tp)) + 1;
    const pp = Math.max(...ranks.map((rank) => rank.pp)) + 1;
    this.#pp = pp;
    if (numLayers % pp !== 0) {
      throw mistake({ where: path, problem: `${numLayers} blocks cannot have been split over ${pp} pipeline stages` });
    }
    for (const rank of [...ranks].sort((a, b) => a.pp - b.pp || a.tp - b.tp)) this.#collect(rank, numLayers / pp);
  }

  /** How NeMo wrote it. */
  get form(): NemoForm {
    return { names: this.#names, tp: this.#tp, pp: this.#pp };
  }

  /** Rows of the embedding over all ranks, padding included; null where there is no language model. */
  vocabularyRows(): number | null {
    const name = `${this.#names === 'legacy' ? 'language_model.' : ''}embedding.word_embeddings.weight`;
    const rows = this.#shards.get(name)?.[0]?.shape[0];
    return rows === undefined ? null : rows * this.#tp;
  }

  takeLlm(shape: LlmShape): void {
    const separateUp = [...this.#shards.keys()].some((name) => name.endsWith('mlp.dense_h_to_4h_2.weight'));
    this.#take(llmWeights(this.#names, shape, separateUp), shape);
  }

  takeVision(shape: VisionShape): void {
    this.#take(visionWeights(shape), headsOf(shape));
  }

  /** Own name → where it lies. Throws a user error when something was missing, of another shape, or is left. */
  finish(): Map<string, TensorEntry> {
    for (const [name, [entry]] of this.#shards) this.#takeModule(name, entry!);
    const problems = this.#problems;
    if (problems.length > 0) {
      const more = problems.length > 12 ? [`… and ${problems.length - 12} more`] : [];
      throw mistake({
        where: this.#path,
        problem: 'its configuration contradicts its weights',
        found: [...problems.slice(0, 12), ...more].join('\n            '),
        fix: 'correct model_config.yaml, or use the archive that belongs to it',
      });
    }
    if (this.#entries.size > 0) return this.#entries;
    throw mistake({ where: this.#path, problem: 'there are no weights in it', fix: 'save it again' });
  }

  get #names(): NemoNames {
    return [...this.#shards.keys()].some((name) => name.startsWith('language_model.')) ? 'legacy' : 'mcore';
  }

  #collect(rank: RankFile, layersPerStage: number): void {
    for (const [name, entry] of readTorchFile(rank.region, rank.where).entries) {
      const nemo = name.replace(/^model\.(?:module\.)?/, '');
      if (isIgnored(nemo)) continue;
      // Every stage counts its blocks from 0.
      const first = rank.pp * layersPerStage;
      const whole = nemo.replace(/(?<=\blayers\.)\d+/, (number) => String(Number(number) + first));
      const list = this.#shards.get(whole) ?? [];
      // Tied weights stand in the first stage and in the last.
      if (list.length === rank.tp) this.#shards.set(whole, [...list, entry]);
    }
  }

  #take(weights: readonly NemoWeight[], heads: Heads): void {
    for (const weight of weights) {
      const count = weight.nemo.includes('{L}') ? this.#numLayers : 1;
      for (let layer = 0; layer < count; layer++) this.#takeWeight(weight, layer, heads);
    }
  }

  #takeWeight(weight: NemoWeight, layer: number, heads: Heads): void {
    const tp = this.#tp;
    const spellings = [weight.nemo, ...(weight.also ? [weight.also] : [])].map((n) => n.replace('{L}', String(layer)));
    const name = spellings.find((spelling) => this.#shards.has(spelling)) ?? spellings[0]!;
    const shards = this.#shards.get(name) ?? [];
    this.#shards.delete(name);
    if (shards.length !== tp) {
      this.#problems.push(`${name}: missing on ${tp - shards.length} of ${tp} ranks`);
    } else if (shards.every(({ shape }) => fitsShard(weight, shape, tp, heads))) {
      for (const entry of mergeShards(weight, layer, shards, heads)) this.#entries.set(entry.name, entry);
    } else {
      const expected = shardShape(weight, tp, heads);
      const shown = expected ? `[${expected.join(', ')}]` : `what can be split over ${tp} ranks`;
      this.#problems.push(`${name}: [${shards[0]!.shape.join(', ')}] in the file, ${shown} by the configuration`);
    }
  }

  /** Modules that every rank has whole, under torch's names: the projector, and a tower of Hugging Face's that trained. */
  #takeModule(name: string, entry: TensorEntry): void {
    const tower = /\.word_embeddings\.vision_encoder\.(.+)$/.exec(name);
    const reading = readName(adapterName(name) ?? tower?.[1] ?? '');
    if (reading === null) {
      this.#problems.push(`${name}: [${entry.shape.join(', ')}], not a weight of the configured model`);
    } else if ('name' in reading) this.#entries.set(reading.name, { ...entry, name: reading.name });
  }
}
