/** NVIDIA's published throughput of NeVA in NeMo (October 2023): docs/scaling.md says what is assumed about these runs. */
import { hardwareOf } from '../../src/plan/hardware.ts';
import type { Setting } from '../../src/plan/setting.ts';
import { predictTime } from '../../src/plan/time.ts';

export interface Row {
  model: '7B' | '13B';
  stage: 'pretrain' | 'finetune';
  hardware: 'a100' | 'h100';
  /** Of eight GPUs. */
  nodes: number;
  gbs: number;
  /** Global batches/s. */
  batches: number;
}

const row = (
  model: Row['model'],
  stage: Row['stage'],
  hardware: Row['hardware'],
  nodes: number,
  batches: number,
): Row => ({
  model,
  stage,
  hardware,
  nodes,
  gbs: stage === 'pretrain' ? 128 : 32,
  batches,
});

/** The table of global batches. */
export const ROWS: readonly Row[] = [
  row('7B', 'pretrain', 'a100', 2, 1.3),
  row('7B', 'pretrain', 'h100', 2, 2.67),
  row('7B', 'finetune', 'a100', 4, 2.94),
  row('7B', 'finetune', 'h100', 4, 5.81),
  row('13B', 'pretrain', 'a100', 2, 0.58),
  row('13B', 'pretrain', 'h100', 2, 1.21),
  row('13B', 'finetune', 'a100', 4, 1.41),
  row('13B', 'finetune', 'h100', 4, 2.68),
  // One node, out of the table of samples/s.
  row('13B', 'pretrain', 'a100', 1, 37 / 128),
  row('13B', 'pretrain', 'h100', 1, 79 / 128),
  row('13B', 'finetune', 'a100', 1, 12 / 32),
  row('13B', 'finetune', 'h100', 1, 24 / 32),
];

/** Not published: positions of a row, padded to multiples of 64; 336-pixel pictures are 576 of them. */
const LENGTH = { pretrain: 640, finetune: 1024 };

export function rowSetting({ model, stage, nodes, gbs }: Row): Setting {
  const big = model === '13B';
  const tensor = big ? 8 : 4;
  const llm = {
    numLayers: big ? 40 : 32,
    hiddenSize: big ? 5120 : 4096,
    ffnHiddenSize: big ? 13824 : 11008,
    numAttentionHeads: big ? 40 : 32,
    numQueryGroups: big ? 40 : 32,
    headDim: 128,
    vocabSize: 32008,
    normEpsilon: 1e-5,
    rotaryBase: 10000,
    maxPositions: 4096,
    tiedEmbeddings: false,
  };
  const vision = {
    imageSize: 336,
    patchSize: 14,
    hiddenSize: 1024,
    numLayers: 24,
    numAttentionHeads: 16,
    ffnHiddenSize: 4096,
    normEpsilon: 1e-5,
    selectLayer: -2,
    classTokenLength: 1,
  };
  return {
    shape: { llm, vision, projector: { type: 'linear', inputSize: 1024, outputSize: llm.hiddenSize } },
    trains: { llm: stage === 'finetune', projector: true, vision: false },
    tensor,
    layout: [llm.numLayers],
    data: (8 * nodes) / tensor,
    device: 'gpu',
    perNode: 8,
    sequenceParallel: false,
    precision: 'bf16',
    mainWeights: true,
    remainders: false,
    ema: false,
    sharded: false,
    overlap: true,
    gradientBytes: 2,
    flash: true,
    recompute: { granularity: null, method: 'uniform', layers: 1 },
    microBatch: stage === 'pretrain' ? 32 : 4,
    globalBatch: gbs,
    // NeMo makes logits at every position.
    record: { length: LENGTH[stage], images: 1, labels: LENGTH[stage] },
    cachedVision: false,
    steps: null,
  };
}

/** Predicted over published global batches/s. */
export function ratio(row: Row): number {
  return 1 / predictTime(rowSetting(row), hardwareOf(row.hardware, null)).total / row.batches;
}
