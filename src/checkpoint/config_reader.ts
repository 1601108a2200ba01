/** Settings of a config.json, checked: what neva cannot compute is refused with the file, the key and both values. */
import { mistake } from '../errors.ts';

export type Json = Record<string, unknown>;

export class ConfigReader {
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  object(c: Json, key: string): Json {
    const value = c[key];
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      throw mistake({ where: this.#file, problem: `${key} is missing or no object` });
    }
    return value as Json;
  }

  number(c: Json, key: string, fallback?: number): number {
    const value = c[key] ?? fallback;
    if (typeof value !== 'number' || !Number.isFinite(value)) {
      throw mistake({ where: `${this.#file}: ${key}`, problem: 'not a number', found: JSON.stringify(value ?? null) });
    }
    return value;
  }

  positive(c: Json, key: string, fallback?: number): number {
    const value = this.number(c, key, fallback);
    if (value <= 0) throw mistake({ where: `${this.#file}: ${key}`, problem: 'not above 0', found: String(value) });
    return value;
  }

  count(c: Json, key: string, fallback?: number): number {
    const value = this.number(c, key, fallback);
    if (!Number.isInteger(value) || value < 1) {
      throw mistake({ where: `${this.#file}: ${key}`, problem: 'not a whole number above 0', found: String(value) });
    }
    return value;
  }

  /** A setting that neva's model has fixed; absent means the same. */
  mustBe(c: Json, key: string, value: unknown, prefix = ''): void {
    const found = c[key] ?? value;
    if (found !== value) this.refuse(prefix + key, String(value), JSON.stringify(found));
  }

  /** What a setting's value stands for, from a table of all that are known; absent means `fallback`. */
  oneOf<T>(c: Json, key: string, values: Readonly<Record<string, T>>, fallback: string): T {
    const found = String(c[key] ?? fallback);
    if (!Object.hasOwn(values, found)) this.refuse(key, Object.keys(values).join(', '), JSON.stringify(c[key]));
    return values[found]!;
  }

  refuse(what: string, expected: string, found: string): never {
    throw mistake({ where: this.#file, problem: `${what}: neva's model does not have this`, expected, found });
  }
}
