/**
 * Models of the Hugging Face hub fetched into its local cache, when that was asked for (`neva download`): the same layout as
 * huggingface_hub's, so that either finds what the other fetched. `@huggingface/hub` talks to the hub and is loaded here alone.
 *
 * Files arrive as `blobs/HASH.incomplete`, go on from there after an interruption, and are checked against their hash. Only when all
 * are there do the snapshot and the ref appear: a model in the cache is whole.
 */
import { createHash } from 'node:crypto';
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { mistake, UserError } from '../errors.ts';
import { writeFileAtomic } from '../files.ts';
import { type Environment, type HubModel, hubCache, hubFolder, hubHome, hubModel, isCommit } from './hub.ts';

export interface HubFile {
  type: string;
  path: string;
  size: number;
  /** SHA-1 of git's blob. */
  oid?: string;
  /** `oid`: SHA-256 of the content. */
  lfs?: { oid: string; size: number };
}

interface Access {
  hubUrl: string;
  accessToken?: string;
}

export interface DownloadOptions {
  environment?: Environment;
  /** Bytes that are there, of those wanted. */
  onProgress?: (done: number, total: number) => void;
  say?: (line: string) => void;
  /** Before a broken download is taken up again; four times as long after each try that brought nothing. */
  pauseMs?: number;
}

export interface Downloaded {
  folder: string;
  commit: string;
  files: number;
  bytes: number;
}

/** Tries of one file that bring nothing new before it is given up. */
const TRIES = 4;

/**
 * Fetches what neva reads of `NAME` or `NAME@REVISION` into the cache. Throws a user error where there is no such model, it may not
 * be read, the disk is too small, or the hub cannot be reached.
 */
export async function downloadModel(text: string, options: DownloadOptions = {}): Promise<Downloaded> {
  const { environment = process.env, onProgress = () => {}, say = () => {}, pauseMs = 500 } = options;
  const model = hubModel(text);
  if (!model) {
    throw mistake({
      where: text,
      problem: 'not a name of the hub',
      expected: 'ORGANISATION/NAME or ORGANISATION/NAME@REVISION',
    });
  }
  if (/^(1|true|yes|on)$/i.test(environment.HF_HUB_OFFLINE ?? '')) {
    throw mistake({ where: 'HF_HUB_OFFLINE', problem: 'nothing is to be fetched', fix: 'unset it' });
  }
  const hub = await import('@huggingface/hub');
  const access = accessOf(environment);
  const fail = (error: unknown) => explain(error, model, access);
  const { sha: commit } = await hub.modelInfo({ ...access, ...model, additionalFields: ['sha'] }).catch(fail);
  if (!isCommit(commit)) throw new Error(`${access.hubUrl} gave no commit for ${text}: ${commit}`);
  const listed: HubFile[] = [];
  try {
    for await (const file of hub.listFiles({ ...access, repo: model.name, revision: commit })) listed.push(file);
  } catch (error) {
    fail(error);
  }
  const files = wantedFiles(listed);
  if (files.length === 0) {
    throw mistake({
      where: text,
      problem: 'the repository holds nothing that neva reads',
      found: `${listed.length} files`,
    });
  }
  const repository = hubFolder(hubCache(environment), model.name);
  const blobs = join(repository, 'blobs');
  mkdirSync(blobs, { recursive: true });
  const total = files.reduce((sum, { size }) => sum + size, 0);
  requireSpace(blobs, files);
  let before = 0;
  for (const file of files) {
    if (!existsSync(join(blobs, hashOf(file)))) {
      say(`${file.path}  ${(file.size / 1e6).toFixed(1)} MB`);
      const fetchFrom = async (start: number) => {
        const blob = await hub.downloadFile({
          ...access,
          repo: model.name,
          path: file.path,
          revision: commit,
          xet: false,
        });
        if (!blob) throw new Error(`${access.hubUrl} lists ${file.path} and does not have it`);
        return blob.slice(start, file.size).stream();
      };
      const told = (have: number) => onProgress(before + have, total);
      await fetchBlob(join(blobs, hashOf(file)), file, fetchFrom, told, pauseMs).catch(fail);
    }
    before += file.size;
    onProgress(before, total);
  }
  return { folder: publish(repository, model, commit, files), commit, files: files.length, bytes: total };
}

