/** Two models tensor by tensor, whatever layouts they are in: `neva checkpoint diff`. */
import type { DType } from '../engine/engine.ts';
import { widen } from './cast.ts';
import { addTower, openWhole } from './parts.ts';
import { readTensor } from './pieces.ts';
import { bytesPerElement, type TensorEntry } from './safetensors.ts';

export interface TensorDifference {
  name: string;
  /** Of the first model and of the second; null where it has no such tensor. */
  a: { dtype: DType; shape: readonly number[] } | null;
  b: { dtype: DType; shape: readonly number[] } | null;
  /** Of the values, where both have it in one shape. */
  values: {
    /** Elements that are not the same number; not-a-number is the same as itself. */
    differing: number;
    elements: number;
    largest: number;
    mean: number;
  } | null;
}

export interface ModelDifference {
  /** Every tensor of both is there in the other, with the same type, shape and bits. */
  same: boolean;
  /** Tensors that are the same bit for bit. */
  identical: number;
  differences: TensorDifference[];
}

/** Compares all that both have or refer to. Memory: the largest tensor of each. */
export function diffModels(a: string, b: string): ModelDifference {
  const [first, second] = [entriesOf(a), entriesOf(b)];
  const names = [...new Set([...first.keys(), ...second.keys()])].sort();
  const differences = names.flatMap((name) => compare(name, first.get(name), second.get(name)) ?? []);
  return { same: differences.length === 0, identical: names.length - differences.length, differences };
}

function entriesOf(path: string): ReadonlyMap<string, TensorEntry> {
  const whole = openWhole(path);
  if (whole.config?.kind === 'llava') addTowerIfThere(whole);
  return new Map(Object.values(whole.parts).flatMap((weights) => [...weights.entries]));
}

/** A tower that is only named, and not on this machine, belongs to neither side. */
function addTowerIfThere(whole: Parameters<typeof addTower>[0]): void {
  try {
    addTower(whole, null);
  } catch {}
}

function compare(name: string, a: TensorEntry | undefined, b: TensorEntry | undefined): TensorDifference | null {
  const about = (entry: TensorEntry | undefined) => entry && { dtype: entry.dtype, shape: entry.shape };
  const difference = { name, a: about(a) ?? null, b: about(b) ?? null };
  if (!a || !b || a.shape.join() !== b.shape.join()) return { ...difference, values: null };
  const [x, y] = [readTensor(a), readTensor(b)];
  if (a.dtype === b.dtype && Buffer.compare(x, y) === 0) return null;
  return { ...difference, values: compareValues(x, a.dtype, y, b.dtype) };
}

/** Elements at a time: 16-bit types are widened, which is exact. */
const PART = 1 << 20;

function compareValues(x: Uint8Array, xType: DType, y: Uint8Array, yType: DType): TensorDifference['values'] {
  const [xSize, ySize] = [bytesPerElement(xType), bytesPerElement(yType)];
  const elements = x.length / xSize;
  let [differing, largest, total] = [0, 0, 0];
  for (let from = 0; from < elements; from += PART) {
    const to = Math.min(elements, from + PART);
    const p = widen(x.subarray(from * xSize, to * xSize), xType);
    const q = widen(y.subarray(from * ySize, to * ySize), yType);
    for (let i = 0; i < p.length; i++) {
      const [u, v] = [Number(p[i]), Number(q[i])];
      if (u === v || (Number.isNaN(u) && Number.isNaN(v))) continue;
      differing++;
      const distance = Math.abs(u - v);
      largest = distance > largest || Number.isNaN(distance) ? distance : largest;
      total += distance;
    }
  }
  return { differing, elements, largest, mean: total / elements };
}
