/** Attention in its forms: neva's flash kernel on CPUs, LibTorch's elsewhere, plain scores, and the latter two record by record in a packed row. */
import type { AttentionOptions } from '../engine.ts';
import * as aten from './aten.generated.ts';
import { native } from './native.ts';
import { TorchTensor } from './tensor.ts';

type Kernel = (q: TorchTensor, k: TorchTensor, v: TorchTensor) => TorchTensor;

/** See `Engine.attention`. */
export function attention(
  q: TorchTensor,
  k: TorchTensor,
  v: TorchTensor,
  { causal, scale = 1 / Math.sqrt(q.shape[3]!), lengths = null, flash = true, recompute = false }: AttentionOptions,
  device: string,
): TorchTensor {
  const heads = q.shape[1]!;
  if (flash && device === 'cpu' && fitsOwnKernel(q, causal))
    return aten.flashAttention(q, k, v, causal, scale, lengths ?? []);
  const [keys, values] = [repeatGroups(k, heads), repeatGroups(v, heads)];
  const kernel: Kernel = flash
    ? (a, b, c) => flashAttention(a, b, c, causal, scale, device)
    : (a, b, c) => aten.plainAttention(a, b, c, causal, scale, recompute);
  if (!lengths || lengths.length === 1) return kernel(q, keys, values);
  if (q.shape[0] !== 1 || k.shape[2] !== q.shape[2]) throw new RangeError('packed attention takes one row of records');
  const halfOnGpu = device !== 'cpu' && (q.dtype === 'bfloat16' || q.dtype === 'float16');
  return flash && halfOnGpu
    ? variableLength(q, keys, values, lengths, causal, scale, device)
    : byRecord(q, keys, values, lengths, kernel);
}

/** Of neva's kernel, asked for once: every block of every step comes by. */
let ownDtypes: readonly string[] | null = null;

/**
 * neva's kernel (native/flash_attention.cpp) pays for packing keys and values when more than one query reads them. In float32 where
 * every query sees every key, LibTorch's is ahead (bench/attention).
 */
function fitsOwnKernel(q: TorchTensor, causal: boolean): boolean {
  const [, , queries, size] = q.shape as [number, number, number, number];
  const pays = queries > 1 && (causal || q.dtype === 'bfloat16');
  ownDtypes ??= native().flashDtypes();
  return pays && size % 2 === 0 && ownDtypes.includes(q.dtype);
}

function flashAttention(
  q: TorchTensor,
  k: TorchTensor,
  v: TorchTensor,
  causal: boolean,
  scale: number,
  device: string,
) {
  const [queries, keys] = [q.shape[2]!, k.shape[2]!];
  // One query sees every key. LibTorch's is_causal aligns at the first key, so a longer cache needs a mask.
  const isCausal = causal && queries > 1 && queries === keys;
  const mask =
    causal && queries > 1 && queries !== keys
      ? aten.tril(aten.ones([queries, keys], 'bool', null, device), keys - queries)
      : null;
  return aten.scaledDotProductAttention(q, k, v, mask, 0, isCausal, scale);
}

/**
 * One call a record. Splitting, unlike slicing, has a backward that joins the pieces once instead of padding each to the
 * whole row. Pieces are cut and joined as [1, T, H, D], which is how the projections write and read them.
 */
function byRecord(
  q: TorchTensor,
  k: TorchTensor,
  v: TorchTensor,
  lengths: readonly number[],
  kernel: Kernel,
): TorchTensor {
  const cut = (x: TorchTensor) => aten.splitWithSizes(byPosition(x), lengths, 1).map(byPosition);
  const [qs, ks, vs] = [cut(q), cut(k), cut(v)];
  const mixed = lengths.map((_, i) => byPosition(kernel(qs[i]!, ks[i]!, vs[i]!)));
  return byPosition(aten.cat(mixed, 1));
}

/** All records in one kernel: flash attention's variable-length form, which wants [T, H, D] and where records begin. */
function variableLength(
  q: TorchTensor,
  k: TorchTensor,
  v: TorchTensor,
  lengths: readonly number[],
  causal: boolean,
  scale: number,
  device: string,
): TorchTensor {
  const [, heads, length, size] = q.shape as [number, number, number, number];
  const flat = (x: TorchTensor) => aten.reshape(byPosition(x), [length, heads, size]);
  const starts = new Int32Array(lengths.length + 1);
  for (const [i, each] of lengths.entries()) starts[i + 1] = starts[i]! + each;
  const borders = toDevice(starts, device);
  const longest = Math.max(...lengths);
  const [mixed] = aten._flashAttentionForward(
    flat(q),
    flat(k),
    flat(v),
    borders,
    borders,
    longest,
    longest,
    0,
    causal,
    false,
    scale,
  );
  return byPosition(aten.reshape(mixed!, [1, length, heads, size]));
}

/** [B, H, T, D] ↔ [B, T, H, D], as a view. */
const byPosition = (x: TorchTensor): TorchTensor => aten.transposeInt(x, 1, 2);

/** [B, G, U, D] → [B, H, U, D]: each group's keys serve H/G query heads. */
function repeatGroups(x: TorchTensor, heads: number): TorchTensor {
  const [batch, groups, length, size] = x.shape as [number, number, number, number];
  if (groups === heads) return x;
  const wide = aten.expand(aten.unsqueeze(x, 2), [batch, groups, heads / groups, length, size]);
  return aten.reshape(wide, [batch, heads, length, size]);
}

function toDevice(values: Int32Array, device: string): TorchTensor {
  const onHost = new TorchTensor(native().fromBytes(values, [values.length], 'int32'));
  return device === 'cpu' ? onHost : aten._toCopy(onHost, 'int32', null, device);
}
