import { ConfigError } from '../error.ts';

/** A place in one override. Its errors show the text with a caret under the column. */
export class Cursor {
  readonly source: string;
  at: number;

  constructor(source: string, at = 0) {
    this.source = source;
    this.at = at;
  }

  get done(): boolean {
    return this.at >= this.source.length;
  }

  peek(ahead = 0): string {
    return this.source[this.at + ahead] ?? '';
  }

  /** What a sticky pattern matches here, consumed; null when it does not match. */
  take(pattern: RegExp): string | null {
    pattern.lastIndex = this.at;
    const match = pattern.exec(this.source);
    if (match === null) return null;
    this.at += match[0].length;
    return match[0];
  }

  skipBlanks(): void {
    while (this.peek() === ' ' || this.peek() === '\t') this.at++;
  }

  fail(what: string, fix?: string, at = this.at): never {
    throw overrideError(this.source, what, fix, at);
  }
}

export function overrideError(source: string, what: string, fix: string | undefined, at: number): ConfigError {
  const start = Math.max(0, at - 60);
  const shown = source.slice(start, at + 40).replace(/[\t\n\r]/g, ' ');
  const lines = [
    `override, column ${at + 1}: ${what}`,
    `  ${start > 0 ? '…' : ''}${shown}`,
    `  ${' '.repeat(at - start + (start > 0 ? 1 : 0))}^`,
  ];
  if (fix !== undefined) lines.push(`  fix:      ${fix}`);
  return new ConfigError(lines.join('\n'));
}

/** The character in words, for messages. */
export function nameCharacter(char: string): string {
  const names: Record<string, string> = {
    '': 'the end',
    ' ': 'a blank',
    '\t': 'a tab',
    '\n': 'a line break',
    '#': "a hash '#'",
    '!': "an exclamation mark '!'",
    '&': "an ampersand '&'",
    ';': "a semicolon ';'",
    '<': "an angle bracket '<'",
    '>': "an angle bracket '>'",
    '^': "a caret '^'",
    '~': "a tilde '~'",
    '`': "a backtick '`'",
    '"': "a double quote '\"'",
    "'": 'a single quote "\'"',
    '=': "an equals sign '='",
    ',': "a comma ','",
    '(': "a parenthesis '('",
    ')': "a parenthesis ')'",
    '[': "a bracket '['",
    ']': "a bracket ']'",
    '{': "a brace '{'",
    '}': "a brace '}'",
  };
  return names[char] ?? `'${char}'`;
}

/** A text as one word of a POSIX shell. */
export function shellQuote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
