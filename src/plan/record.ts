/** Sizes of an average record. */
import { featuresPerImage, type NevaShape } from '../model/shapes.ts';

/** A typical record: no configuration says how long the data are. */
export interface RecordSize {
  /** Positions, those of its pictures among them. */
  length: number;
  images: number;
  /** Positions that are in the loss. */
  labels: number;
}

/**
 * Text tokens of an average record: captions of LLaVA-Pretrain are about 30, conversations of LLaVA-Instruct about 300, of which
 * about a half are answers.
 */
const TYPICAL = { pretrain: { text: 32, labels: 32 }, finetune: { text: 300, labels: 150 } };

/** One picture and a typical text, cut to the context. */
export function typicalRecord(stage: 'pretrain' | 'finetune', shape: NevaShape, contextLength: number): RecordSize {
  const { text, labels } = TYPICAL[stage];
  const length = Math.min(contextLength, featuresPerImage(shape.vision) + text);
  return { length, images: 1, labels: Math.min(labels, length) };
}
