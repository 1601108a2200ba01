/**
 * Rotary position tables (Su et al. 2021), and the ways of stretching them to longer contexts, each computed as
 * transformers' modeling_rope_utils.py does: frequencies in float32 steps, so that angles far out agree too.
 */
import type { Engine, Tensor } from '../engine/engine.ts';
import { blockOf, type LlmShape, type RotaryScaling } from './shapes.ts';

/** Tables for positions 0 … T−1, each [T, R/2] float32, where R of a head's D dimensions are turned. */
export interface RotaryTables {
  cos: Tensor;
  sin: Tensor;
}

/** R: dimensions of a head that are turned (NeMo's rotary_percentage, Hugging Face's partial_rotary_factor). */
export const rotaryDim = (shape: LlmShape): number => Math.trunc(shape.headDim * blockOf(shape).rotaryPercentage);

/** Position of each of the records' tokens, which lie one after the other: 0 … n−1 for each record of n. */
export function packedPositions(lengths: Int32Array): Int32Array {
  const positions = new Int32Array(lengths.reduce((sum, length) => sum + length, 0));
  let at = 0;
  for (const length of lengths) for (let t = 0; t < length; t++) positions[at++] = t;
  return positions;
}

export function rotaryTables(engine: Engine, shape: LlmShape, length: number): RotaryTables {
  const frequencies = rotaryFrequencies(shape);
  const half = frequencies.length;
  // YaRN's temperature of the softmax, taken from queries and keys alike.
  const magnitude = shape.rotaryScaling?.type === 'yarn' ? shape.rotaryScaling.attentionFactor : 1;
  const cos = new Float32Array(length * half);
  const sin = new Float32Array(length * half);
  for (let t = 0; t < length; t++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(t * frequencies[i]!);
      cos[t * half + i] = Math.cos(angle) * magnitude;
      sin[t * half + i] = Math.sin(angle) * magnitude;
    }
  }
  return {
    cos: engine.keep(engine.tensor(cos, [length, half])),
    sin: engine.keep(engine.tensor(sin, [length, half])),
  };
}

/** Angle per position of each pair, [R/2]: base^(−2i/R), stretched. */
export function rotaryFrequencies(shape: LlmShape): Float32Array {
  const R = rotaryDim(shape);
  const plain = Float32Array.from({ length: R / 2 }, (_, i) => 1 / shape.rotaryBase ** ((2 * i) / R));
  return shape.rotaryScaling ? stretched(plain, shape.rotaryScaling, R, shape.rotaryBase) : plain;
}

function stretched(plain: Float32Array, scaling: RotaryScaling, R: number, base: number): Float32Array {
  switch (scaling.type) {
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor);
    case 'dynamic':
      // Its base grows with sequences beyond maxPositions, which neva does not run; up to there nothing changes.
      return plain;
    case 'llama3':
      return plain.map((frequency) => llama3(frequency, scaling));
    case 'yarn': {
      const [low, high] = yarnRange(scaling, R, base);
      return plain.map((frequency, i) => {
        const ramp = Math.min(1, Math.max(0, (i - low) / (high - low)));
        return (frequency / scaling.factor) * ramp + frequency * (1 - ramp);
      });
    }
  }
}

/** Long waves are stretched, short ones are left, those between change over (Llama 3.1). */
function llama3(frequency: number, scaling: RotaryScaling & { type: 'llama3' }): number {
  const { factor, lowFrequencyFactor: low, highFrequencyFactor: high, originalPositions } = scaling;
  const turns = (originalPositions * frequency) / (2 * Math.PI); // over the original context
  if (turns > high) return frequency;
  if (turns < low) return frequency / factor;
  const smooth = (turns - low) / (high - low);
  return ((1 - smooth) * frequency) / factor + smooth * frequency;
}

/** Pairs between which YaRN (Peng et al. 2023) changes over: those that turn betaFast and betaSlow times. */
function yarnRange(scaling: RotaryScaling & { type: 'yarn' }, R: number, base: number): [number, number] {
  const { betaFast, betaSlow, originalPositions, truncate } = scaling;
  const pair = (turns: number) => (R * Math.log(originalPositions / (turns * 2 * Math.PI))) / (2 * Math.log(base));
  const [low, high] = [pair(betaFast), pair(betaSlow)];
  const [first, last] = truncate ? [Math.floor(low), Math.ceil(high)] : [low, high];
  const [from, to] = [Math.max(first, 0), Math.min(last, R - 1)];
  return [from, from === to ? to + 0.001 : to];
}
