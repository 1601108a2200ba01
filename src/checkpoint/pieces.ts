/**
 * Tensors that are no single run of bytes in a file: strided, compressed, or put together from parts of others (NeMo's fused
 * and sharded weights). A view is what a strided torch tensor is, over a file; a piece says where a view's elements go.
 */

import type { DType } from '../engine/engine.ts';
import { mistake } from '../errors.ts';
import { byteLength, bytesPerElement, inParts, PART, type TensorEntry } from './safetensors.ts';
import { type Region, readParts, readRegion } from './zip.ts';

/** Elements of a region: `start` and `strides` count elements. */
export interface View {
  region: Region;
  dtype: DType;
  start: number;
  shape: readonly number[];
  strides: readonly number[];
}

/** Where a view goes: element `start` and `strides` of the result, for each of the view's dimensions. */
export interface Piece {
  view: View;
  start: number;
  strides: readonly number[];
}

/** Strides of a contiguous tensor, in elements. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = shape.map(() => 1);
  for (let d = shape.length - 2; d >= 0; d--) strides[d] = strides[d + 1]! * shape[d + 1]!;
  return strides;
}

/** The view that is all of an entry. Of one that has several pieces, what is asked for is put together in memory. */
export function viewOf(entry: TensorEntry): View {
  const { file, offset, nbytes, dtype, shape, pieces } = entry;
  const [only, second] = pieces ?? [];
  if (only && !second && only.view.shape.join() === shape.join()) return only.view;
  const made = (from: number, length: number) => readRange(entry, from, length);
  const region = pieces ? { file, offset: 0, nbytes, made } : { file, offset, nbytes };
  return { region, dtype, start: 0, shape, strides: contiguousStrides(shape) };
}

/** Whether the region's bytes are those of the file. */
const isDirect = ({ deflated, made }: Region): boolean => deflated === undefined && made === undefined;

/** `size` elements of dimension `dim` from `start` on. */
export function narrow(view: View, dim: number, start: number, size: number): View {
  return {
    ...view,
    start: view.start + start * view.strides[dim]!,
    shape: view.shape.map((s, d) => (d === dim ? size : s)),
  };
}

/** Dimension `dim` as several, whose product it is. */
export function unflatten(view: View, dim: number, sizes: readonly number[]): View {
  const steps = contiguousStrides(sizes).map((stride) => stride * view.strides[dim]!);
  return { ...view, shape: view.shape.toSpliced(dim, 1, ...sizes), strides: view.strides.toSpliced(dim, 1, ...steps) };
}

export function isContiguous({ shape, strides }: View): boolean {
  const expected = contiguousStrides(shape);
  return shape.includes(0) || shape.every((size, d) => size === 1 || strides[d] === expected[d]);
}

/**
 * A tensor of `shape` made of views. `block` is the shape in which they are placed, of the same number of elements; what no
 * view covers is zero. A single contiguous, uncompressed view that is all of it stays a run of its file, and is mapped.
 */
export function assemble(
  name: string,
  shape: readonly number[],
  block: readonly number[],
  placed: readonly { view: View; at: readonly number[] }[],
): TensorEntry {
  const [first] = placed;
  if (!first) throw new Error(`${name} is made of nothing`);
  const { dtype, region, start } = first.view;
  const unit = bytesPerElement(dtype);
  const entry = { name, file: region.file, dtype, shape, offset: region.offset, nbytes: byteLength(shape, dtype) };
  const whole = placed.length === 1 && first.view.shape.join() === block.join();
  if (whole && isContiguous(first.view) && isDirect(region)) {
    return { ...entry, offset: region.offset + start * unit };
  }
  const strides = contiguousStrides(block);
  const pieces = placed.map(({ view, at }) => {
    if (view.dtype !== dtype) {
      throw mistake({ where: name, problem: 'its parts have different types', expected: dtype, found: view.dtype });
    }
    return { view, start: at.reduce((sum, index, d) => sum + index * strides[d]!, 0), strides };
  });
  return { ...entry, pieces };
}

/** A tensor of bytes that are at hand and in no file. */
export function madeEntry(name: string, dtype: DType, shape: readonly number[], bytes: Uint8Array): TensorEntry {
  const region = {
    file: '',
    offset: 0,
    nbytes: bytes.length,
    made: (from: number, length: number) => bytes.subarray(from, from + length),
  };
  const strides = contiguousStrides(shape);
  return assemble(name, shape, shape, [{ view: { region, dtype, start: 0, shape, strides }, at: shape.map(() => 0) }]);
}

