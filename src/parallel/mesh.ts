/**
 * Ranks and what they share: world = pipeline × data × tensor, in Megatron's order. Ranks of one tensor-parallel group are
 * neighbours (the fastest links), those of one pipeline are farthest apart.
 */
import { mistake } from '../errors.ts';

export interface Mesh {
  readonly world: number;
  readonly tensor: number;
  readonly pipeline: number;
  readonly data: number;
}

export type Axis = 'tensor' | 'pipeline' | 'data';

/** Position of a rank along each axis. */
export type Coordinates = Readonly<Record<Axis, number>>;

/** Throws a user error where the ranks cannot be shared out. */
export function makeMesh(world: number, tensor: number, pipeline: number): Mesh {
  if (world % (tensor * pipeline) !== 0) {
    throw mistake({
      where: 'model.tensor_model_parallel_size, model.pipeline_model_parallel_size',
      problem: `${world} ranks cannot be shared out over them`,
      expected: `a multiple of ${tensor} × ${pipeline} = ${tensor * pipeline} ranks`,
      found: `${world}`,
      fix: 'change trainer.devices or trainer.num_nodes, or the two sizes',
    });
  }
  return { world, tensor, pipeline, data: world / (tensor * pipeline) };
}

export function coordinatesOf({ tensor, data }: Mesh, rank: number): Coordinates {
  return {
    tensor: rank % tensor,
    data: Math.floor(rank / tensor) % data,
    pipeline: Math.floor(rank / (tensor * data)),
  };
}

export const rankOf = ({ tensor, data }: Mesh, at: Coordinates): number =>
  (at.pipeline * data + at.data) * tensor + at.tensor;

/** The ranks that differ from `rank` along one axis only, in order, `rank` among them. */
export function ranksAlong(mesh: Mesh, axis: Axis, rank: number): number[] {
  const at = coordinatesOf(mesh, rank);
  return Array.from({ length: mesh[axis] }, (_, i) => rankOf(mesh, { ...at, [axis]: i }));
}

export interface Seat {
  host: string;
  device: string;
}

/** One line a rank: where it runs and its coordinates. */
export function meshTable(mesh: Mesh, seats: readonly Seat[]): string[] {
  const hostWidth = Math.max(4, ...seats.map(({ host }) => host.length));
  const deviceWidth = Math.max(6, ...seats.map(({ device }) => device.length));
  const row = (...cells: [string, string, string, string, string, string]) => {
    const [rank, host, device, ...axes] = cells;
    return [
      rank.padStart(4),
      host.padEnd(hostWidth),
      device.padEnd(deviceWidth),
      ...axes.map((a) => a.padStart(8)),
    ].join('  ');
  };
  return [
    `${mesh.world} ranks = pipeline ${mesh.pipeline} × data ${mesh.data} × tensor ${mesh.tensor}`,
    row('rank', 'host', 'device', 'pipeline', 'data', 'tensor'),
    ...seats.map(({ host, device }, rank) => {
      const at = coordinatesOf(mesh, rank);
      return row(String(rank), host, device, String(at.pipeline), String(at.data), String(at.tensor));
    }),
  ];
}
