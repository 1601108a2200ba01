/** What a multirun runs: the product of all sweeps among its overrides. */
import { ConfigError, problem } from './error.ts';
import { type Element, isSweep, makeInt, type NumberElement, printElement, type Sweep } from './grammar/element.ts';
import { shuffleInPlace } from './grammar/functions.ts';
import { type Override, overrideKey } from './grammar/override.ts';

/** The options of a group, for `glob()`. */
export type GroupOptions = (group: string) => readonly string[];

/**
 * One list of overrides a job, the last override varying fastest. Values are printed anew, as Hydra does, so that
 * parsing them again gives the same.
 * @throws ConfigError for an interval, which holds no countable values
 */
export function expandJobs(overrides: readonly Override[], options: GroupOptions = () => []): string[][] {
  const dimensions = new Map<string, string[]>();
  for (const override of overrides) {
    const key = overrideKey(override);
    const { value } = override;
    const values =
      value === null ? ['null'] : isSweep(value) ? enumerate(value, override, options) : [printElement(value)];
    // The same key again takes the place of the earlier one.
    dimensions.set(
      key,
      values.map((text) => `${key}=${text}`),
    );
  }
  let jobs: string[][] = [[]];
  for (const values of dimensions.values()) jobs = jobs.flatMap((job) => values.map((value) => [...job, value]));
  return jobs;
}

function enumerate(sweep: Sweep, override: Override, options: GroupOptions): string[] {
  switch (sweep.kind) {
    case 'choice':
      return shuffled(sweep.items.map(printElement), sweep.shuffle);
    case 'range':
      return shuffled(rangeValues(sweep.start, sweep.stop, sweep.step, override).map(printElement), sweep.shuffle);
    case 'glob':
      return options(override.key).filter(
        (name) => sweep.include.some((p) => matches(name, p)) && !sweep.exclude.some((p) => matches(name, p)),
      );
    case 'interval':
      throw new ConfigError(
        problem(override.key, 'an interval holds no countable values', {
          from: `override ${override.text}`,
          fix: `write range(${printElement(sweep.start)},${printElement(sweep.end)},STEP)`,
        }),
      );
  }
}

function shuffled(items: string[], shuffle: boolean): string[] {
  if (shuffle) shuffleInPlace(items);
  return items;
}

/** More than anyone runs; a mistyped step must not fill the memory. */
const MOST = 100_000;

function rangeValues(start: NumberElement, stop: NumberElement, step: NumberElement, override: Override): Element[] {
  const fail = (what: string): never => {
    throw new ConfigError(problem(override.key, what, { from: `override ${override.text}` }));
  };
  const values: Element[] = [];
  const push = (element: Element): void => {
    if (values.push(element) > MOST) fail(`the range has more than ${MOST} values`);
  };
  if (start.kind === 'int' && stop.kind === 'int' && step.kind === 'int') {
    const by = BigInt(step.value);
    if (by === 0n) fail('the step of the range is 0');
    const end = BigInt(stop.value);
    for (let at = BigInt(start.value); by > 0n ? at < end : at > end; at += by) push(makeInt(at));
    return values;
  }
  for (const bound of [start, stop, step]) {
    if (!Number.isFinite(Number(bound.value))) fail('a range needs finite bounds');
  }
  const by = decimal(Number(step.value));
  if (by.digits === 0n) fail('the step of the range is 0');
  const end = decimal(Number(stop.value));
  for (
    let at = decimal(Number(start.value));
    by.digits > 0n ? compare(at, end) < 0 : compare(at, end) > 0;
    at = addRounded(at, by)
  ) {
    push({ kind: 'float', value: Number(`${at.digits}e${at.exponent}`) });
  }
  return values;
}

/** digits · 10^exponent. Hydra sums ranges of floats in Python's decimals of 28 digits; so do we, to get its values. */
interface Decimal {
  digits: bigint;
  exponent: number;
}

/** The exact value of a double. */
function decimal(value: number): Decimal {
  let exponent = 0;
  let scaled = value;
  while (!Number.isInteger(scaled)) {
    scaled *= 2;
    exponent++;
  }
  // scaled / 2^n = scaled · 5^n / 10^n
  return { digits: BigInt(scaled) * 5n ** BigInt(exponent), exponent: -exponent };
}

function align(a: Decimal, b: Decimal): [bigint, bigint, number] {
  const exponent = Math.min(a.exponent, b.exponent);
  const scale = (d: Decimal): bigint => d.digits * 10n ** BigInt(d.exponent - exponent);
  return [scale(a), scale(b), exponent];
}

function compare(a: Decimal, b: Decimal): number {
  const [x, y] = align(a, b);
  return x < y ? -1 : x > y ? 1 : 0;
}

function addRounded(a: Decimal, b: Decimal): Decimal {
  const [x, y, exponent] = align(a, b);
  const sum = x + y;
  const magnitude = sum < 0n ? -sum : sum;
  const excess = String(magnitude).length - 28;
  if (excess <= 0) return { digits: sum, exponent };
  const unit = 10n ** BigInt(excess);
  let kept = magnitude / unit;
  const twice = (magnitude % unit) * 2n;
  if (twice > unit || (twice === unit && kept % 2n === 1n)) kept += 1n;
  return { digits: sum < 0n ? -kept : kept, exponent: exponent + excess };
}

/** A shell pattern (`*`, `?`, `[…]`, `[!…]`) against a whole name. */
function matches(name: string, pattern: string): boolean {
  let source = '';
  for (let i = 0; i < pattern.length; i++) {
    const char = pattern[i] as string;
    const close = char === '[' ? pattern.indexOf(']', i + 2) : -1;
    if (char === '*') source += '.*';
    else if (char === '?') source += '.';
    else if (close > 0) {
      const inner = pattern.slice(i + 1, close).replaceAll('\\', '\\\\');
      source += inner.startsWith('!') ? `[^${inner.slice(1)}]` : `[${inner.replace(/^\^/, '\\^')}]`;
      i = close;
    } else source += char.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
  }
  return new RegExp(`^${source}$`, 's').test(name);
}
