/**
 * Label masks as LLaVA (llava/train/train.py) and NeMo (neva_dataset.py, v2.0.0rc0) count them: the text is split at separators,
 * each piece is tokenized again by itself, and lengths are added up. Where the pieces are not as long as the whole, labels
 * are off or lost; `template_compat: llava | nemo` keeps that, to repeat their runs. The default labels by segments instead.
 */
import { IGNORE } from './types.ts';

/** What a counted text is made of. Positions are compact: one for each image. */
export interface CountedText {
  /** The whole text, special tokens written out. */
  text: string;
  /** [T] ids of the whole. */
  ids: Int32Array;
  /** Tokens of a piece of it, tokenized by itself, as the reference does. */
  measure: (piece: string) => number;
  /** The token that ends a text, written out. */
  eos: string;
  /** The id that LLaVA pads with, which it does not count; null where there is none. */
  padId: number | null;
  /** The tokenizer puts a dummy prefix after special tokens. */
  legacy: boolean;
  hasImage: boolean;
  maxLength: number;
}

/** [T] labels; IGNORE where the reference masks. */
export type Mask = (counted: CountedText) => Int32Array;

interface Corrections {
  /** Ids at the very start that belong to no round. */
  start: number;
  /** Taken off every prompt's length, and off each later round's and prompt's. */
  prompt: number;
  laterRound: number;
  laterPrompt: number;
}

/** Rounds of prompt and answer one after another; what is not a prompt keeps its labels. */
function countRounds(
  { ids, measure }: CountedText,
  rounds: readonly string[],
  marker: string,
  { start, prompt, laterRound, laterPrompt }: Corrections,
  measures: { round: (round: string) => string; prompt: (parts: readonly [string, string]) => string },
): { labels: Int32Array; counted: number } {
  const labels = Int32Array.from(ids);
  labels.fill(IGNORE, 0, start);
  let at = start;
  for (const [i, round] of rounds.entries()) {
    const parts = round.split(marker);
    if (round === '' || parts.length !== 2) break;
    const later = i > 0;
    const promptLength = measure(measures.prompt(parts as [string, string])) - prompt - (later ? laterPrompt : 0);
    labels.fill(IGNORE, at, Math.max(at, at + promptLength));
    at += measure(measures.round(round)) - (later ? laterRound : 0);
  }
  labels.fill(IGNORE, at);
  return { labels, counted: at };
}

/** LLaVA drops all labels of a text whose rounds do not add up to it, unless it is cut anyway. */
function orNothing(
  counted: CountedText,
  { labels, counted: sum }: { labels: Int32Array; counted: number },
): Int32Array {
  const { ids, padId, hasImage, maxLength } = counted;
  const seen = hasImage ? ids : ids.subarray(0, maxLength);
  const total = seen.reduce((count, id) => count + (id === padId ? 0 : 1), 0);
  return sum < maxLength && sum !== total ? labels.fill(IGNORE) : labels;
}

/** NeMo's and LLaVA's turns between one separator: system, question and answer first, then question and answer. */
function chatRounds(text: string, separator: string): string[] {
  const turns = text.split(separator);
  const rounds = [turns.slice(0, 3).join(separator)];
  for (let at = 3; at < turns.length; at += 2) rounds.push(turns.slice(at, at + 2).join(separator));
  return rounds;
}

const plainPrompt =
  (marker: string) =>
  ([before]: readonly [string, string]) =>
    before + marker;

/** Templates whose rounds end with the end-of-text token. */
const llavaRounds =
  (marker: string, correctsPrefix: boolean): Mask =>
  (counted) => {
    const later = correctsPrefix && !counted.legacy ? 1 : 0;
    const corrections = { start: 1, prompt: 2, laterRound: later, laterPrompt: later };
    const rounds = counted.text.split(counted.eos);
    const measures = { round: (round: string) => round, prompt: plainPrompt(marker) };
    return orNothing(counted, countRounds(counted, rounds, marker, corrections, measures));
  };

const llavaChat =
  (separator: string, marker: string): Mask =>
  (counted) => {
    const later = counted.legacy ? -1 : 0;
    const corrections = { start: 0, prompt: 1, laterRound: later, laterPrompt: later };
    const measures = { round: (round: string) => round, prompt: plainPrompt(marker) };
    const rounds = chatRounds(counted.text, separator);
    return orNothing(counted, countRounds(counted, rounds, marker, corrections, measures));
  };

/** v0 counts turn by turn, each with a beginning-of-text token of its own, and leaves the first two ids of a question in the loss. */
const llavaTurns: Mask = ({ text, ids, measure }) => {
  const labels = Int32Array.from(ids);
  const [header, ...turns] = text.split(/(?=### (?:Human|Assistant): )/) as [string, ...string[]];
  // What ends the conversation is no turn.
  const last = turns.length - 1;
  if (last >= 0) turns[last] = turns[last]!.replace(/### $/, '');
  let at = measure(header);
  labels.fill(IGNORE, 0, at);
  for (const turn of turns) {
    const length = measure(turn);
    if (turn.startsWith('### Human: ')) labels.fill(IGNORE, at + 2, Math.max(at + 2, at + length));
    at += length;
  }
  return labels;
};

const nemoRounds =
  (marker: string, prompt: number, laterPrompt: number): Mask =>
  (counted) => {
    const { text, eos } = counted;
    const corrections = { start: 0, prompt, laterRound: 1, laterPrompt };
    const measures = { round: (round: string) => round + eos, prompt: plainPrompt(marker) };
    return countRounds(counted, text.split(eos), marker, corrections, measures).labels;
  };

const nemoChat =
  (attributes: boolean): Mask =>
  (counted) => {
    const separator = '<extra_id_1>';
    const marker = `${separator}Assistant\n`;
    const corrections = { start: 0, prompt: 0, laterRound: 0, laterPrompt: 0 };
    const measures = {
      round: (round: string) => round + separator,
      prompt: ([before, after]: readonly [string, string]) =>
        before + marker + (attributes ? (/<extra_id_2>quality:.*\n/.exec(after)?.[0] ?? '') : ''),
    };
    return countRounds(counted, chatRounds(counted.text, separator), marker, corrections, measures).labels;
  };

/** By template; those that are missing count nothing (plain), or are later than the version that is followed. */
export const LLAVA_MASKS: Readonly<Record<string, Mask>> = {
  v1: llavaRounds(' ASSISTANT: ', true),
  vicuna_v1: llavaRounds(' ASSISTANT: ', true),
  llava_v1: llavaRounds(' ASSISTANT: ', true),
  llama_2: llavaRounds('[/INST] ', false),
  llava_llama_2: llavaRounds('[/INST] ', false),
  mistral_instruct: llavaRounds('[/INST] ', false),
  mpt: llavaChat('<|im_end|>', '<|im_end|><|im_start|>assistant\n'),
  chatml_direct: llavaChat('<|im_end|>', '<|im_end|><|im_start|>assistant\n'),
  v0: llavaTurns,
  llava_v0: llavaTurns,
};

export const NEMO_MASKS: Readonly<Record<string, Mask>> = {
  v1: nemoRounds(' ASSISTANT: ', 1, 1),
  vicuna_v1: nemoRounds(' ASSISTANT: ', 1, 1),
  llama_2: nemoRounds('[/INST] ', 2, 0),
  llava_llama_2: nemoRounds('[/INST] ', 2, 0),
  nvgpt: nemoChat(true),
  nv_steerlm: nemoChat(true),
  nv_dpo: nemoChat(false),
};
