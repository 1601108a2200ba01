/** One NeMo weight between its shards (tensor-parallel ranks, fused layout) and neva's own tensors, as views both ways. */
import type { LlmShape, VisionShape } from '../model/shapes.ts';
import type { NemoWeight } from './nemo_layout.ts';
import { assemble, narrow, unflatten, type View, viewOf } from './pieces.ts';
import type { TensorEntry } from './safetensors.ts';

/** What a fused qkv is made of: G groups of H/G query heads, a key and a value, of D rows each. */
export type Heads = Pick<LlmShape, 'numAttentionHeads' | 'numQueryGroups' | 'headDim'>;

/** A tower's: its fused qkv is not grouped. */
export const headsOf = ({ hiddenSize, numAttentionHeads }: VisionShape): Heads => ({
  numAttentionHeads,
  numQueryGroups: 1,
  headDim: hiddenSize / numAttentionHeads,
});

const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);
const zeros = (shape: readonly number[]): number[] => shape.map(() => 0);

/** The shape that a rank's part must have; rows of `vocab` are as many as the padding needs. Null: it cannot be split so. */
export function shardShape({ split, shape, own }: NemoWeight, tp: number, heads: Heads): readonly number[] | null {
  const divided = (dim: number, by: number) =>
    shape[dim]! % by === 0 ? shape.map((size, d) => (d === dim ? size / tp : size)) : null;
  switch (split) {
    case 'replicate':
    case 'vocab':
      return shape;
    case 'rows':
      return divided(0, tp);
    case 'columns':
      return divided(shape.length - 1, tp);
    case 'blocks':
      return divided(0, tp * own.length);
    case 'qkv':
      return heads.numQueryGroups % tp === 0 ? divided(0, tp) : null;
  }
}

/** Own names and shapes of a weight, with the block's number put in. */
export function ownTensors(
  weight: NemoWeight,
  layer: number,
  heads: Heads,
): { name: string; shape: readonly number[] }[] {
  const { own, shape, split, ownShape = shape } = weight;
  const rows = (i: number): number => {
    if (split === 'blocks') return shape[0]! / own.length;
    if (split === 'qkv') return (i === 0 ? heads.numAttentionHeads : heads.numQueryGroups) * heads.headDim;
    return ownShape[0]!;
  };
  return own.map((name, i) => ({
    name: name.replace('{L}', String(layer)),
    shape: [rows(i), ...ownShape.slice(1)],
  }));
}

/** neva's tensors from the shards of ranks 0, 1, …, whose shapes have been checked. */
export function mergeShards(
  weight: NemoWeight,
  layer: number,
  shards: readonly TensorEntry[],
  heads: Heads,
): TensorEntry[] {
  const views = shards.map(viewOf);
  const [first] = views as [View];
  const owned = ownTensors(weight, layer, heads);
  const { name, shape } = owned[0]!;
  const rows = first.shape[0]!;
  switch (weight.split) {
    case 'replicate':
      return [assemble(name, shape, first.shape, [{ view: first, at: zeros(first.shape) }])];
    case 'rows':
    case 'vocab': {
      // What lies beyond the vocabulary is padding.
      const placed = views.flatMap((view, i) => {
        const size = Math.min(rows, shape[0]! - i * rows);
        return size > 0 ? [{ view: narrow(view, 0, 0, size), at: [i * rows, ...zeros(shape.slice(1))] }] : [];
      });
      return [assemble(name, shape, shape, placed)];
    }
    case 'columns': {
      const last = shape.length - 1;
      const step = first.shape[last]!;
      const placed = views.map((view, i) => ({ view, at: shape.map((_, d) => (d === last ? i * step : 0)) }));
      return [assemble(name, shape, shape, placed)];
    }
    case 'blocks': {
      const part = rows / owned.length;
      return owned.map((own, b) => {
        const placed = views.map((view, i) => ({
          view: narrow(unflatten(view, 0, [owned.length, part]), 0, b, 1),
          at: [0, i * part, ...zeros(shape.slice(1))],
        }));
        return assemble(own.name, own.shape, [1, ...own.shape], placed);
      });
    }
    case 'qkv':
      return owned.map((own, which) => {
        const [start, count, perGroup] = span(which, heads);
        const groups = heads.numQueryGroups / views.length;
        const rest = own.shape.slice(1);
        const placed = views.map((view, i) => ({
          view: narrow(unflatten(view, 0, [groups, perGroup, heads.headDim]), 1, start, count),
          at: [i * groups, 0, 0, ...zeros(rest)],
        }));
        return assemble(own.name, own.shape, [heads.numQueryGroups, count, heads.headDim, ...rest], placed);
      });
  }
}

