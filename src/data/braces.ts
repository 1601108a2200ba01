/** Names of shards by a pattern: `shard-{000..099}.tar`, `{train,extra}/{0..3}.tar`. */
import { mistake } from '../errors.ts';

/** Beyond this a pattern is a slip of the keyboard. */
const MOST = 100_000;

/** Every path that a pattern with braces means, in order; the path itself where it has none. */
export function expandBraces(pattern: string): string[] {
  const found = /\{([^{}]*)\}/.exec(pattern);
  if (found === null) return [pattern];
  const [whole, inside] = found as unknown as [string, string];
  const before = pattern.slice(0, found.index);
  const after = expandBraces(pattern.slice(found.index + whole.length));
  const options = alternatives(inside, pattern);
  if (options.length * after.length > MOST) throw tooMany(pattern);
  return options.flatMap((option) => after.map((rest) => `${before}${option}${rest}`));
}

function alternatives(inside: string, pattern: string): string[] {
  const range = /^(\d+)\.\.(\d+)$/.exec(inside);
  if (range === null) {
    if (inside.includes(',')) return inside.split(',');
    throw mistake({
      where: pattern,
      problem: `{${inside}} is no pattern`,
      expected: 'a range like {000..099}, or a list like {a,b}',
    });
  }
  const [, low, high] = range as unknown as [string, string, string];
  const [from, to] = [Number(low), Number(high)];
  if (to < from) throw mistake({ where: pattern, problem: `the range {${inside}} runs backwards` });
  if (to - from >= MOST) throw tooMany(pattern);
  // {08..11}: as wide as it is written, as in a shell.
  const width = low.startsWith('0') || high.startsWith('0') ? Math.max(low.length, high.length) : 0;
  return Array.from({ length: to - from + 1 }, (_, i) => String(from + i).padStart(width, '0'));
}

const tooMany = (pattern: string) =>
  mistake({ where: pattern, problem: 'the pattern means too many files', expected: `at most ${MOST}` });
