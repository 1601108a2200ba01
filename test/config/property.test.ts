/** For any input: parsing throws nothing but ConfigError, and what is printed parses to the same. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ConfigError } from '../../src/config/error.ts';
import { type Element, makeInt, NULL, printElement, text, type Value } from '../../src/config/grammar/element.ts';
import { parseOverride, printOverride } from '../../src/config/grammar/override.ts';
import { split } from '../../src/config/interpolation.ts';
import { readYaml } from '../../src/config/yaml.ts';
import { typedValue } from './fixtures.ts';

/** Only our own error may come out. */
function harmless(run: () => unknown): void {
  try {
    run();
  } catch (error) {
    assert.ok(error instanceof ConfigError, String(error instanceof Error ? error.stack : error));
  }
}

// Mostly the characters that mean something, so that most of the grammar is reached.
const grammarText = fc
  .array(
    fc.constantFrom(
      ...'abz019_-+.,:=()[]{}\'"\\$@~/ \t#é',
      'choice(',
      'range(',
      'int(',
      'tag(',
      'sort(',
      'glob(',
      'shuffle(',
      '${',
      'null',
      'true',
      '1e5',
      'inf',
    ),
    { maxLength: 24 },
  )
  .map((parts) => parts.join(''));

test('parsing an override throws nothing but ConfigError', () => {
  fc.assert(
    fc.property(grammarText, (source) => harmless(() => parseOverride(source))),
    { numRuns: 3000 },
  );
  fc.assert(
    fc.property(grammarText, (value) => harmless(() => parseOverride(`key=${value}`))),
    { numRuns: 3000 },
  );
  fc.assert(fc.property(fc.string({ unit: 'binary' }), (source) => harmless(() => parseOverride(`k=${source}`))));
});

test('reading YAML and cutting interpolations throws nothing but ConfigError', () => {
  fc.assert(
    fc.property(grammarText, (source) => harmless(() => readYaml(source, 'x.yaml'))),
    { numRuns: 1000 },
  );
  fc.assert(
    fc.property(grammarText, (source) => harmless(() => split(source))),
    { numRuns: 1000 },
  );
});

test('deep nesting is refused, not a stack overflow', () => {
  assert.throws(() => parseOverride(`k=${'['.repeat(100_000)}`), ConfigError);
  assert.throws(() => parseOverride(`k=${'int('.repeat(100_000)}`), ConfigError);
  assert.throws(() => parseOverride(`k=${'{a:'.repeat(100_000)}`), ConfigError);
});

const leaf: fc.Arbitrary<Element> = fc.oneof(
  fc.constant(NULL),
  fc.boolean().map((value): Element => ({ kind: 'bool', value })),
  fc.bigInt({ min: -(10n ** 30n), max: 10n ** 30n }).map((value): Element => makeInt(value)),
  fc.double().map((value): Element => ({ kind: 'float', value })),
  fc.string({ unit: 'grapheme' }).map((value) => text(value, "'")),
  fc.string().map((value) => text(value, '"')),
  fc.array(fc.constantFrom('\\', "'", '"', 'a', ' '), { maxLength: 8 }).map((parts) => text(parts.join(''), "'")),
);

// Unquoted text as the parser itself makes it: whatever it reads out of a bare word.
const bare: fc.Arbitrary<Element> = fc
  .array(fc.constantFrom(...'abc01_-+.:/\\%*@?|$ ,=()[]{}', 'é', 'true', '1.5'), { minLength: 1, maxLength: 8 })
  .map((parts) => text(parts.join('')))
  .filter((element) => {
    const value = (element as { value: string }).value;
    return !value.includes('${') && reads(element);
  });

/** A bare string has an unquoted form only if it does not look like another type. */
function reads(element: Element): boolean {
  const value = (element as { value: string }).value;
  return !/^[+-]?[\d._einfa]*$/i.test(value) && !/^(?:true|false|null)$/i.test(value);
}

const element: fc.Arbitrary<Element> = fc.letrec<{ any: Element }>((tie) => ({
  any: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    leaf,
    bare,
    fc.array(tie('any'), { maxLength: 4 }).map((items): Element => ({ kind: 'list', items })),
    fc
      .uniqueArray(fc.tuple(fc.stringMatching(/^[a-z][a-z0-9_]{0,5}x$/), tie('any')), {
        maxLength: 4,
        selector: ([key]) => key,
      })
      .map((entries): Element => ({ kind: 'dict', entries: entries.map(([k, v]) => [text(k), v] as const) })),
  ),
})).any;

test('printing an element and parsing it again is the identity', () => {
  fc.assert(
    fc.property(element, (value) => {
      const again = parseOverride(`k=${printElement(value)}`).value as Value;
      assert.deepEqual(typedValue(again), typedValue(value));
    }),
    { numRuns: 2000 },
  );
});

test('printing any override that parses, and parsing it again, is the identity', () => {
  fc.assert(
    fc.property(grammarText, (value) => {
      let parsed: ReturnType<typeof parseOverride>;
      try {
        parsed = parseOverride(`key=${value}`);
      } catch {
        return;
      }
      // An unquoted interpolation is printed escaped, as Hydra does; str(1) is printed 1 and comes back a number.
      if (value.includes('${') || /(?:str|shuffle|sort|choice|int|tag)\(/.test(value)) return;
      const printed = printOverride(parsed);
      assert.deepEqual(typedValue(parseOverride(printed).value as Value), typedValue(parsed.value as Value), printed);
    }),
    { numRuns: 5000 },
  );
});