/** Where queries, keys or values are in a group, how many heads of them, and how many heads a group has. */
function span(which: number, { numAttentionHeads, numQueryGroups }: Heads): [number, number, number] {
  const queries = numAttentionHeads / numQueryGroups;
  return which === 0 ? [0, queries, queries + 2] : [queries + which - 1, 1, queries + 2];
}

/**
 * The shard of one rank from neva's tensors, in the order of `weight.own`.
 * @param paddedRows rows of the vocabulary after padding
 */
export function splitShard(
  weight: NemoWeight,
  nemoName: string,
  own: readonly TensorEntry[],
  { tp, rank, heads, paddedRows }: { tp: number; rank: number; heads: Heads; paddedRows: number },
): TensorEntry {
  const views = own.map(viewOf);
  const [first] = views as [View];
  const shape = shardShape(weight, tp, heads)!;
  const rest = zeros(first.shape.slice(1));
  switch (weight.split) {
    case 'replicate':
      return assemble(nemoName, shape, first.shape, [{ view: first, at: zeros(first.shape) }]);
    case 'rows':
      return assemble(nemoName, shape, shape, [
        { view: narrow(first, 0, rank * shape[0]!, shape[0]!), at: zeros(shape) },
      ]);
    case 'vocab': {
      const rows = paddedRows / tp;
      const size = Math.max(0, Math.min(rows, first.shape[0]! - rank * rows));
      const block = [rows, ...first.shape.slice(1)];
      const view = narrow(first, 0, size === 0 ? 0 : rank * rows, size);
      return assemble(nemoName, block, block, [{ view, at: zeros(block) }]);
    }
    case 'columns': {
      const last = shape.length - 1;
      const view = narrow(first, last, rank * shape[last]!, shape[last]!);
      return assemble(nemoName, shape, shape, [{ view, at: zeros(shape) }]);
    }
    case 'blocks': {
      const part = shape[0]! / own.length;
      const placed = views.map((view, b) => ({
        view: narrow(view, 0, rank * part, part),
        at: [b * part, ...rest],
      }));
      return assemble(nemoName, shape, shape, placed);
    }
    case 'qkv': {
      const groups = heads.numQueryGroups / tp;
      const perGroup = span(0, heads)[2];
      const placed = views.map((view, which) => {
        const [start, count] = span(which, heads);
        const grouped = unflatten(view, 0, [heads.numQueryGroups, count, heads.headDim]);
        return { view: narrow(grouped, 0, rank * groups, groups), at: [0, start, 0, ...rest] };
      });
      return assemble(nemoName, shape, [groups, perGroup, heads.headDim, ...first.shape.slice(1)], placed);
    }
  }
}

/** Whether a shard of rank 0 … tp−1 can be what its file says. `vocab` may have more rows than the vocabulary. */
export function fitsShard(weight: NemoWeight, found: readonly number[], tp: number, heads: Heads): boolean {
  const expected = shardShape(weight, tp, heads);
  if (!expected) return false;
  if (weight.split === 'vocab') {
    return found.length === 2 && found[0]! * tp >= expected[0]! && found[1] === expected[1];
  }
  if (weight.split === 'replicate') return product(found) === product(expected);
  return found.join() === expected.join();
}
