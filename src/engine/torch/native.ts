/** The addon as TypeScript sees it (native/addon.cpp holds the same table), and the one place that loads it. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { UserError } from '../../errors.ts';
import { addonPath } from './build.ts';
import { findLibtorch } from './libtorch.ts';

/** A tensor's number in the addon's table. */
export type Handle = number;

export interface Native {
  findOperator(name: string): number;
  operatorSchema(operator: number): string;
  call(operator: number, ...args: unknown[]): unknown;

  fromBytes(data: ArrayBufferView | ArrayBuffer, shape: readonly number[], dtype: string): Handle;
  fromFile(path: string, offset: number, shape: readonly number[], dtype: string): Handle;
  readBytes(tensor: Handle): ArrayBuffer;
  item(tensor: Handle): number;
  shape(tensor: Handle): number[];
  dtype(tensor: Handle): string;
  device(tensor: Handle): string;
  free(tensor: Handle): void;
  liveTensors(): number;

  detach(tensor: Handle): Handle;
  setRequiresGrad(tensor: Handle, value: boolean): void;
  requiresGrad(tensor: Handle): boolean;
  setGradEnabled(enabled: boolean): boolean;
  /** Dense, and no other tensor shares its memory. */
  ownsMemory(tensor: Handle): boolean;
  gradients(outputs: Handle[], gradOutputs: (Handle | null)[], inputs: Handle[]): (Handle | null)[];

  /** What `neva::flash_attention` takes on this processor. */
  flashDtypes(): string[];

  /** `cuda`: a GPU can be computed on; `gpus`: how many; `nccl`: ranks on GPUs can talk to one another. */
  versions(): { torch: string; cuda: boolean; gpus: number; nccl: boolean; cpuCapability: string };
  /** The GPU that this process computes on, from 0. */
  setGpu(index: number): void;
  setThreads(count: number): void;
  /** Float32 products of a GPU in TF32 (10 bits of mantissa), convolutions included. */
  setTf32(on: boolean): void;
  threads(): number;
  manualSeed(seed: number): void;
  rngState(): ArrayBuffer;
  setRngState(state: Uint8Array): void;

  // Process groups; see native/distributed.h. A `Work` number is spent by `waitWork`.
  openGroup(
    host: string,
    port: number,
    rank: number,
    size: number,
    timeoutMs: number,
    server: boolean,
    prefix: string,
    address: string,
    networkInterface: string,
    who: string,
    gpu: number,
    name: string,
  ): number;
  closeGroup(group: number): void;
  allReduce(group: number, tensors: Handle[]): number;
  broadcast(group: number, tensor: Handle, root: number): number;
  allGather(group: number, input: Handle, output: Handle): number;
  reduceScatter(group: number, input: Handle, output: Handle): number;
  send(group: number, tensor: Handle, rank: number, tag: number): number;
  receive(group: number, tensor: Handle, rank: number, tag: number): number;
  barrier(group: number): number;
  /** Messages and bytes of each kind, in turn. */
  traffic(group: number): number[];
  workDone(work: number): boolean;
  /** `what` is waited for. */
  waitWork(work: number, what: string): void;
  /** Of all messages of the group so far: ranks whose digests differ have parted. */
  digest(group: number): number;
  /** What the run is at: other ranks can see it. */
  moment(text: string): void;
  /** What keeps the other ranks, as far as it can be known; '' where it cannot. Takes some seconds. */
  others(): string;

  // Collectives that can be differentiated; see native/tensor_parallel.h.
  tpEnter(group: number, x: Handle): Handle;
  tpLeave(group: number, x: Handle): Handle;
  tpGatherRows(group: number, own: Handle, rows: number): Handle;
  tpScatterRows(group: number, summands: Handle): Handle;
  tpCrossEntropy(group: number, logits: Handle, targets: Handle, first: number): Handle;

  memory(): { bytes: number; peakBytes: number; cachedBytes: number };
  /** Of the GPU that this process computes on; null where there is none, or LibTorch does not tell. */
  deviceMemory(): { bytes: number; peakBytes: number } | null;
  resetPeakMemory(): void;
}

let loaded: Native | null = null;

/** Loads the built addon, once a process. Throws a user error with the command that builds it when it is not there. */
export function loadNative(): Native {
  if (loaded) return loaded;
  const { libtorch } = findLibtorch();
  const path = libtorch && addonPath(libtorch);
  if (!path || !existsSync(path)) {
    throw new UserError(
      `the torch engine is not built yet (${path ? `${path} is missing` : 'LibTorch was not found'}); run: npx neva setup`,
    );
  }
  loaded = createRequire(import.meta.url)(path) as Native;
  return loaded;
}

/** The addon, after `loadNative`. */
export function native(): Native {
  return loaded ?? loadNative();
}
