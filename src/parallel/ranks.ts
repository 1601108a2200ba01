/** The groups that a rank belongs to: one for each way in which the work is shared out. */
import { ALONE, type Group, subgroup } from './group.ts';
import { type Coordinates, coordinatesOf, type Mesh, rankOf, ranksAlong } from './mesh.ts';
import type { PipelineGroups } from './pipeline.ts';

export interface Ranks {
  readonly mesh: Mesh;
  readonly at: Coordinates;
  /** All of them. */
  readonly world: Group;
  /** Those that have the same part of the model, on other records. */
  readonly data: Group;
  /** Those that share this one's layers. */
  readonly tensor: Group;
  /** Both: all that have this stage of the pipeline. Its rank 0 has data and tensor rank 0. */
  readonly stage: Group;
  /** Those that have the same records and tensor rank on the other stages. */
  readonly pipeline: PipelineGroups;
  /** First and last stages of all pipelines with this tensor rank; null on stages between, and where one stage is both. */
  readonly ends: Group | null;
  readonly leadsTensor: boolean;
  /** One rank of those that have the same records answers for their figures. */
  readonly answers: boolean;
  /** And one for their loss, which is made on the last stage. */
  readonly answersLoss: boolean;
}

/** Every rank of the world calls it at the same time. */
export function openRanks(world: Group, mesh: Mesh): Ranks {
  const at = coordinatesOf(mesh, world.rank);
  const tensor = subgroup(world, ranksAlong(mesh, 'tensor', world.rank), 'tensor');
  const data = subgroup(world, ranksAlong(mesh, 'data', world.rank), 'data');
  const each = mesh.data * mesh.tensor;
  const first = at.pipeline * each;
  const stage = subgroup(
    world,
    Array.from({ length: each }, (_, i) => first + i),
    'stage',
  );
  const along = ranksAlong(mesh, 'pipeline', world.rank);
  const last = mesh.pipeline - 1;
  const ends = [...new Set([0, last])].flatMap((pipeline) =>
    Array.from({ length: mesh.data }, (_, i) => rankOf(mesh, { tensor: at.tensor, data: i, pipeline })),
  );
  return {
    mesh,
    at,
    world,
    data,
    tensor,
    stage,
    pipeline: { down: subgroup(world, along, 'down', true), up: subgroup(world, along, 'up', true) },
    ends: last > 0 && (at.pipeline === 0 || at.pipeline === last) ? subgroup(world, ends, 'ends') : null,
    leadsTensor: at.tensor === 0,
    answers: at.tensor === 0 && at.pipeline === 0,
    answersLoss: at.tensor === 0 && at.pipeline === last,
  };
}

/** A process by itself. */
export const SINGLE: Ranks = openRanks(ALONE, { world: 1, tensor: 1, pipeline: 1, data: 1 });
