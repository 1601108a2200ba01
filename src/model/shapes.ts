/** Shapes of the three parts, in the words of NeMo's configuration; filled from a config or from a checkpoint. */

export interface LlamaShape {
  numLayers: number;
  /** C */
  hiddenSize: number;
  /** F, width of the gated MLP. */
  ffnHiddenSize: number;
  /** H */
  numAttentionHeads: number;
  /** G, key/value heads (equal to H without grouped queries). */
  numQueryGroups: number;
  /** D, NeMo's kv_channels; C/H unless the checkpoint says otherwise. */
  headDim: number;
  /** Rows of the embedding and the head. */
  vocabSize: number;
  /** RMSNorm's epsilon (NeMo: layernorm_epsilon). */
  normEpsilon: number;
  rotaryBase: number;
  maxPositions: number;
  /** Output head shares the embedding's weight. */
  tiedEmbeddings: boolean;
}

export interface VisionShape {
  imageSize: number;
  patchSize: number;
  /** C of the tower. */
  hiddenSize: number;
  numLayers: number;
  numAttentionHeads: number;
  ffnHiddenSize: number;
  normEpsilon: number;
  /** Which hidden state is the feature, as an index into [embeddings, block 1, … block L]; −2 in LLaVA. */
  selectLayer: number;
  /** Leading tokens dropped from it (the class token): 1 in LLaVA, 0 keeps it. */
  classTokenLength: number;
}

/** NeMo's mm_mlp_adapter_type: `linear`, `mlp2x_gelu`, `mlp3x_gelu`, …, `identity`. */
export interface ProjectorShape {
  type: string;
  inputSize: number;
  outputSize: number;
}

export interface NevaShape {
  llm: LlamaShape;
  vision: VisionShape;
  projector: ProjectorShape;
}

/** P: feature vectors that one picture becomes. */
export function featuresPerImage(v: VisionShape): number {
  const side = Math.floor(v.imageSize / v.patchSize);
  return side * side + 1 - v.classTokenLength;
}
