/** What `neva download` wrote, read by huggingface_hub offline; and neva reads what huggingface_hub fetched. Needs huggingface_hub in python3. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { promisify } from 'node:util';
import { localPath } from '../../src/checkpoint/hub.ts';
import { downloadModel } from '../../src/checkpoint/hub_download.ts';
import { packageRoot } from '../../src/root.ts';
import { nevaArgs } from '../cli/neva.ts';
import { fixture } from '../support/fixtures.ts';
import { openFakeHub } from '../support/hub.ts';

const run = promisify(execFile);
const commit = '1'.repeat(40);
const files = Object.fromEntries(
  ['config.json', 'model.safetensors'].map((name) => [name, readFileSync(fixture(`llava/vision/${name}`))]),
);
const hub = await openFakeHub([
  { name: 'openai/clip-tiny', refs: { main: commit }, files, large: ['model.safetensors'], token: 'hf_good' },
]);
const homes = [0, 1].map(() => mkdtempSync(join(tmpdir(), 'neva-hub-')));
after(async () => {
  await hub.close();
  for (const home of homes) rmSync(home, { recursive: true });
});
const hashes = Object.fromEntries(
  Object.entries(files).map(([name, bytes]) => [name, createHash('sha256').update(bytes).digest('hex')]),
);
const environmentOf = (home: string) => ({
  HF_HOME: home,
  HF_ENDPOINT: hub.url,
  HF_TOKEN: 'hf_good',
  HF_HUB_DISABLE_XET: '1',
});

async function found(home: string, ...args: string[]) {
  const env = { ...process.env, ...environmentOf(home), HF_HUB_OFFLINE: '1' };
  const { stdout } = await run('python3', [join(packageRoot, 'test/tools/check_hub.py'), ...args], { env });
  return JSON.parse(stdout);
}

test('huggingface_hub reads what neva fetched, by the command', async () => {
  const env = { ...process.env, ...environmentOf(homes[0]!) };
  const { stdout } = await run(process.execPath, nevaArgs(['download', 'openai/clip-tiny', '--json']), { env });
  assert.equal(JSON.parse(stdout).commit, commit);
  assert.deepEqual(await found(homes[0]!, 'openai/clip-tiny'), {
    warnings: [],
    commit,
    refs: ['main'],
    files: hashes,
  });
});

test('neva reads what huggingface_hub fetched, and fetches none of it again', async () => {
  const environment = environmentOf(homes[1]!);
  const script = 'import sys, huggingface_hub; huggingface_hub.snapshot_download(sys.argv[1])';
  await run('python3', ['-c', script, 'openai/clip-tiny'], { env: { ...process.env, ...environment } });
  const folder = localPath('openai/clip-tiny', environment);
  const before = hub.requests.length;
  assert.equal((await downloadModel('openai/clip-tiny', { environment })).folder, folder);
  // By the same names of blobs: neither fetched again.
  assert.deepEqual(
    hub.requests.slice(before).filter((line) => line.includes('/resolve/')),
    [],
  );
});