/** Makes a model that is whole visible: its snapshot of links to blobs, whose folder is returned, and the ref that names it. */
function publish(repository: string, { revision }: HubModel, commit: string, files: readonly HubFile[]): string {
  const folder = join(repository, 'snapshots', commit);
  mkdirSync(folder, { recursive: true });
  for (const file of files) {
    const link = join(folder, file.path);
    rmSync(link, { force: true });
    symlinkSync(join('..', '..', 'blobs', hashOf(file)), link);
  }
  if (revision !== commit) {
    const ref = join(repository, 'refs', revision);
    mkdirSync(dirname(ref), { recursive: true });
    writeFileAtomic(ref, commit);
  }
  return folder;
}

/** HF_ENDPOINT; HF_TOKEN, or the file that `hf auth login` writes. */
function accessOf(environment: Environment): Access {
  const hubUrl = (environment.HF_ENDPOINT || 'https://huggingface.co').replace(/\/+$/, '');
  const file = environment.HF_TOKEN_PATH || join(hubHome(environment), 'token');
  const token = (environment.HF_TOKEN || (existsSync(file) ? readFileSync(file, 'utf8') : '')).trim();
  if (token === '') return { hubUrl };
  if (!token.startsWith('hf_')) {
    throw mistake({
      where: environment.HF_TOKEN ? 'HF_TOKEN' : file,
      problem: 'not an access token of the hub',
      expected: 'one that begins with hf_',
      fix: `take one from ${hubUrl}/settings/tokens, or unset it: public models need none`,
    });
  }
  return { hubUrl, accessToken: token };
}

/** Settings, tokenizer and weights at the top of a repository; of weights that are there twice, the safetensors. */
export function wantedFiles(files: readonly HubFile[]): HubFile[] {
  const top = files.filter(({ type, path }) => type === 'file' && /^[\w][\w.+-]*$/.test(path));
  const safe = top.some(({ path }) => path.endsWith('.safetensors'));
  return top.filter(({ path }) => {
    if (/^pytorch_model[\w.-]*\.bin(\.index\.json)?$/.test(path)) return !safe;
    return /\.(json|jinja|safetensors|nemo)$|^tokenizer\.model$|^merges\.txt$|^mm_projector\.bin$/.test(path);
  });
}

/** The name of a file's blob, as huggingface_hub has it. */
const hashOf = ({ lfs, oid, path }: HubFile): string => {
  const hash = lfs?.oid ?? oid;
  if (hash === undefined || !/^[0-9a-f]{40,64}$/.test(hash)) throw new Error(`the hub gave no hash of ${path}`);
  return hash;
};

function requireSpace(blobs: string, files: readonly HubFile[]): void {
  const missing = files.reduce((sum, file) => {
    const blob = join(blobs, hashOf(file));
    return sum + (existsSync(blob) ? 0 : file.size - sizeOf(`${blob}.incomplete`));
  }, 0);
  const { bavail, bsize } = statfsSync(blobs);
  if (bavail * bsize >= missing) return;
  const gb = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  throw mistake({
    where: blobs,
    problem: 'too little room on the disk',
    expected: `${gb(missing)} for what is still to be fetched`,
    found: `${gb(bavail * bsize)} free`,
    fix: 'free some, or set HF_HOME to a folder on another disk',
  });
}

const sizeOf = (path: string): number => statSync(path, { throwIfNoEntry: false })?.size ?? 0;

