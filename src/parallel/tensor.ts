/**
 * Tensor and sequence parallelism: what the model asks of the ranks that share its layers (model/split.ts), answered by
 * collectives of a process group that LibTorch's autograd can walk back through (native/tensor_parallel.cpp).
 */
import type { Tensor } from '../engine/engine.ts';
import { native } from '../engine/torch/native.ts';
import { TorchTensor, torchTensor } from '../engine/torch/tensor.ts';
import { mistake } from '../errors.ts';
import type { LlmShape } from '../model/shapes.ts';
import { type TensorSplit, WHOLE } from '../model/split.ts';
import type { Group } from './group.ts';

const handle = (tensor: Tensor) => torchTensor(tensor).handle;

/** @param sequence whether ranks keep rows of the hidden states between the shared layers (NeMo: model.sequence_parallel) */
export function tensorSplit(group: Group, sequence: boolean): TensorSplit {
  if (group.size === 1) return WHOLE;
  const { rank, size, number } = group;
  return {
    rank,
    size,
    sequence,
    enter: (x) => new TorchTensor(native().tpEnter(number, handle(x))),
    leave: (x) => new TorchTensor(native().tpLeave(number, handle(x))),
    enterRows: (own, n) => new TorchTensor(native().tpGatherRows(number, handle(own), n)),
    leaveRows: (summand) => new TorchTensor(native().tpScatterRows(number, handle(summand))),
    crossEntropy: (_engine, logits, targets, first) =>
      new TorchTensor(native().tpCrossEntropy(number, handle(logits), handle(targets), first)),
  };
}

/** Throws a user error where the layers cannot be divided equally. A vocabulary can, into stretches that differ by one. */
export function requireDivisible(shape: LlmShape, size: number): void {
  const parts = {
    'attention heads': shape.numAttentionHeads,
    'query groups (key/value heads)': shape.numQueryGroups,
    'rows of the MLP (ffn_hidden_size)': shape.ffnHiddenSize,
  };
  for (const [what, count] of Object.entries(parts)) {
    if (count % size === 0) continue;
    throw mistake({
      where: 'model.tensor_model_parallel_size',
      problem: `the language model's ${what} cannot be divided among ${size} ranks`,
      expected: `a divisor of ${count}`,
      found: String(size),
      fix: 'choose a smaller size; more devices can share the data or the depth (model.pipeline_model_parallel_size)',
    });
  }
}
