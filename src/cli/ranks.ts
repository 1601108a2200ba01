/** A training verb on several ranks: starting them, joining the others as one of them, and telling the launcher of failures. */
import { fileURLToPath } from 'node:url';
import type { NevaConfig } from '../config/index.ts';
import { mistake } from '../errors.ts';
import { type Place, readPlace } from '../parallel/environment.ts';
import type { Group } from '../parallel/group.ts';
import type { RankFailure } from '../parallel/launch.ts';

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
  if (place !== null && asked !== 1 && asked !== place.world) {
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

/** `trainer.devices=N`: this command line once a rank. Returns the exit code of the whole. */
export async function launchRanks(
  { devices, failure_timeout: failureTimeout }: Trainer,
  args: readonly string[],
  say: (line: string) => void,
): Promise<number> {
  const { launch } = await import('../parallel/launch.ts');
  return launch({
    command: rankCommand(args),
    processes: devices,
    nodes: 1,
    nodeRank: 0,
    master: null,
    failureTimeout,
    env: process.env,
    say,
  });
}

/** Joins the other ranks. */
export async function joinRanks(place: Place | null, trainer: Trainer): Promise<Group> {
  const { ALONE, joinGroup } = await import('../parallel/group.ts');
  if (place === null) return ALONE;
  const { loadNative } = await import('../engine/torch/native.ts');
  if (trainer.engine === 'tfjs') {
    throw mistake({
      where: 'trainer.engine',
      problem: `the TensorFlow.js engine runs in one process, and this is one of ${place.world} ranks`,
      fix: 'run `neva setup` and set trainer.engine=torch',
    });
  }
  if (loadNative().versions().cuda && trainer.accelerator !== 'cpu') {
    throw mistake({
      where: 'trainer.devices',
      problem: 'several ranks compute on CPUs alone: collectives between GPUs (NCCL) are not built yet',
      expected: 'trainer.devices=1, or trainer.accelerator=cpu',
      found: `${place.world} ranks`,
    });
  }
  endWithLauncher();
  return joinGroup(place, trainer.collective_timeout, process.env);
}

/** A launcher that is gone cannot end its ranks: they end by themselves, at the next turn of the event loop. */
function endWithLauncher(): void {
  if (process.env.NEVA_LAUNCHED === undefined || !process.channel) return;
  process.once('disconnect', () => {
    console.error('neva: the launcher of this rank is gone');
    process.exit(1);
  });
  process.channel.unref();
}

/** Leaves it to the launcher to tell this failure, once for all ranks; false when there is no launcher of ours. */
export function tellLauncher(failed: string, error: unknown): boolean {
  if (process.env.NEVA_LAUNCHED === undefined || !process.send || !process.connected) return false;
  const message: RankFailure = { failed, lost: error instanceof Error && error.name === 'LostRanks' };
  return process.send(message);
}
