/**
 * What the value of an override can be, with the types that Python would tell apart: 1 and 1.0 differ, integers are
 * unbounded, and a quoted string remembers its quotes so that it can be printed again.
 */

export type Quote = '"' | "'";

export type Element =
  | { readonly kind: 'null' }
  | { readonly kind: 'bool'; readonly value: boolean }
  | { readonly kind: 'int'; readonly value: number | bigint }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'string'; readonly value: string; readonly quote: Quote | null }
  | { readonly kind: 'list'; readonly items: readonly Element[] }
  | { readonly kind: 'dict'; readonly entries: readonly (readonly [Element, Element])[] };

/** An element that holds no others. */
export type ScalarElement = Exclude<Element, { kind: 'list' | 'dict' }>;

export type NumberElement = Extract<Element, { kind: 'int' | 'float' }>;

/** Several values, one job each. */
export type Sweep =
  | {
      readonly kind: 'choice';
      readonly items: readonly Element[];
      /** Written as `a,b` and not as `choice(a,b)`. */
      readonly simple: boolean;
      readonly shuffle: boolean;
      readonly tags: readonly string[];
    }
  | {
      readonly kind: 'range';
      readonly start: NumberElement;
      readonly stop: NumberElement;
      readonly step: NumberElement;
      readonly shuffle: boolean;
      readonly tags: readonly string[];
    }
  | { readonly kind: 'interval'; readonly start: Element; readonly end: Element; readonly tags: readonly string[] }
  | {
      readonly kind: 'glob';
      readonly include: readonly string[];
      readonly exclude: readonly string[];
      readonly tags: readonly string[];
    };

export type Value = Element | Sweep;

export function isSweep(value: Value): value is Sweep {
  return value.kind === 'choice' || value.kind === 'range' || value.kind === 'interval' || value.kind === 'glob';
}

/** A JavaScript number when it is exact, otherwise a bigint. */
export function makeInt(value: bigint): ScalarElement & { kind: 'int' } {
  const small = Number(value);
  return { kind: 'int', value: Number.isSafeInteger(small) ? small : value };
}

export const NULL: ScalarElement = { kind: 'null' };

export function text(value: string, quote: Quote | null = null): ScalarElement & { kind: 'string' } {
  return { kind: 'string', value, quote };
}

/** The plain JavaScript value: dict keys become strings, integers beyond 2^53 stay bigints. */
export function toPlain(element: Element): unknown {
  switch (element.kind) {
    case 'null':
      return null;
    case 'list':
      return element.items.map(toPlain);
    case 'dict':
      return Object.fromEntries(element.entries.map(([key, value]) => [keyText(key), toPlain(value)]));
    default:
      return element.value;
  }
}

/** The name under which a dict key is stored. */
export function keyText(key: Element): string {
  switch (key.kind) {
    case 'null':
      return 'null';
    case 'float':
      return floatText(key.value);
    case 'list':
    case 'dict':
      return printElement(key);
    default:
      return String(key.value);
  }
}

/** A float as Python prints it: always recognizable as one, exponents of two digits from 1e16 up and below 1e-4. */
export function floatText(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  if (Object.is(value, -0)) return '-0.0';
  if (value === 0) return '0.0';
  const [mantissa = '', exponentText = '0'] = value.toExponential().split('e');
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 16) {
    const digits = String(Math.abs(exponent)).padStart(2, '0');
    return `${mantissa}e${exponent < 0 ? '-' : '+'}${digits}`;
  }
  const plain = exponent < 0 ? value.toFixed(Math.max(0, fractionDigits(mantissa) - exponent)) : String(value);
  return plain.includes('.') ? plain : `${plain}.0`;
}

function fractionDigits(mantissa: string): number {
  return mantissa.split('.')[1]?.length ?? 0;
}

// Everything that the unquoted form cannot hold bare: the characters with an escape of their own.
const ESCAPED = /[\\()[\]{}:=, \t]/g;

/** An element in the override grammar; parsing it again gives the same element. */
export function printElement(element: Element): string {
  switch (element.kind) {
    case 'null':
      return 'null';
    case 'bool':
      // Python's spelling: jobs of a sweep are recorded like this.
      return element.value ? 'True' : 'False';
    case 'int':
      return String(element.value);
    case 'float':
      return floatText(element.value);
    case 'string':
      return element.quote === null
        ? element.value.replace(ESCAPED, '\\$&')
        : printQuoted(element.value, element.quote);
    case 'list':
      return `[${element.items.map(printElement).join(',')}]`;
    case 'dict':
      return `{${element.entries.map(([key, value]) => `${printElement(key)}:${printElement(value)}`).join(',')}}`;
  }
}

/** Backslashes count only right before a quote of the same kind, the closing one included: those are doubled. */
export function printQuoted(value: string, quote: Quote): string {
  const inside = value
    .replace(new RegExp(`(\\\\*)${quote}`, 'g'), `$1$1\\${quote}`)
    .replace(/\\+$/, (run) => run + run);
  return quote + inside + quote;
}
