/**
 * What a checkpoint holds, where ranks have parts of it: they send them to rank 0, one tensor after the other, which puts
 * them together in host memory, as it does with its own.
 */
import { type SnapshotTensor, type SnapshotTensors, tensorsOf } from '../checkpoint/write_folder.ts';
import type { AdamWState, DType, Engine, Parameter, Shard, Tensor } from '../engine/engine.ts';
import { wholeShape } from '../model/split.ts';
import type { Ranks } from '../parallel/ranks.ts';

/** One rank's tensor, as the others know it. */
interface Described {
  name: string;
  moment: boolean;
  dtype: DType;
  /** Of the rank's part, and of the whole. */
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
  optimizer: ReadonlyMap<string, AdamWState>,
): SnapshotTensors | null {
  const { world, mesh } = ranks;
  if (mesh.tensor === 1 && mesh.pipeline === 1) {
    return world.rank === 0 ? tensorsOf(engine, { parameters, optimizer }) : null;
  }
  const own = ownTensors(ranks, parameters, optimizer);
  const described = own.map(({ tensor: _, ...rest }) => rest);
  const pieces = piecesOf(world.gather(described, 'the ranks to say what they have for a checkpoint'));
  const whole: (SnapshotTensor & { moment: boolean })[] = [];
  for (const { name, owners } of pieces) {
    const what = `${name} for a checkpoint`;
    const mine = owners.some(({ rank }) => rank === world.rank) ? own.find((each) => each.name === name)! : null;
    if (world.rank !== 0) {
      if (mine) engine.scope(() => world.send(engine.scale(mine.tensor, 1), 0, what).wait());
      continue;
    }
    const tensor = engine.scope(() => {
      const parts = owners.map(({ rank, own: shape, dtype }) => {
        if (rank === 0) return mine!.tensor;
        const part = engine.zeros(shape, dtype);
        world.receive(part, rank, what).wait();
        return part;
      });
      return parts.length > 1 ? engine.concat(parts, owners[0]!.shard!.dim) : engine.scale(parts[0]!, 1);
    });
    const { dtype, moment } = owners[0]!;
    const bytes = engine.bytes(tensor) as Uint8Array<ArrayBuffer>;
    whole.push({ name, dtype, shape: owners[0]!.whole, bytes, moment });
    tensor.dispose();
  }
  if (world.rank !== 0) return null;
  return { weights: whole.filter(({ moment }) => !moment), moments: whole.filter(({ moment }) => moment) };
}

/** What this rank gives: its stretch of what is shared out; of the rest, the first of those that have it gives it. */
function ownTensors(
  { at, leadsTensor }: Ranks,
  parameters: readonly Parameter[],
  optimizer: ReadonlyMap<string, AdamWState>,
): (Described & { tensor: Tensor })[] {
  const describe = (name: string, moment: boolean, tensor: Tensor, shard: Shard | null) => {
    const whole = wholeShape({ value: tensor, shard });
    return { name, moment, dtype: tensor.dtype, own: tensor.shape, whole, shard, tensor };
  };
  const given = parameters.filter(({ shard }) => shard || leadsTensor);
  const weights = given.map(({ name, value, main, shard }) => describe(name, false, main ?? value, shard ?? null));
  const moments = given.flatMap(({ name, shard }) => {
    const state = optimizer.get(name);
    if (!state) return [];
    return [
      describe(`exp_avg.${name}`, true, state.expAvg, shard ?? null),
      describe(`exp_avg_sq.${name}`, true, state.expAvgSq, shard ?? null),
    ];
  });
  return [...(at.data === 0 ? weights : []), ...moments];
}

interface Piece {
  name: string;
  /** In the order of their stretches. */
  owners: (Described & { rank: number })[];
}

function piecesOf(all: readonly (readonly Described[])[]): Piece[] {
  const pieces = new Map<string, Piece>();
  for (const [rank, described] of all.entries()) {
    for (const each of described) {
      const piece = pieces.get(each.name) ?? { name: each.name, owners: [] };
      pieces.set(each.name, piece);
      piece.owners.push({ ...each, rank });
    }
  }
  for (const { owners } of pieces.values()) owners.sort((a, b) => (a.shard?.start ?? 0) - (b.shard?.start ?? 0));
  return [...pieces.values()];
}
