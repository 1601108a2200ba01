/** The part of an override after the first `=`: Hydra 1.3's value grammar, and the few things it refuses needlessly. */
import { type Cursor, nameCharacter, shellQuote } from './cursor.ts';
import { type Element, isSweep, makeInt, NULL, type Quote, type ScalarElement, text, type Value } from './element.ts';
import { callFunction } from './functions.ts';

const UNSIGNED = '(?:0|[1-9](?:_?[0-9])*)';
const POINT = `(?:${UNSIGNED}?\\.[0-9](?:_?[0-9])*|${UNSIGNED}\\.)`;
const INT = new RegExp(`^[+-]?${UNSIGNED}$`);
const FLOAT = new RegExp(
  `^[+-]?(?:${POINT}|(?:${POINT}|${UNSIGNED})[eE][+-]?[0-9](?:_?[0-9])*|[iI][nN][fF]|[nN][aA][nN])$`,
);
const FUNCTION = /[A-Za-z_][A-Za-z0-9_-]*[ \t]*\(/y;
const ARGUMENT_NAME = /[A-Za-z_][A-Za-z0-9_-]*[ \t]*=/y;
const BARE = /[A-Za-z0-9_/\-+.%*@?|: \t]|[^\p{ASCII}]/u;
const ESCAPABLE = '\\()[]{}:=, \t';

/** How deep lists, dicts and calls may nest: far beyond use, short of the stack. */
const DEEPEST = 200;

/** Reads the whole value; `a,b` at the top is a sweep. The cursor ends at the end of the text. */
export function parseValue(cursor: Cursor): Value {
  cursor.skipBlanks();
  if (cursor.done) return text('');
  const first = parseElement(cursor, 'top', 0);
  cursor.skipBlanks();
  if (cursor.done) return first;
  const items = [requireElement(cursor, first)];
  while (cursor.peek() === ',') {
    cursor.at++;
    cursor.skipBlanks();
    items.push(requireElement(cursor, parseElement(cursor, 'top', 0)));
    cursor.skipBlanks();
  }
  if (!cursor.done) unexpected(cursor);
  return { kind: 'choice', items, simple: true, shuffle: false, tags: [] };
}

function requireElement(cursor: Cursor, value: Value): Element {
  if (isSweep(value)) {
    return cursor.fail(
      `${value.kind}(…) cannot be a value inside another one`,
      'write the sweep by itself, as the whole value',
    );
  }
  return value;
}

type Place = 'top' | 'list' | 'dict' | 'call';

function parseElement(cursor: Cursor, place: Place, depth: number): Value {
  if (depth > DEEPEST) cursor.fail(`nested deeper than ${DEEPEST} levels`);
  const next = cursor.peek();
  if (next === '[') return parseList(cursor, depth);
  if (next === '{') return parseDict(cursor, depth);
  if (next === '"' || next === "'") return parseQuoted(cursor, next);
  const head = cursor.take(FUNCTION);
  if (head !== null) return parseCall(cursor, head, depth);
  return parseUnquoted(cursor, place);
}

function parseList(cursor: Cursor, depth: number): Element {
  const open = cursor.at++;
  const items: Element[] = [];
  cursor.skipBlanks();
  if (cursor.peek() !== ']') {
    for (;;) {
      items.push(requireElement(cursor, parseElement(cursor, 'list', depth + 1)));
      cursor.skipBlanks();
      if (cursor.peek() !== ',') break;
      cursor.at++;
      cursor.skipBlanks();
    }
  }
  if (cursor.peek() !== ']') unclosed(cursor, open, ']');
  cursor.at++;
  return { kind: 'list', items };
}

function parseDict(cursor: Cursor, depth: number): Element {
  const open = cursor.at++;
  const entries = new Map<string, readonly [Element, Element]>();
  cursor.skipBlanks();
  if (cursor.peek() !== '}') {
    for (;;) {
      const key = parseDictKey(cursor);
      cursor.skipBlanks();
      if (cursor.peek() !== ':') {
        cursor.fail(`a ':' is missing after the key, here stands ${nameCharacter(cursor.peek())}`, 'write {key:value}');
      }
      cursor.at++;
      cursor.skipBlanks();
      const value = requireElement(cursor, parseElement(cursor, 'dict', depth + 1));
      const identity = dictIdentity(key);
      // As in Python, a repeated key keeps its first place and takes the last value.
      entries.set(identity, [entries.get(identity)?.[0] ?? key, value]);
      cursor.skipBlanks();
      if (cursor.peek() !== ',') break;
      cursor.at++;
      cursor.skipBlanks();
    }
  }
  if (cursor.peek() !== '}') unclosed(cursor, open, '}');
  cursor.at++;
  return { kind: 'dict', entries: [...entries.values()] };
}

/** Keys that Python's dict would hold to be the same: 1, 1.0 and True are. */
function dictIdentity(key: Element): string {
  if (key.kind === 'string') return `s:${key.value}`;
  if (key.kind === 'bool') return `n:${Number(key.value)}`;
  if (key.kind === 'int' || key.kind === 'float') return `n:${key.value}`;
  return key.kind;
}

function parseDictKey(cursor: Cursor): Element {
  const next = cursor.peek();
  if (next === '"' || next === "'") return parseQuoted(cursor, next);
  return parseUnquoted(cursor, 'key');
}

function parseCall(cursor: Cursor, head: string, depth: number): Value {
  const start = cursor.at - head.length;
  const name = head.slice(0, -1).trimEnd();
  const positional: Value[] = [];
  const named = new Map<string, Value>();
  cursor.skipBlanks();
  if (cursor.peek() !== ')') {
    for (;;) {
      const label = cursor.take(ARGUMENT_NAME)?.slice(0, -1).trimEnd();
      cursor.skipBlanks();
      const value = unquote(parseElement(cursor, 'call', depth + 1));
      if (label !== undefined) named.set(label, value);
      else if (named.size > 0) cursor.fail('a positional argument follows a named one', 'put the named arguments last');
      else positional.push(value);
      cursor.skipBlanks();
      if (cursor.peek() !== ',') break;
      cursor.at++;
      cursor.skipBlanks();
    }
  }
  if (cursor.peek() !== ')') unclosed(cursor, start + head.length - 1, ')');
  cursor.at++;
  return callFunction(name, positional, named, (what, fix) => cursor.fail(what, fix, start));
}

function unquote(value: Value): Value {
  return value.kind === 'string' ? text(value.value) : value;
}

function parseQuoted(cursor: Cursor, quote: Quote): Element {
  const open = cursor.at++;
  let value = '';
  for (;;) {
    if (cursor.done) {
      cursor.fail(`the string that ${nameCharacter(quote)} opens is not closed`, `end it with ${quote}`, open);
    }
    const char = cursor.peek();
    if (char === quote) break;
    if (char !== '\\') {
      value += char;
      cursor.at++;
      continue;
    }
    let run = 0;
    while (cursor.peek(run) === '\\') run++;
    const after = cursor.peek(run);
    cursor.at += run;
    if (after !== quote) {
      value += '\\'.repeat(run);
    } else {
      value += '\\'.repeat(Math.floor(run / 2));
      if (run % 2 === 1) {
        value += quote;
        cursor.at++;
      }
    }
  }
  cursor.at++;
  const next = cursor.peek(cursor.source.slice(cursor.at).match(/^[ \t]*/)?.[0].length ?? 0);
  if (next !== '' && !',)]}:'.includes(next)) {
    cursor.skipBlanks();
    cursor.fail(
      `${nameCharacter(next)} follows a closed string; a quoted string must be the whole element`,
      'put everything inside one pair of quotes',
    );
  }
  return text(value, quote);
}

/** A run of legal characters. One token keeps its type; everything else is a string made of the raw text. */
function parseUnquoted(cursor: Cursor, place: Place | 'key'): Element {
  const start = cursor.at;
  let value = '';
  // Blanks at the end are dropped unless they were escaped.
  let kept = 0;
  let escaped = false;
  while (!cursor.done) {
    const char = cursor.peek();
    if (char === '\\') {
      const next = cursor.peek(1);
      if (next !== '' && ESCAPABLE.includes(next)) {
        value += next;
        cursor.at += 2;
        escaped = true;
      } else {
        value += '\\';
        cursor.at++;
      }
      kept = value.length;
    } else if (char === '$') {
      if (cursor.peek(1) === '{') {
        if (place === 'key') cursor.fail('an interpolation cannot be a key', 'write the key out');
        value += takeInterpolation(cursor);
      } else {
        value += char;
        cursor.at++;
      }
      kept = value.length;
    } else {
      if (place === 'key' && char === ':') break;
      const whole = String.fromCodePoint(cursor.source.codePointAt(cursor.at) ?? 0);
      if (!BARE.test(whole)) break;
      value += whole;
      cursor.at += whole.length;
      if (char !== ' ' && char !== '\t') kept = value.length;
    }
  }
  value = value.slice(0, kept);
  if (cursor.at === start || value === '') unexpected(cursor);
  if (!cursor.done && !endsElement(cursor, place)) unexpected(cursor, start);
  return escaped ? text(value) : typed(value);
}

function endsElement(cursor: Cursor, place: Place | 'key'): boolean {
  const ends = { top: ',', list: ',]', dict: ',}', call: ',)', key: ':' }[place];
  return ends.includes(cursor.peek());
}

/** `${…}` up to its own closing brace; braces and quotes inside are matched. */
function takeInterpolation(cursor: Cursor): string {
  const start = cursor.at;
  let depth = 0;
  do {
    if (cursor.done) cursor.fail("an interpolation '${' is not closed", "end it with '}'", start);
    const char = cursor.peek();
    if (char === '{') depth++;
    else if (char === '}') depth--;
    else if (char === "'" || char === '"') skipString(cursor, char);
    cursor.at++;
  } while (depth > 0 || cursor.at === start + 1);
  const taken = cursor.source.slice(start, cursor.at);
  if (taken === '${}') cursor.fail('an interpolation is empty', 'name a key: ${model.hidden_size}', start);
  return taken;
}

/** To the closing quote, when there is one; a lone quote is left to the interpolation's own grammar. */
function skipString(cursor: Cursor, quote: Quote): void {
  for (let at = cursor.at + 1; at < cursor.source.length; at++) {
    if (cursor.source[at] === '\\') at++;
    else if (cursor.source[at] === quote) {
      cursor.at = at;
      return;
    }
  }
}

/** The type of a single unquoted token. */
export function typed(value: string): ScalarElement {
  if (INT.test(value)) return makeInt(BigInt(value.replace(/[_+]/g, '')));
  if (FLOAT.test(value)) return { kind: 'float', value: parseFloatText(value) };
  switch (value.toLowerCase()) {
    case 'true':
      return { kind: 'bool', value: true };
    case 'false':
      return { kind: 'bool', value: false };
    case 'null':
      return NULL;
    default:
      return text(value);
  }
}

/** Python's float(): inf and nan in any case, underscores between digits. */
export function parseFloatText(value: string): number {
  const lower = value.toLowerCase().replaceAll('_', '');
  if (lower.endsWith('inf')) return lower.startsWith('-') ? -Infinity : Infinity;
  if (lower.endsWith('nan')) return Number.NaN;
  return Number(lower);
}

function unclosed(cursor: Cursor, open: number, close: string): never {
  const what = nameCharacter(cursor.source[open] ?? '');
  if (cursor.done) cursor.fail(`${what} is not closed`, `end it with ${close}`, open);
  return unexpected(cursor);
}

function unexpected(cursor: Cursor, from = cursor.at): never {
  const char = cursor.peek();
  if (char === '') cursor.fail('a value is missing here', "an empty string is written ''");
  const equals = cursor.source.indexOf('=');
  const key = cursor.source.slice(0, equals + 1);
  const value = cursor.source.slice(equals + 1).trim();
  const whole = `${key}${value.includes("'") ? `"${value.replaceAll('"', '\\"')}"` : `'${value}'`}`;
  const hint =
    char === ',' || char === ']' || char === '}' || char === ')'
      ? from === cursor.at
        ? 'an element is missing before it; remove it, or escape it with a backslash'
        : 'escape it with a backslash, or quote the value'
      : `quote the value; in the shell: ${shellQuote(whole)}`;
  return cursor.fail(`${nameCharacter(char)} cannot stand here unquoted`, hint);
}