/** One file, whole and checked, under `blob`. */
async function fetchBlob(
  blob: string,
  file: HubFile,
  fetchFrom: (start: number) => Promise<ReadableStream>,
  onProgress: (have: number) => void,
  pauseMs: number,
): Promise<void> {
  const incomplete = `${blob}.incomplete`;
  if (sizeOf(incomplete) > file.size) rmSync(incomplete);
  let tries = 0;
  for (let have = sizeOf(incomplete); have < file.size || !existsSync(incomplete); have = sizeOf(incomplete)) {
    try {
      const source = file.size === 0 ? Readable.from([]) : Readable.fromWeb((await fetchFrom(have)) as never);
      let arrived = have;
      const count = async function* (parts: AsyncIterable<Uint8Array>) {
        for await (const part of parts) {
          arrived += part.length;
          onProgress(arrived);
          yield part;
        }
      };
      const out = createWriteStream(incomplete, { flags: 'a', flush: true });
      // A write that is under way when the connection breaks must land before the length is read and the next try appends.
      const closed = new Promise<void>((resolve) => out.once('close', () => resolve()));
      await pipeline(source, count, out).finally(() => closed);
      if (sizeOf(incomplete) > file.size) break;
    } catch (error) {
      if (!isPassing(error)) throw error;
      tries = sizeOf(incomplete) > have ? 0 : tries + 1;
      if (tries === TRIES) throw error;
      await sleep(pauseMs * 4 ** Math.max(0, tries - 1));
    }
  }
  if ((await digest(incomplete, file)) !== hashOf(file)) {
    rmSync(incomplete);
    throw mistake({
      where: file.path,
      problem: 'what arrived is not what the hub says it is',
      expected: `${file.size} bytes with hash ${hashOf(file)}`,
      fix: 'start again',
    });
  }
  renameSync(incomplete, blob);
}

/** Git hashes a blob with its length before it; large files have the plain SHA-256. */
async function digest(path: string, { lfs }: HubFile): Promise<string> {
  const hash = createHash(lfs ? 'sha256' : 'sha1');
  if (!lfs) hash.update(`blob ${sizeOf(path)}\0`);
  for await (const part of createReadStream(path)) hash.update(part as Uint8Array);
  return hash.digest('hex');
}

const statusOf = (error: unknown): number | null => {
  const { statusCode } = error as { statusCode?: unknown };
  return typeof statusCode === 'number' ? statusCode : null;
};

/** Worth another try: a connection that broke, or a hub that is busy. */
function isPassing(error: unknown): boolean {
  const status = statusOf(error);
  if (status !== null) return status >= 500 || status === 429;
  return !isOfTheDisk(error);
}

/** Fetch's own errors have no such code. */
const isOfTheDisk = (error: unknown): boolean =>
  /^E(NOSPC|ACCES|ROFS|DQUOT|IO|PERM)$/.test((error as NodeJS.ErrnoException).code ?? '');

/** What the hub's refusal means, and what to do. */
function explain(error: unknown, { name, revision }: HubModel, { hubUrl, accessToken }: Access): never {
  if (error instanceof UserError) throw error;
  const { message, cause, code } = error as NodeJS.ErrnoException & { cause?: { code?: string; message?: string } };
  const where = `${hubUrl}/${name}`;
  const token = `set HF_TOKEN to a token of an account that may read it (${hubUrl}/settings/tokens)`;
  const status = statusOf(error);
  if (status === 401) {
    throw mistake({
      where,
      problem: accessToken ? 'the access token is not accepted' : 'there is no such model, or it is private or gated',
      found: message,
      fix: accessToken ? token : `check the name; if it is right, ${token}`,
    });
  }
  if (status === 403) {
    throw mistake({
      where,
      problem: 'this account may not read the model: it is gated or private',
      found: message,
      fix: `ask for access at ${where}, and ${token}`,
    });
  }
  if (status === 404) {
    throw mistake({ where, problem: `there is no such model, or no revision ${revision} of it`, found: message });
  }
  if (status === null && isOfTheDisk(error)) {
    throw mistake({ where: 'the cache', problem: `it cannot be written (${code})`, found: message });
  }
  throw mistake({
    where,
    problem: status === null ? 'the hub cannot be reached' : `the hub answered with status ${status}`,
    found: cause?.code ?? cause?.message ?? message,
    fix: 'start again: it goes on where it stopped. HF_ENDPOINT names another hub',
  });
}