/** A tensor's bytes, contiguous and little-endian. Memory: the tensor, and the largest region that must be inflated or sorted. */
export function readTensor(entry: TensorEntry): Uint8Array {
  const { file, offset, nbytes } = entry;
  if (!entry.pieces) return readRegion({ file, offset, nbytes }, file, Number.POSITIVE_INFINITY);
  const target = new Uint8Array(nbytes);
  for (const piece of entry.pieces) copyPiece(piece, target);
  return target;
}

/** A tensor's bytes a part at a time, through a buffer that is used again: memory does not grow with the tensor. */
export function streamTensor(entry: TensorEntry, take: (part: Uint8Array) => void, size = PART): void {
  const { file, offset, nbytes, dtype, pieces } = entry;
  if (!pieces) {
    readParts({ file, offset, nbytes }, size, take);
    return;
  }
  const row = pieces[0]!.strides[0];
  if (!row || pieces.some(({ view }) => view.region.deflated !== undefined)) inParts(readTensor(entry), size, take);
  else {
    const rowBytes = row * bytesPerElement(dtype);
    const [rows, step] = [nbytes / rowBytes, Math.max(1, Math.floor(size / rowBytes))];
    const part = new Uint8Array(Math.min(rows, step) * rowBytes);
    for (let from = 0; from < rows; from += step) {
      const slab = part.subarray(0, Math.min(step, rows - from) * rowBytes).fill(0);
      for (const piece of pieces) copyRows(piece, from, Math.min(rows, from + step), slab);
      take(slab);
    }
  }
}

/** `length` bytes from `from` of a tensor that is put together: the rows that they are in are read, and no others. */
function readRange(entry: TensorEntry, from: number, length: number): Uint8Array {
  const row = entry.pieces![0]!.strides[0];
  if (!row) return readTensor(entry).subarray(from, from + length);
  const rowBytes = row * bytesPerElement(entry.dtype);
  const [first, end] = [Math.floor(from / rowBytes), Math.ceil((from + length) / rowBytes)];
  const rows = new Uint8Array((end - first) * rowBytes);
  for (const piece of entry.pieces!) copyRows(piece, first, end, rows);
  return rows.subarray(from - first * rowBytes, from - first * rowBytes + length);
}

/** What a piece has of the result's rows [from, to). */
function copyRows({ view, start, strides }: Piece, from: number, to: number, target: Uint8Array): void {
  const row = strides[0]!;
  const first = Math.floor(start / row);
  const [begin, end] = [Math.max(from, first), Math.min(to, first + view.shape[0]!)];
  if (begin >= end) return;
  const part = narrow(view, 0, begin - first, end - begin);
  copyPiece({ view: part, start: start + (begin - first - from) * row, strides }, target);
}

/** The bytes of a file that a view touches; of a compressed region, the compressed ones. */
export function touched({ region, dtype, shape, strides, start }: View): Region {
  if (region.deflated !== undefined) return { ...region, nbytes: region.deflated };
  if (shape.includes(0)) return { ...region, nbytes: 0 };
  const unit = bytesPerElement(dtype);
  const count = shape.reduce((sum, size, d) => sum + (size - 1) * strides[d]!, 1);
  return { ...region, offset: region.offset + start * unit, nbytes: count * unit };
}

/** What pieces are read into before they are put in order; it grows to what is asked for, up to a limit. */
let scratch = Buffer.alloc(0);
const SCRATCH_LIMIT = 32 << 20;

function copyPiece({ view, start, strides }: Piece, target: Uint8Array): void {
  if (view.shape.includes(0)) return;
  const unit = bytesPerElement(view.dtype);
  const { region } = view;
  const part = region.deflated === undefined ? touched(view) : region;
  const needed = part.deflated ?? part.nbytes;
  if (needed > scratch.length && needed <= SCRATCH_LIMIT) scratch = Buffer.allocUnsafeSlow(needed);
  const read = readRegion(part, region.file, Number.POSITIVE_INFINITY, scratch);
  const source = region.deflated === undefined ? read : read.subarray(view.start * unit);
  // Trailing dimensions that are runs on both sides are copied as one.
  let dims = view.shape.length;
  let run = 1;
  while (dims > 0 && (view.shape[dims - 1] === 1 || (view.strides[dims - 1] === run && strides[dims - 1] === run))) {
    run *= view.shape[--dims]!;
  }
  const bytes = run * unit;
  const walk = (d: number, from: number, to: number): void => {
    if (d === dims) {
      if (bytes > 16) target.set(source.subarray(from, from + bytes), to);
      else for (let i = 0; i < bytes; i++) target[to + i] = source[from + i]!;
      return;
    }
    const [count, step, stride] = [view.shape[d]!, view.strides[d]! * unit, strides[d]! * unit];
    for (let i = 0; i < count; i++) walk(d + 1, from + i * step, to + i * stride);
  };
  walk(0, 0, start * unit);
}
