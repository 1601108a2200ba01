import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { verbs } from '../../src/cli/verbs.ts';
import { packageRoot } from '../../src/root.ts';

const read = (name: string) => readFileSync(join(packageRoot, name), 'utf8');

test('every source file that the documents name exists', () => {
  for (const name of ['README.md', 'CONTRIBUTING.md', 'docs/architecture.md', 'docs/decisions.md']) {
    const named = [
      ...read(name).matchAll(/\b(?:src|native|scripts|bin|conf|docs|test)\/[\w./-]*\.(?:ts|js|cpp|h|md)\b/g),
    ];
    assert.ok(named.length > 0, `${name} names no file`);
    for (const [path] of named)
      assert.ok(existsSync(join(packageRoot, path)), `${name} names ${path}, which is not there`);
  }
});

test('every verb that the README shows is one', () => {
  const shown = [...read('README.md').matchAll(/^ {4}(?:npx )?neva (?:&& )?([a-z-]+)/gm)].map((match) => match[1]!);
  assert.ok(shown.length >= 5);
  for (const name of shown)
    assert.ok(
      verbs.some((verb) => verb.name === name),
      `no verb ${name}`,
    );
});

test('continuous integration runs what the README tells a newcomer to run', () => {
  const command = /## Tests\n {4}(.*)\n/.exec(read('README.md'))?.[1];
  assert.equal(command, 'npm ci && npm test');
  assert.equal(read('.ci/run').trimEnd().split('\n').at(-1), command);
});
