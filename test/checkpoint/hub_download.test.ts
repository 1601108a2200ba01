/** `neva download` against a hub on this machine. test/slow/hub.test.ts has huggingface_hub read what it wrote. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import fs, {
  existsSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { localPath } from '../../src/checkpoint/hub.ts';
import { type DownloadOptions, downloadModel, type HubFile, wantedFiles } from '../../src/checkpoint/hub_download.ts';
import { openWeights } from '../../src/checkpoint/weights.ts';
import { isUserError } from '../../src/errors.ts';
import { fixture } from '../support/fixtures.ts';
import { openFakeHub } from '../support/hub.ts';

const commits = ['a', 'b', 'c'].map((letter) => letter.repeat(40)) as [string, string, string];
const noise = Buffer.from(Uint8Array.from({ length: 3_000_000 }, (_, i) => (i * 2654435761) >>> 24));
const tower = (name: string) => readFileSync(fixture(`llava/vision/${name}`));
const hub = await openFakeHub([
  {
    name: 'openai/clip-tiny',
    refs: { main: commits[0], 'v1.0': commits[1] },
    files: {
      'config.json': tower('config.json'),
      'model.safetensors': tower('model.safetensors'),
      'pytorch_model.bin': Buffer.from('the same once more'),
      'flax_model.msgpack': Buffer.from('x'),
      'README.md': Buffer.from('x'),
      'original/consolidated.00.pth': Buffer.from('x'),
      'special_tokens_map.json': Buffer.alloc(0),
    },
    large: ['model.safetensors'],
  },
  {
    name: 'org/big',
    refs: { main: commits[2] },
    files: { 'config.json': Buffer.from('{}'), 'model.safetensors': noise },
    large: ['model.safetensors'],
  },
  {
    name: 'meta-llama/tiny',
    refs: { main: commits[2] },
    files: { 'config.json': Buffer.from('{}') },
    token: 'hf_good',
  },
  { name: 'org/other', refs: { main: commits[2] }, files: { 'config.json': Buffer.from('{}') }, token: 'hf_other' },
]);
const home = mkdtempSync(join(tmpdir(), 'neva-download-'));
after(async () => {
  await hub.close();
  rmSync(home, { recursive: true, force: true });
});
let count = 0;
const fresh = () => ({ HF_HOME: join(home, String(count++)), HF_ENDPOINT: hub.url });
const fetched = (name: string, environment: NodeJS.ProcessEnv, more: DownloadOptions = {}) =>
  downloadModel(name, { environment, pauseMs: 1, ...more });
const refused = (name: string, environment: NodeJS.ProcessEnv, expected: RegExp) =>
  assert.rejects(fetched(name, environment), (error: Error) => {
    assert.ok(isUserError(error), error.stack);
    assert.match(error.message, expected);
    return true;
  });

test('a model is fetched into the cache’s layout, and its name then opens it', async () => {
  const environment = fresh();
  const progress: number[] = [];
  const found = await fetched('openai/clip-tiny', environment, { onProgress: (done) => progress.push(done) });
  const repository = join(environment.HF_HOME, 'hub', 'models--openai--clip-tiny');
  assert.equal(found.folder, join(repository, 'snapshots', commits[0]));
  assert.deepEqual(readdirSync(found.folder).sort(), ['config.json', 'model.safetensors', 'special_tokens_map.json']);
  assert.equal(readFileSync(join(repository, 'refs', 'main'), 'utf8'), commits[0]);
  const sha256 = createHash('sha256').update(tower('model.safetensors')).digest('hex');
  assert.equal(readlinkSync(join(found.folder, 'model.safetensors')), join('..', '..', 'blobs', sha256));
  assert.ok(readFileSync(join(found.folder, 'config.json')).equals(tower('config.json')));
  assert.equal(progress.at(-1), found.bytes);
  assert.ok(progress.every((done, i) => i === 0 || done >= progress[i - 1]!));
  assert.equal(localPath('openai/clip-tiny', environment), found.folder);
  assert.equal(openWeights(found.folder).config?.kind, 'clip');
});

test('what is there is not fetched again', async () => {
  const environment = fresh();
  await fetched('openai/clip-tiny', environment);
  const before = hub.requests.length;
  await fetched('openai/clip-tiny', environment);
  assert.ok(hub.requests.slice(before).every((line) => !line.includes('/resolve/')));
});

test('a revision has a ref of its own; a commit has none', async () => {
  const environment = fresh();
  await fetched('openai/clip-tiny@v1.0', environment);
  const repository = join(environment.HF_HOME, 'hub', 'models--openai--clip-tiny');
  assert.deepEqual(readdirSync(join(repository, 'refs')), ['v1.0']);
  const other = await fetched(`openai/clip-tiny@${commits[0]}`, environment);
  assert.deepEqual(readdirSync(join(repository, 'refs')), ['v1.0']);
  assert.equal(localPath('openai/clip-tiny@v1.0', environment), join(repository, 'snapshots', commits[1]));
  assert.equal(localPath(`openai/clip-tiny@${commits[0]}`, environment), other.folder);
  assert.throws(() => localPath('openai/clip-tiny', environment), /does not say which revision is its main/);
  assert.throws(() => localPath('openai/clip-tiny@../../x', environment), /no such file or folder$/);
});

test('a connection that breaks is taken up where it broke', async () => {
  const environment = fresh();
  hub.breakOff('model.safetensors', 2, 1_000_000);
  const before = hub.requests.length;
  const { folder } = await fetched('org/big', environment);
  assert.ok(readFileSync(join(folder, 'model.safetensors')).equals(noise));
  const starts = hub.requests
    .slice(before)
    .flatMap((line) => /model\.safetensors bytes=(\d+)-(\d{2,})$/.exec(line)?.[1] ?? []);
  assert.ok(starts.length >= 2 && starts.every((start) => Number(start) > 0), starts.join());
});

test('what is being written when the connection breaks stays in its place', async () => {
  const { write } = fs;
  // Later than the break, which comes 20 ms after the last byte.
  fs.write = ((...args: Parameters<typeof write>) => setTimeout(() => write(...args), 60)) as never;
  try {
    hub.breakOff('model.safetensors', 2, 1_000_000);
    const { folder } = await fetched('org/big', fresh());
    assert.ok(readFileSync(join(folder, 'model.safetensors')).equals(noise));
  } finally {
    fs.write = write;
  }
});

test('after an interruption the next command goes on, and until then there is no model', async () => {
  const environment = fresh();
  hub.breakOff('model.safetensors', 100, 0);
  await refused('org/big', environment, /cannot be reached[\s\S]*goes on where it stopped/);
  const repository = join(environment.HF_HOME, 'hub', 'models--org--big');
  assert.ok(!existsSync(join(repository, 'refs')) && !existsSync(join(repository, 'snapshots')));
  assert.throws(() => localPath('org/big', environment), /neva download org\/big/);
  hub.breakOff('model.safetensors', 0, 0);
  const blob = join(repository, 'blobs', createHash('sha256').update(noise).digest('hex'));
  writeFileSync(`${blob}.incomplete`, noise.subarray(0, 2_000_000));
  const before = hub.requests.length;
  await fetched('org/big', environment);
  assert.ok(hub.requests.slice(before).some((line) => line.endsWith('bytes=2000000-2999999')));
  assert.ok(readFileSync(blob).equals(noise) && !existsSync(`${blob}.incomplete`));
});

test('what has another hash than the hub says is thrown away', async () => {
  const environment = fresh();
  const blob = createHash('sha256').update(noise).digest('hex');
  const blobs = join(environment.HF_HOME, 'hub', 'models--org--big', 'blobs');
  await fetched('org/big', environment);
  rmSync(join(blobs, blob));
  writeFileSync(join(blobs, `${blob}.incomplete`), Buffer.alloc(100, 1));
  await refused('org/big', environment, /model\.safetensors[\s\S]*not what the hub says[\s\S]*start again/);
  assert.ok(!existsSync(join(blobs, `${blob}.incomplete`)));
  await fetched('org/big', environment);
});

test('gated and missing models, revisions and tokens are told apart', async () => {
  const environment = fresh();
  await refused('meta-llama/tiny', environment, /private or gated[\s\S]*restricted[\s\S]*HF_TOKEN/);
  await refused(
    'meta-llama/tiny',
    { ...environment, HF_TOKEN: 'hf_other' },
    /gated or private[\s\S]*ask for access at/,
  );
  await refused('meta-llama/tiny', { ...environment, HF_TOKEN: 'hf_bad' }, /token is not accepted/);
  await refused('meta-llama/tiny', { ...environment, HF_TOKEN: 'secret' }, /HF_TOKEN: not an access token/);
  await refused('no-such/model', environment, /there is no such model, or it is private/);
  await refused('no-such/model', { ...environment, HF_TOKEN: 'hf_good' }, /there is no such model/);
  await refused('openai/clip-tiny@v9', environment, /no revision v9/);
  await fetched('meta-llama/tiny', { ...environment, HF_TOKEN: 'hf_good' });
  // The file of `hf auth login`.
  const other = fresh();
  await fetched('openai/clip-tiny', other);
  writeFileSync(join(other.HF_HOME, 'token'), 'hf_good\n');
  await fetched('meta-llama/tiny', other);
});

test('a hub that is not there, busy, or not to be asked', async () => {
  const environment = fresh();
  const gone = await openFakeHub([]);
  await gone.close();
  await refused('org/big', { ...environment, HF_ENDPOINT: gone.url }, /cannot be reached[\s\S]*ECONNREFUSED/);
  hub.answer(503);
  await refused('org/big', environment, /status 503/);
  hub.answer(null);
  await refused('org/big', { ...environment, HF_HUB_OFFLINE: '1' }, /HF_HUB_OFFLINE/);
  await refused('big', environment, /not a name of the hub/);
  assert.ok(!existsSync(join(environment.HF_HOME, 'hub', 'models--org--big', 'refs')));
});

test('what is wanted of a repository', () => {
  const file = (path: string): HubFile => ({ type: 'file', path, size: 1, oid: '0'.repeat(40) });
  const paths = (names: string[]) => wantedFiles(names.map(file)).map(({ path }) => path);
  assert.deepEqual(
    paths([
      'config.json',
      'tokenizer.model',
      'pytorch_model-00001-of-00002.bin',
      'pytorch_model.bin.index.json',
      'a.md',
    ]),
    ['config.json', 'tokenizer.model', 'pytorch_model-00001-of-00002.bin', 'pytorch_model.bin.index.json'],
  );
  assert.deepEqual(
    paths(['model-00001-of-00002.safetensors', 'pytorch_model.bin', 'mm_projector.bin', 'tf_model.h5', '../x.json']),
    ['model-00001-of-00002.safetensors', 'mm_projector.bin'],
  );
  assert.deepEqual(paths(['onnx/model.json', 'consolidated.00.pth', '.gitattributes']), []);
});

test('links are links: a second snapshot of the same file takes no room', async () => {
  const environment = fresh();
  const first = await fetched('openai/clip-tiny', environment);
  const second = await fetched('openai/clip-tiny@v1.0', environment);
  assert.notEqual(first.folder, second.folder);
  for (const { folder } of [first, second]) assert.ok(lstatSync(join(folder, 'model.safetensors')).isSymbolicLink());
});
