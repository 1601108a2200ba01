/** A training verb on several ranks: starting them, joining the others as one of them, and telling the launcher of failures. */
import { fileURLToPath } from 'node:url';
import type { NevaConfig } from '../config/index.ts';
import type { EngineChoice } from '../engine/open.ts';
import { mistake } from '../errors.ts';
import { gpuOf, type Place, readPlace } from '../parallel/environment.ts';
import type { Group } from '../parallel/group.ts';
import type { RankFailure, RankNews } from '../parallel/launch.ts';

type Trainer = NevaConfig['trainer'];

/** What every rank is started with: this node, and neva as compiled beside this file. */
export const rankCommand = (args: readonly string[]): readonly [string, ...string[]] => [
  process.execPath,
  fileURLToPath(new URL('./entry.js', import.meta.url)),
  ...args,
];

/**
 * This process's place among the ranks, as its environment has it; null when it stands alone. Throws a user error where the
 * configuration asks for another number of ranks.
 */
export function ownPlace({ devices, num_nodes: nodes }: Trainer): Place | null {
  const place = readPlace(process.env);
  const asked = Math.max(devices, 1) * nodes;
  if (place !== null && devices > 0 && asked !== 1 && asked !== place.world) {
    throw mistake({
      where: 'trainer.devices, trainer.num_nodes',
      problem: `they ask for another number of ranks than ${place.launcher} has started`,
      expected: `${place.world} in all, or 1 × 1, which leaves it to ${place.launcher}`,
      found: `${devices} × ${nodes} = ${asked}`,
    });
  }
  if (place === null && nodes > 1) {
    throw mistake({
      where: 'trainer.num_nodes',
      problem: `${nodes} machines are asked for, and nothing has started ranks on them`,
      expected: 'variables of torchrun, srun or mpirun',
      fix: `run on every machine: neva launch --nproc ${Math.max(devices, 1)} --nnodes ${nodes} --node-rank R --rdzv HOST:PORT VERB …`,
    });
  }
  return place;
}

/** A verb's words with which ranks that are started again go on in the same run folder, whatever the words say of it. */
export const goingOn = (folder: string | null, [verb, ...rest]: readonly string[]): string[] => [
  verb!,
  ...rest,
  ...(folder === null ? [] : ['--job-folder', folder]),
];

/** This process is one that a launcher of ours has started. */
export const isLaunched = (): boolean => process.env.NEVA_LAUNCHED !== undefined;

/** `trainer.devices=N`: this command line once a rank. Returns the exit code of the whole. */
export async function launchRanks(
  {
    devices,
    failure_timeout: failureTimeout,
    max_restarts: maxRestarts,
  }: Pick<Trainer, 'devices' | 'failure_timeout' | 'max_restarts'>,
  args: readonly string[],
  say: (line: string) => void,
): Promise<number> {
  const { launch } = await import('../parallel/launch.ts');
  const { coresOfRanks } = await import('../parallel/numa.ts');
  return launch({
    command: (folder) => rankCommand(goingOn(folder, args)),
    processes: devices,
    nodes: 1,
    nodeRank: 0,
    master: null,
    failureTimeout,
    maxRestarts,
    cores: coresOfRanks(devices, say),
    env: process.env,
    say,
  });
}

/** Joins the other ranks. */
export async function joinRanks(place: Place | null, trainer: Trainer): Promise<Group> {
  const { ALONE, joinGroup } = await import('../parallel/group.ts');
  tellNews({ maxRestarts: trainer.max_restarts });
  endWithLauncher();
  if (place === null) return ALONE;
  if (trainer.engine === 'tfjs') {
    throw mistake({
      where: 'trainer.engine',
      problem: `the TensorFlow.js engine runs in one process, and this is one of ${place.world} ranks`,
      fix: 'run `neva setup` and set trainer.engine=torch',
    });
  }
  return joinGroup(place, trainer.collective_timeout, process.env, await ownGpu(place, trainer));
}

/** The GPU of this rank; null where ranks compute on the CPU. */
export async function ownGpu(place: Place, trainer: EngineChoice): Promise<number | null> {
  const { computesOnGpu } = await import('../engine/open.ts');
  const { loadNative } = await import('../engine/torch/native.ts');
  if (!(await computesOnGpu(trainer))) return null;
  const { gpus, nccl } = loadNative().versions();
  if (!nccl) {
    throw mistake({
      where: 'trainer.devices',
      problem: 'ranks on GPUs talk through NCCL, which this addon was built without: its headers were not found',
      expected: "nccl.h and cuda_runtime_api.h, in NVIDIA's packages beside torch's, CUDA_HOME or NCCL_HOME",
      fix: 'install them (with pip: the nvidia-nccl and nvidia-cuda-runtime packages that this torch names), then run `neva setup`; or trainer.accelerator=cpu',
    });
  }
  return gpuOf(place, gpus);
}

/** trainer.devices, with -1 as every GPU of this machine. */
export async function ranksHere(trainer: Trainer): Promise<number> {
  if (trainer.devices > 0) return trainer.devices;
  const { chooseEngine, computesOnGpu } = await import('../engine/open.ts');
  const { loadNative } = await import('../engine/torch/native.ts');
  const gpus = (await computesOnGpu(await chooseEngine(trainer, () => {}))) ? loadNative().versions().gpus : 0;
  if (gpus > 0) return gpus;
  throw mistake({
    where: 'trainer.devices',
    problem: 'it takes every GPU, and this run computes on none',
    expected: 'a number of processes, or a GPU',
    found: String(trainer.devices),
    fix: 'set trainer.devices=1',
  });
}

/** A launcher that is gone cannot end its ranks: they end by themselves, at the next turn of the event loop. */
export function endWithLauncher(): void {
  if (!isLaunched() || !process.channel) return;
  process.once('disconnect', () => {
    console.error('neva: the launcher of this rank is gone');
    process.exit(1);
  });
  process.channel.unref();
}

export function tellNews(news: RankNews): void {
  if (isLaunched() && process.send && process.connected) process.send(news);
}

/**
 * Leaves it to the launcher to tell this failure, once for all ranks; false when there is no launcher of ours.
 * @param lost another rank is the cause
 * @param named and the text says which
 */
export function tellLauncher(failed: string, lost: boolean, named = false): boolean {
  if (!isLaunched() || !process.send || !process.connected) return false;
  const message: RankFailure = { failed, lost, named };
  return process.send(message);
}
