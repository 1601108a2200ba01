/** Ranks out of environments, and the mesh that they form. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { firstNode, gpuOf, localTasks, readPlace } from '../../src/parallel/environment.ts';
import { coordinatesOf, makeMesh, meshTable, rankOf, ranksAlong } from '../../src/parallel/mesh.ts';

test('torchrun, and PyTorchJob without local ranks', () => {
  const env = {
    RANK: '3',
    WORLD_SIZE: '4',
    LOCAL_RANK: '1',
    LOCAL_WORLD_SIZE: '2',
    MASTER_ADDR: 'a',
    MASTER_PORT: '9',
  };
  const place = readPlace(env)!;
  assert.deepEqual([place.rank, place.world, place.localRank, place.localWorld], [3, 4, 1, 2]);
  assert.deepEqual([place.masterAddress, place.masterPort, place.server], ['a', 9, false]);
  // torchrun's agent keeps the store itself, and restarts under the same one.
  const agent = {
    ...env,
    RANK: '0',
    LOCAL_RANK: '0',
    TORCHELASTIC_USE_AGENT_STORE: 'True',
    TORCHELASTIC_RESTART_COUNT: '2',
  };
  assert.deepEqual([readPlace(agent)!.server, readPlace(agent)!.prefix], [false, 'neva/2/']);
  assert.equal(readPlace({ ...env, RANK: '0', LOCAL_RANK: '0' })!.server, true);
  const pod = readPlace({ RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'job-master-0', MASTER_PORT: '23456' })!;
  assert.deepEqual([pod.localRank, pod.localWorld], [0, 1]);
});

test('mpirun on one machine needs no address, on several it does', () => {
  const env = {
    OMPI_COMM_WORLD_RANK: '2',
    OMPI_COMM_WORLD_SIZE: '4',
    OMPI_COMM_WORLD_LOCAL_RANK: '2',
    OMPI_COMM_WORLD_LOCAL_SIZE: '4',
  };
  assert.equal(readPlace(env)!.masterAddress, '127.0.0.1');
  const spread = { ...env, OMPI_COMM_WORLD_LOCAL_RANK: '0', OMPI_COMM_WORLD_LOCAL_SIZE: '2' };
  assert.throws(() => readPlace(spread), /MASTER_ADDR: not set[\s\S]*mpirun: -x MASTER_ADDR/);
  assert.equal(readPlace({ ...spread, MASTER_ADDR: 'n1' })!.masterAddress, 'n1');
});

test('srun: the first node of the list; the batch script itself has no step', () => {
  const batch = { SLURM_PROCID: '0', SLURM_NTASKS: '8', SLURM_JOB_ID: '31007', SLURM_JOB_NODELIST: 'n[07-09]' };
  assert.equal(readPlace(batch), null);
  const step = {
    ...batch,
    SLURM_PROCID: '5',
    SLURM_LOCALID: '2',
    SLURM_NODEID: '1',
    SLURM_STEP_ID: '0',
    SLURM_STEP_NUM_TASKS: '8',
    SLURM_STEP_NODELIST: 'n[07-09]',
    SLURM_STEP_TASKS_PER_NODE: '3(x2),2',
  };
  const place = readPlace(step)!;
  assert.deepEqual([place.rank, place.world, place.localRank, place.localWorld], [5, 8, 2, 3]);
  assert.deepEqual([place.masterAddress, place.masterPort], ['n07', 15_000 + (31_007 % 15_000)]);
  for (const [list, first] of [
    ['solo', 'solo'],
    ['a1,b2', 'a1'],
    ['gpu-[003,007-9],x', 'gpu-003'],
  ]) {
    assert.equal(firstNode(list!), first);
  }
  assert.equal(localTasks('3(x2),2', 2), 2);
  assert.equal(localTasks('4', 1), null);
});

test('alone, and half-set variables', () => {
  assert.equal(readPlace({}), null);
  assert.equal(readPlace({ RANK: '0', WORLD_SIZE: '1' }), null);
  assert.equal(readPlace({ WORLD_SIZE: '4' }), null);
  assert.throws(() => readPlace({ RANK: 'one', WORLD_SIZE: '2' }), /^UserError: RANK: [\s\S]*found: {4}'one'/);
  assert.throws(() => readPlace({ RANK: '2', WORLD_SIZE: '2', MASTER_ADDR: 'a' }), /no such rank/);
});

test("the mesh has Megatron's order: tensor innermost, then data, then pipeline", () => {
  // The example in Megatron-LM's parallel_state.py: 16 GPUs, tensor 2, pipeline 4.
  const mesh = makeMesh(16, 2, 4);
  assert.equal(mesh.data, 2);
  assert.deepEqual(ranksAlong(mesh, 'tensor', 5), [4, 5]);
  assert.deepEqual(ranksAlong(mesh, 'data', 0), [0, 2]);
  assert.deepEqual(ranksAlong(mesh, 'data', 7), [5, 7]);
  assert.deepEqual(ranksAlong(mesh, 'pipeline', 1), [1, 5, 9, 13]);
  for (let rank = 0; rank < 16; rank++) assert.equal(rankOf(mesh, coordinatesOf(mesh, rank)), rank);
  assert.throws(() => makeMesh(6, 4, 1), /6 ranks cannot be shared out/);
  const seats = Array.from({ length: 2 }, () => ({ host: 'n1', device: 'cpu' }));
  assert.deepEqual(meshTable(makeMesh(2, 1, 1), seats).slice(-1), ['   1  n1    cpu            0         1         0']);
});

test("a rank's GPU is the one of its number, or the only one that its launcher shows it", () => {
  const place = (localRank: number, localWorld: number, launcher: 'neva' | 'Slurm') => ({
    ...readPlace({ RANK: '0', WORLD_SIZE: '4', MASTER_ADDR: 'a', MASTER_PORT: '9' })!,
    localRank,
    localWorld,
    launcher,
  });
  assert.equal(gpuOf(place(3, 4, 'neva'), 4), 3);
  assert.equal(gpuOf(place(0, 1, 'neva'), 8), 0);
  assert.equal(gpuOf(place(3, 4, 'Slurm'), 1), 0);
  assert.throws(() => gpuOf(place(1, 2, 'neva'), 1), /fewer GPUs.*\n.*at most 1[\s\S]*found: *2 ranks/);
  assert.throws(() => gpuOf(place(1, 3, 'Slurm'), 2), /fewer GPUs/);
});
