/**
 * The vocabulary in which the schema is written. A field is a leaf (one key), a section a mapping of them; the static
 * type of a configuration follows from the same objects (`Infer`), so that a key is written down once.
 */

/** What a key is worth here, compared with NeMo. */
export type Status =
  | { readonly kind: 'works' }
  /** Accepted, for compatibility; changes nothing, for this reason. */
  | { readonly kind: 'no-effect'; readonly reason: string }
  /** Only the default may be given; anything else is refused with this advice. */
  | { readonly kind: 'refused'; readonly instead: string };

export type FieldType = 'int' | 'float' | 'bool' | 'string' | 'choice' | 'list' | 'mapping';

export interface Field<T> {
  readonly node: 'field';
  readonly type: FieldType;
  readonly default: T;
  readonly nullable: boolean;
  readonly help: string;
  readonly status: Status;
  /** Version of neva that brought the key. */
  readonly since: string;
  /** Inclusive bounds of a number. */
  readonly min?: number;
  readonly max?: number;
  /** Lower bound is excluded (a rate, a size in metres: anything but zero). */
  readonly exclusiveMin?: boolean;
  readonly choices?: readonly string[];
  /** Other spellings → the choice (or number) that they mean. */
  readonly synonyms?: Readonly<Record<string, string | number>>;
  /** Elements of a list. */
  readonly items?: Field<unknown>;
  /** Elements of a list that are mappings with keys of their own. */
  readonly each?: Section<Fields>;
  readonly length?: number;
  /** A string that names something on disk (completed as a path, `~` is expanded by nobody). */
  readonly path?: boolean;
  /** Where NeMo writes it, when under another name. */
  readonly nemo?: string;
}

export interface Section<F extends Fields> {
  readonly node: 'section';
  readonly help: string;
  readonly fields: F;
}

export interface Fields {
  readonly [key: string]: Field<unknown> | Section<Fields>;
}

export type SchemaNode = Field<unknown> | Section<Fields>;

/** The value type of a field, or the object type of a section. */
export type Infer<N> =
  N extends Field<infer T> ? T : N extends Section<infer F> ? { -readonly [K in keyof F]: Infer<F[K]> } : never;

export interface FieldOptions {
  min?: number;
  max?: number;
  exclusiveMin?: boolean;
  nullable?: boolean;
  status?: Status;
  since?: string;
  synonyms?: Record<string, string | number>;
  path?: boolean;
  length?: number;
  nemo?: string;
}

type Nullable = FieldOptions & { nullable: true };

const WORKS: Status = { kind: 'works' };

/** Accepted without effect. */
export const noEffect = (reason: string): { status: Status } => ({ status: { kind: 'no-effect', reason } });
/** Refused unless it has its default value. */
export const refused = (instead: string): { status: Status } => ({ status: { kind: 'refused', instead } });

function field<T>(type: FieldType, value: T, help: string, options: FieldOptions, more: object = {}): Field<T> {
  const { nullable = value === null, status = WORKS, since = '0.1', ...rest } = options;
  return { node: 'field', type, default: value, nullable, help, status, since, ...rest, ...more };
}

export function int(value: null, help: string, options?: FieldOptions): Field<number | null>;
export function int(value: number, help: string, options: Nullable): Field<number | null>;
export function int(value: number, help: string, options?: FieldOptions): Field<number>;
export function int(value: number | null, help: string, options: FieldOptions = {}): Field<number | null> {
  return field('int', value, help, options);
}

export function float(value: null, help: string, options?: FieldOptions): Field<number | null>;
export function float(value: number, help: string, options: Nullable): Field<number | null>;
export function float(value: number, help: string, options?: FieldOptions): Field<number>;
export function float(value: number | null, help: string, options: FieldOptions = {}): Field<number | null> {
  return field('float', value, help, options);
}

export function bool(value: null, help: string, options?: FieldOptions): Field<boolean | null>;
export function bool(value: boolean, help: string, options: Nullable): Field<boolean | null>;
export function bool(value: boolean, help: string, options?: FieldOptions): Field<boolean>;
export function bool(value: boolean | null, help: string, options: FieldOptions = {}): Field<boolean | null> {
  return field('bool', value, help, options);
}

export function str(value: null, help: string, options?: FieldOptions): Field<string | null>;
export function str(value: string, help: string, options: Nullable): Field<string | null>;
export function str(value: string, help: string, options?: FieldOptions): Field<string>;
export function str(value: string | null, help: string, options: FieldOptions = {}): Field<string | null> {
  return field('string', value, help, options);
}

/** A string that names a file or folder. */
export function path(value: null, help: string, options?: FieldOptions): Field<string | null>;
export function path(value: string, help: string, options: Nullable): Field<string | null>;
export function path(value: string, help: string, options?: FieldOptions): Field<string>;
export function path(value: string | null, help: string, options: FieldOptions = {}): Field<string | null> {
  return field('string', value, help, { ...options, path: true });
}

/** One of a fixed set of strings. */
export function choice<const C extends readonly string[]>(
  choices: C,
  value: null,
  help: string,
  options?: FieldOptions,
): Field<C[number] | null>;
export function choice<const C extends readonly string[]>(
  choices: C,
  value: C[number],
  help: string,
  options: Nullable,
): Field<C[number] | null>;
export function choice<const C extends readonly string[]>(
  choices: C,
  value: C[number],
  help: string,
  options?: FieldOptions,
): Field<C[number]>;
export function choice(
  choices: readonly string[],
  value: string | null,
  help: string,
  options: FieldOptions = {},
): Field<string | null> {
  return field('choice', value, help, options, { choices });
}

export function list<T>(items: Field<T>, value: null, help: string, options?: FieldOptions): Field<T[] | null>;
export function list<T>(items: Field<T>, value: T[], help: string, options: Nullable): Field<T[] | null>;
export function list<T>(items: Field<T>, value: T[], help: string, options?: FieldOptions): Field<T[]>;
export function list<T>(items: Field<T>, value: T[] | null, help: string, options: FieldOptions = {}) {
  return field('list', value, help, options, { items });
}

/** A list of mappings, each with the keys of `each`; null unless given. */
export function sections<const F extends Fields>(
  each: Section<F>,
  help: string,
  options: FieldOptions = {},
): Field<Infer<Section<F>>[] | null> {
  return field<Infer<Section<F>>[] | null>('list', null, help, options, { each });
}

/** A mapping whose keys are nobody's business here: variables for interpolation, a launcher's own settings. */
export function mapping(help: string, options: FieldOptions = {}): Field<Record<string, unknown>> {
  return field<Record<string, unknown>>('mapping', {}, help, options);
}

export function section<const F extends Fields>(help: string, fields: F): Section<F> {
  return { node: 'section', help, fields };
}
