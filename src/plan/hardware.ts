/** What machines can do, from their makers' data sheets, and how much of it training gets, fitted to published runs (docs/scaling.md). */
import { cpus } from 'node:os';
import { mistake } from '../errors.ts';
import type { Setting } from './setting.ts';

export interface Hardware {
  name: string;
  /** FLOP/s of dense matrix products. */
  peak: { [precision in Setting['precision']]: number };
  /** Bytes of one device; null where the machine's own memory is meant. */
  memory: number | null;
  /** Bytes that driver, libraries and allocator take for themselves. */
  reserved: number;
  /** Bytes/s between device and its memory. */
  memoryBandwidth: number;
  /** Bytes/s that a rank sends to another of its machine, and to another machine. */
  link: number;
  network: number;
  /** Share of the peak that long products reach, and positions a micro batch at which half of that is reached. */
  share: number;
  halfRows: number;
}

const GB = 1e9;
const T = 1e12;
const GPU = { reserved: 1.5 * GB } as const;

/** SXM cards; links: half of NVLink's two-way figure; network: one InfiniBand card a GPU, 200 or 400 Gb/s. */
const A100: Hardware = {
  ...GPU,
  name: 'a100',
  peak: { bf16: 312 * T, '16': 312 * T, tf32: 156 * T, '32': 19.5 * T },
  memory: 80 * GB,
  memoryBandwidth: 2.039 * T,
  link: 300 * GB,
  network: 25 * GB,
  share: 0.795,
  halfRows: 2500,
};
const H100: Hardware = {
  ...GPU,
  name: 'h100',
  peak: { bf16: 989 * T, '16': 989 * T, tf32: 494 * T, '32': 67 * T },
  memory: 80 * GB,
  memoryBandwidth: 3.35 * T,
  link: 450 * GB,
  network: 50 * GB,
  share: 0.57,
  halfRows: 3050,
};

const TABLE: readonly Hardware[] = [A100, H100, { ...H100, name: 'h200', memory: 141 * GB, memoryBandwidth: 4.8 * T }];

export const HARDWARE_NAMES: readonly string[] = ['cpu', ...TABLE.map(({ name }) => name)];

/** FLOP/s of a card that calls itself `device` (nvidia-smi's name); null where the table does not know it. */
export function peakOf(device: string, precision: Setting['precision']): number | null {
  const words = device.toLowerCase().split(/[^a-z0-9]+/);
  return TABLE.find(({ name }) => words.includes(name))?.peak[precision] ?? null;
}

export function hardwareOf(name: string, peak: number | null): Hardware {
  const found = name === 'cpu' ? thisCpu() : TABLE.find((each) => each.name === name);
  if (!found) {
    throw mistake({
      where: '--hardware',
      problem: 'there is no such entry',
      expected: HARDWARE_NAMES.join(', '),
      found: name,
      fix: 'take the nearest, with --peak-tflops and --memory-gb of yours',
    });
  }
  return peak === null ? found : { ...found, peak: { '32': peak, tf32: peak, bf16: peak, '16': peak } };
}

/** Rough: this machine's cores at 100 GFLOP/s each in float32 and twice that in bfloat16, which fits bench/step on one with AVX-512. */
function thisCpu(): Hardware {
  const cores = cpus().length;
  const float32 = 100 * GB * cores;
  return {
    name: 'cpu',
    peak: { '32': float32, tf32: float32, bf16: 2 * float32, '16': float32 },
    memory: null,
    reserved: 0.25 * GB,
    memoryBandwidth: 20 * GB,
    link: 1 * GB,
    network: 1 * GB,
    share: 0.7,
    halfRows: 0,
  };
}
