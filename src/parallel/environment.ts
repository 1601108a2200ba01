/** Which rank this process is, from the variables that whatever started it has set. */
import { createSocket } from 'node:dgram';
import { isIP } from 'node:net';
import { mistake } from '../errors.ts';

export type Variables = Readonly<Record<string, string | undefined>>;

/** One process among those of a run. */
export interface Place {
  rank: number;
  world: number;
  /** Rank among the processes of this machine: which of its devices is ours. */
  localRank: number;
  localWorld: number;
  /** Where rank 0 keeps the store by which ranks find one another. */
  masterAddress: string;
  masterPort: number;
  /** This process opens the store: rank 0, unless the launcher keeps one of its own there. */
  server: boolean;
  /** Keys in the store begin with this: restarts under one store must not meet the keys of the run before. */
  prefix: string;
  /** Who started us, for messages. */
  launcher: 'neva' | 'torchrun' | 'Slurm' | 'Open MPI';
}

/**
 * The place that the environment gives this process; null where it stands alone.
 *
 * Read, the first that is there: `RANK` and `WORLD_SIZE` (neva launch, torchrun, Kubeflow's PyTorchJob),
 * `OMPI_COMM_WORLD_*` (mpirun), `SLURM_PROCID` of a job step (srun). Half-set variables are a user error.
 */
export function readPlace(env: Variables): Place | null {
  const place = fromTorchrun(env) ?? fromOpenMpi(env) ?? fromSlurm(env);
  if (place === null || place.world === 1) return null;
  if (place.rank >= place.world || place.localRank >= place.localWorld) {
    throw mistake({
      where: `${place.launcher}'s variables`,
      problem: 'there is no such rank',
      expected: `a rank below ${place.world} and a local rank below ${place.localWorld}`,
      found: `rank ${place.rank}, local rank ${place.localRank}`,
    });
  }
  return place;
}

/**
 * Which of this machine's GPUs is the rank's: number LOCAL_RANK of those that it sees (`visible`), or the only one, where srun or
 * mpirun have given each rank one of its own.
 */
export function gpuOf({ localRank, localWorld, launcher }: Place, visible: number): number {
  if (localWorld <= visible) return localRank;
  if (visible === 1 && (launcher === 'Slurm' || launcher === 'Open MPI')) return 0;
  throw mistake({
    where: 'trainer.devices',
    problem: 'there are fewer GPUs on this machine than ranks; each computes on one of its own',
    expected: `at most ${visible} (CUDA_VISIBLE_DEVICES counts)`,
    found: `${localWorld} ranks`,
    fix: 'start fewer, or compute on the CPU: trainer.accelerator=cpu',
  });
}

function fromTorchrun(env: Variables): Place | null {
  if (env.RANK === undefined || env.WORLD_SIZE === undefined) return null;
  const world = count(env, 'WORLD_SIZE');
  const rank = count(env, 'RANK');
  const agent = env.TORCHELASTIC_USE_AGENT_STORE === 'True';
  return {
    rank,
    world,
    // PyTorchJob's pods hold one process each, and say nothing of local ranks.
    localRank: count(env, 'LOCAL_RANK', 0),
    localWorld: count(env, 'LOCAL_WORLD_SIZE', count(env, 'LOCAL_RANK', 0) + 1),
    ...master(env, world, null),
    server: rank === 0 && !agent,
    prefix: `neva/${env.TORCHELASTIC_RESTART_COUNT ?? '0'}/`,
    launcher: env.NEVA_LAUNCHED === undefined ? 'torchrun' : 'neva',
  };
}

function fromOpenMpi(env: Variables): Place | null {
  if (env.OMPI_COMM_WORLD_RANK === undefined) return null;
  const world = count(env, 'OMPI_COMM_WORLD_SIZE');
  const rank = count(env, 'OMPI_COMM_WORLD_RANK');
  const localWorld = count(env, 'OMPI_COMM_WORLD_LOCAL_SIZE', world);
  return {
    rank,
    world,
    localRank: count(env, 'OMPI_COMM_WORLD_LOCAL_RANK', rank),
    localWorld,
    ...master(env, world, localWorld === world ? { address: '127.0.0.1', port: 29500 } : null),
    server: rank === 0,
    prefix: 'neva/0/',
    launcher: 'Open MPI',
  };
}

