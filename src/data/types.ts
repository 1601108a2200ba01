/**
 * What the data part hands to training. Plain typed arrays only: batches cross a worker-thread boundary
 * and must be readable by any engine.
 *
 * Shapes: B records in a micro batch, T longest record in it, N images in it, P feature vectors (patches) an image,
 * S side of the square picture, M labelled positions.
 */

import type { FeaturePlace } from './feature_index.ts';

/** Label of a position that is not in the loss. */
export const IGNORE = -100;

export interface MicroBatch {
  batch: number;
  /** T: positions of the longest record, image positions included. */
  length: number;
  /** [B, T] token ids, right-padded; positions that an image feature will take hold 0. */
  ids: Int32Array;
  /** [B] real length of each record; of a packed micro batch, of the records in it: they add up to T. */
  lengths: Int32Array;
  /**
   * Packed (model.data.packed_sequence): B is 1, and these records lie one after the other in the row, each with positions and
   * attention of its own. The same array as `lengths`; null where each record has a row.
   */
  packed?: Int32Array | null;
  /** Positions that would have fitted: of packed rows, their number times encoder_seq_length; of padded ones, B·T. */
  room: number;
  /** [M] flat positions b*T+t whose NEXT token is labelled, ascending. */
  labelRows: Int32Array;
  /** [M] that next token. */
  labelTargets: Int32Array;
  /** [N, 3, S, S] normalised pixels; empty when the micro batch holds no picture. */
  pixels: Float32Array;
  /** In place of pixels: where each picture's features [P, C] of the frozen tower lie (model.data.vision_cache). */
  features?: readonly FeaturePlace[] | null;
  imageCount: number;
  imageSize: number;
  /** [N*P] flat positions b*T+t that the features take, image by image. */
  imageRows: Int32Array;
  /** `id` of each record, for messages. */
  records: string[];
  /** How many of them lost positions at the right, being longer than encoder_seq_length. */
  cut?: number;
}

export interface GlobalBatch {
  microBatches: MicroBatch[];
  /** Labelled positions over all micro batches. */
  labelTokens: number;
  /** Epoch (from 0) that the first record of this batch belongs to. */
  epoch: number;
  /** Records consumed up to and including this batch, over all ranks. */
  consumedSamples: number;
}
