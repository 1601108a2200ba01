import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { hubCache, localPath } from '../../src/checkpoint/hub.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { fixture } from '../support/fixtures.ts';

const home = mkdtempSync(join(tmpdir(), 'neva-hub-'));
after(() => rmSync(home, { recursive: true }));
const repository = join(home, 'hub', 'models--openai--clip-tiny');
const environment = { HF_HOME: home };
const refuses = (path: string, expected: RegExp) =>
  assert.throws(
    () => localPath(path, environment),
    (error: unknown) => isUserError(error) && expected.test(error.message),
  );

test('the cache is where huggingface_hub keeps it', () => {
  assert.equal(hubCache({}), join(homedir(), '.cache/huggingface/hub'));
  assert.equal(hubCache({ XDG_CACHE_HOME: '/x' }), '/x/huggingface/hub');
  assert.equal(hubCache({ HF_HOME: '/h', XDG_CACHE_HOME: '/x' }), '/h/hub');
  assert.equal(hubCache({ HF_HUB_CACHE: '/c', HF_HOME: '/h' }), '/c');
});

test('a name that is not in the cache is refused with the command that fetches it', () => {
  refuses('openai/clip-tiny', /models--openai--clip-tiny[\s\S]*neva download openai\/clip-tiny/);
  refuses('no/such/path', /no such file or folder$/);
  refuses('../openai', /no such file or folder$/);
});

test('a name of the hub is the snapshot that refs/main names', () => {
  cpSync(fixture('llava/vision'), join(repository, 'snapshots', 'abc123'), { recursive: true });
  assert.equal(localPath('openai/clip-tiny', environment), join(repository, 'snapshots', 'abc123'));
  mkdirSync(join(repository, 'snapshots', 'def456'));
  refuses('openai/clip-tiny', /does not say which revision/);
  mkdirSync(join(repository, 'refs'));
  writeFileSync(join(repository, 'refs', 'main'), 'fff000');
  refuses('openai/clip-tiny', /lacks the revision/);
  writeFileSync(join(repository, 'refs', 'main'), '../../..');
  refuses('openai/clip-tiny', /does not say which revision/);
  writeFileSync(join(repository, 'refs', 'main'), 'abc123\n');
  assert.equal(localPath('openai/clip-tiny', environment), join(repository, 'snapshots', 'abc123'));
});

test('weights open under a name of the hub', () => {
  process.env.HF_HOME = home;
  try {
    const { path, config } = openWeights('openai/clip-tiny');
    assert.equal(path, join(repository, 'snapshots', 'abc123'));
    assert.equal(config?.kind, 'clip');
  } finally {
    delete process.env.HF_HOME;
  }
});

test('a folder of that name in the working folder comes first', () => {
  const before = process.cwd();
  process.chdir(home);
  try {
    mkdirSync(join('openai', 'clip-tiny'), { recursive: true });
    assert.equal(localPath('openai/clip-tiny', environment), join(process.cwd(), 'openai', 'clip-tiny'));
  } finally {
    process.chdir(before);
  }
});
