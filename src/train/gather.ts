/**
 * What a checkpoint holds, where ranks have parts of it: they send them to rank 0, one tensor after the other, which puts
 * them together in host memory, as it does with its own.
 */
import type { WeightState } from '../checkpoint/folder.ts';
import { type SnapshotTensor, type SnapshotTensors, tensorsOf } from '../checkpoint/write_folder.ts';
import type { DType, Engine, Parameter, Shard, Tensor } from '../engine/engine.ts';
import { wholeShape } from '../model/split.ts';
import type { Ranks } from '../parallel/ranks.ts';

/** One rank's tensor, as the others know it. */
interface Described {
  name: string;
  kind: keyof SnapshotTensors;
  dtype: DType;
  /** Of the rank's part, without padding, and of the whole. */
  own: readonly number[];
  whole: readonly number[];
  shard: Shard | null;
}

/**
 * All ranks' tensors, on rank 0; null on the others. `optimizer`: the moments of the parameters that this rank answers
 * for, which are all of them on the first of the ranks that have the same, and none on the others.
 */
export function gatheredTensors(
  engine: Engine,
  ranks: Ranks,
  parameters: readonly Parameter[],
  optimizer: ReadonlyMap<string, WeightState>,
): SnapshotTensors | null {
  const { world, mesh } = ranks;
  if (mesh.tensor === 1 && mesh.pipeline === 1) {
    return world.rank === 0 ? tensorsOf(engine, { parameters, optimizer }) : null;
  }
  const own = ownTensors(ranks, parameters, optimizer);
  const described = own.map(({ tensor: _, ...rest }) => rest);
  const pieces = piecesOf(world.gather(described, 'the ranks to say what they have for a checkpoint'));
  const whole: Record<keyof SnapshotTensors, SnapshotTensor[]> = { weights: [], moments: [], averages: [] };
  const ownByKey = new Map(own.map((each) => [keyOf(each), each]));
  for (const { key, owners } of pieces) {
    const { name, kind, dtype } = owners[0]!;
    const what = `${name} for a checkpoint`;
    const mine = ownByKey.get(key) ?? null;
    if (world.rank !== 0) {
      if (mine) engine.scope(() => world.send(engine.scale(partOf(engine, mine), 1), 0, what).wait());
      continue;
    }
    const tensor = engine.scope(() => {
      const parts = owners.map(({ rank, own: shape, dtype }) => {
        if (rank === 0) return partOf(engine, mine!);
        const part = engine.zeros(shape, dtype);
        world.receive(part, rank, what).wait();
        return part;
      });
      return parts.length > 1 ? engine.concat(parts, owners[0]!.shard!.dim) : engine.scale(parts[0]!, 1);
    });
    const bytes = engine.bytes(tensor) as Uint8Array<ArrayBuffer>;
    whole[kind].push({ name, dtype, shape: owners[0]!.whole, bytes });
    tensor.dispose();
  }
  return world.rank === 0 ? whole : null;
}

/** Without the padding of a vocabulary. */
function partOf(engine: Engine, { tensor, own: [rows = 1] }: Described & { tensor: Tensor }): Tensor {
  return rows === (tensor.shape[0] ?? 1) ? tensor : engine.slice(tensor, 0, 0, rows);
}

/** What this rank gives: its stretch of what is shared out; of the rest, the first of those that have it gives it. */
function ownTensors(
  { at, leadsTensor }: Ranks,
  parameters: readonly Parameter[],
  optimizer: ReadonlyMap<string, WeightState>,
): (Described & { tensor: Tensor })[] {
  const describe = (name: string, kind: keyof SnapshotTensors, tensor: Tensor, { shard = null, rows }: Parameter) => {
    const own = tensor.shape.map((size, dim) => (dim === 0 ? (rows ?? size) : size));
    // Where a vocabulary is shared out, there is no padding.
    const whole = shard ? wholeShape({ value: tensor, shard }) : own;
    return { name, kind, dtype: tensor.dtype, own, whole, shard, tensor };
  };
  const given = parameters.filter(({ shard, twin }) => (shard || leadsTensor) && twin !== 'last');
  const weights = given.map((each) => describe(each.name, 'weights', each.main ?? each.value, each));
  const moments = given.flatMap((each) => {
    const state = optimizer.get(each.name);
    if (!state) return [];
    return [
      describe(`exp_avg.${each.name}`, 'moments', state.expAvg, each),
      describe(`exp_avg_sq.${each.name}`, 'moments', state.expAvgSq, each),
      ...(state.average ? [describe(each.name, 'averages', state.average, each)] : []),
    ];
  });
  return [...(at.data === 0 ? weights : []), ...moments];
}

/** An average has its weight's name. */
const keyOf = ({ kind, name }: Described) => `${kind} ${name}`;

interface Piece {
  key: string;
  /** In the order of their stretches. */
  owners: (Described & { rank: number })[];
}

function piecesOf(all: readonly (readonly Described[])[]): Piece[] {
  const pieces = new Map<string, Piece>();
  for (const [rank, described] of all.entries()) {
    for (const each of described) {
      const key = keyOf(each);
      const piece = pieces.get(key) ?? { key, owners: [] };
      pieces.set(key, piece);
      piece.owners.push({ ...each, rank });
    }
  }
  for (const { owners } of pieces.values()) owners.sort((a, b) => (a.shard?.start ?? 0) - (b.shard?.start ?? 0));
  return [...pieces.values()];
}
