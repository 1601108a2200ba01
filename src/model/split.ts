/**
 * What a language model asks of the ranks that share each of its layers (tensor parallelism, Shoeybi et al. 2019), without
 * knowing who they are: src/parallel/tensor.ts answers for a process group, `WHOLE` for one process.
 */
import type { Engine, Shard, Tensor } from '../engine/engine.ts';

export interface TensorSplit {
  readonly rank: number;
  readonly size: number;
  /** Between the shared layers each rank keeps its rows of the B·T positions only (NeMo: sequence_parallel). */
  readonly sequence: boolean;
  /** On the way into layers whose outputs are shared out: x itself; its gradient is summed over the ranks. */
  enter(x: Tensor): Tensor;
  /** On the way out of layers whose inputs were shared out: the sum over the ranks; the gradient is passed on as it is. */
  leave(x: Tensor): Tensor;
  /** `enter` for rows: own rows [⌈n/size⌉, C] of n → all of them [n, C]; the gradient is summed and cut again. */
  enterRows(own: Tensor, n: number): Tensor;
  /** `leave` for rows: summands [n, C] → own rows [⌈n/size⌉, C] of the sum, zeros behind the last; the gradient is gathered. */
  leaveRows(summand: Tensor): Tensor;
  /** `Engine.crossEntropy` of logits [M, V'] of the tokens from `first` on; no rank sees another's logits. */
  crossEntropy(engine: Engine, logits: Tensor, targets: Tensor, first: number): Tensor;
}

/** A process that has the whole model. */
export const WHOLE: TensorSplit = {
  rank: 0,
  size: 1,
  sequence: false,
  enter: (x) => x,
  leave: (x) => x,
  enterRows: (own) => own,
  leaveRows: (summand) => summand,
  crossEntropy: (engine, logits, targets) => engine.crossEntropy(logits, targets),
};

/** The rank's stretch of `of` things, as equal as can be: a vocabulary need not be divisible. */
export function stretch({ rank, size }: TensorSplit, of: number): { start: number; end: number } {
  return { start: Math.floor((of * rank) / size), end: Math.floor((of * (rank + 1)) / size) };
}

/** The rank's stretch of dimension `dim`; null where it has the whole. */
export function shardOf(split: TensorSplit, shape: readonly number[], dim: number): Shard | null {
  const of = shape[dim]!;
  return split.size === 1 ? null : { dim, of, ...stretch(split, of) };
}

/** A weight's shape before it was shared out. */
export const wholeShape = ({ value, shard }: { value: Tensor; shard?: Shard | null }): number[] =>
  value.shape.map((size, dim) => (shard?.dim === dim ? shard.of : size));

/** How the hidden states are held between the shared layers of a block. */
export interface Stream {
  /** Normalized hidden states, as held → [B, T, C] for layers whose outputs are shared out. */
  open(x: Tensor): Tensor;
  /** What layers with shared inputs gave, [B, T, C] → its sum over the ranks, as held. */
  close(written: Tensor): Tensor;
  /**
   * What the output projection gave at `rows` of the B·T positions, [M, C] → its sum over the ranks, plus the residual at
   * these positions: [M, C], the same on every rank.
   */
  finish(written: Tensor, residual: Tensor, rows: Int32Array): Tensor;
}

/** The stream of hidden states [B, T, C], or of own rows of them, [⌈B·T/size⌉, C]. */
export function hiddenStream(engine: Engine, split: TensorSplit, batch: number, length: number): Stream {
  const flat = (x: Tensor) => engine.reshape(x, [-1, x.shape.at(-1)!]);
  const at = (rows: ArrayLike<number>) => engine.tensor(Int32Array.from(rows), [rows.length]);
  if (!split.sequence) {
    return {
      open: split.enter,
      close: split.leave,
      finish: (written, residual, rows) =>
        engine.add(engine.gatherRows(flat(residual), at(rows)), split.leave(written)),
    };
  }
  const n = batch * length;
  const each = Math.ceil(n / split.size);
  const first = each * split.rank;
  return {
    open: (x) => engine.reshape(split.enterRows(x, n), [batch, length, x.shape[1]!]),
    close: (written) => split.leaveRows(flat(written)),
    finish(written, residual, rows) {
      // Each rank adds the residual where it has it, before the sum: no message of its own.
      const own = [...rows.keys()].filter((i) => rows[i]! >= first && rows[i]! < first + each);
      if (own.length === 0) return split.leave(engine.add(written, engine.scale(engine.slice(residual, 0, 0, 1), 0)));
      const held = engine.gatherRows(residual, at(own.map((i) => rows[i]! - first)));
      const placed = engine.scatterRows(engine.zeros(written.shape, written.dtype), at(own), held);
      return split.leave(engine.add(written, placed));
    },
  };
}