function fromSlurm(env: Variables): Place | null {
  // The batch script itself has a SLURM_PROCID too; only what srun started has a step of several tasks.
  if (env.SLURM_PROCID === undefined || env.SLURM_STEP_NUM_TASKS === undefined) return null;
  const world = count(env, 'SLURM_STEP_NUM_TASKS');
  const rank = count(env, 'SLURM_PROCID');
  const nodes = env.SLURM_STEP_NODELIST ?? env.SLURM_JOB_NODELIST ?? '';
  const job = count(env, 'SLURM_JOB_ID', 0) + count(env, 'SLURM_STEP_ID', 0);
  const first = firstNode(nodes);
  return {
    rank,
    world,
    localRank: count(env, 'SLURM_LOCALID'),
    localWorld: localTasks(env.SLURM_STEP_TASKS_PER_NODE, count(env, 'SLURM_NODEID', 0)) ?? world,
    // Two jobs on one node must not take the same port.
    ...master(env, world, first === '' ? null : { address: first, port: 15_000 + (job % 15_000) }),
    server: rank === 0,
    prefix: 'neva/0/',
    launcher: 'Slurm',
  };
}

function count(env: Variables, name: string, otherwise?: number): number {
  const text = env[name];
  if (text === undefined && otherwise !== undefined) return otherwise;
  if (text !== undefined && /^\d+$/.test(text)) return Number(text);
  throw mistake({
    where: name,
    problem: 'this environment variable says no rank or number of ranks',
    expected: 'a whole number',
    found: text === undefined ? 'not set' : `'${text}'`,
    fix: 'start with `neva launch`, torchrun, srun or mpirun, or unset RANK and WORLD_SIZE for a single process',
  });
}

function master(env: Variables, world: number, otherwise: { address: string; port: number } | null) {
  const { MASTER_ADDR, MASTER_PORT } = env;
  if (MASTER_ADDR === undefined && otherwise === null && world > 1) {
    throw mistake({
      where: 'MASTER_ADDR',
      problem: 'not set: the ranks cannot find one another',
      expected: 'the address of the machine of rank 0, the same on every rank',
      fix: 'set MASTER_ADDR and MASTER_PORT (mpirun: -x MASTER_ADDR -x MASTER_PORT)',
    });
  }
  return {
    masterAddress: MASTER_ADDR ?? otherwise?.address ?? '127.0.0.1',
    masterPort: MASTER_PORT === undefined ? (otherwise?.port ?? 29500) : count(env, 'MASTER_PORT'),
  };
}

/** The first host of Slurm's short form: `node[03-05,9],other` is node03. */
export function firstNode(list: string): string {
  const [, name = '', ranges] = /^([^[,]*)(?:\[([^\]]*)\])?/.exec(list) ?? [];
  return `${name}${/^\d+/.exec(ranges ?? '')?.[0] ?? ''}`;
}

/** Tasks on node number `node`, out of Slurm's short form `2(x3),1`. */
export function localTasks(list: string | undefined, node: number): number | null {
  let at = 0;
  for (const part of list?.split(',') ?? []) {
    const [, tasks, times] = /^(\d+)(?:\(x(\d+)\))?$/.exec(part) ?? [];
    if (tasks === undefined) return null;
    at += Number(times ?? 1);
    if (node < at) return Number(tasks);
  }
  return null;
}

/**
 * This machine's address as others on the way to `host` see it: what Gloo must listen on. The name of a machine often
 * stands for 127.0.1.1, which no other machine reaches.
 */
export function addressTowards(host: string, port: number): Promise<string> {
  if (host === 'localhost' || host === '127.0.0.1' || host === '::1') return Promise.resolve('127.0.0.1');
  // Connecting a datagram socket sends nothing; it only makes the kernel choose a route.
  const socket = createSocket(isIP(host) === 6 ? 'udp6' : 'udp4');
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => {
      socket.close();
      reject(
        mistake({
          where: 'MASTER_ADDR',
          problem: `there is no way to the machine of rank 0 (${error.message})`,
          expected: 'a name or address that this machine can reach',
          found: host,
        }),
      );
    };
    socket.once('error', fail);
    socket.connect(port, host, () => {
      const { address } = socket.address();
      socket.close();
      resolve(address);
    });
  });
}
