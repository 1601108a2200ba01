/**
 * Names of the Hugging Face hub (`openai/clip-vit-large-patch14`) as folders of its local cache. Nothing is fetched: the
 * layout is that of huggingface_hub, models--ORG--NAME/{refs/main, snapshots/COMMIT/…}.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { mistake } from '../errors.ts';

const HUB_NAME = /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/;

type Environment = Readonly<Record<string, string | undefined>>;

/** Where huggingface_hub keeps models: HF_HUB_CACHE, or hub/ in HF_HOME, or ~/.cache/huggingface. */
export function hubCache(environment: Environment = process.env): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = environment;
  const home = HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface');
  return HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE || join(home, 'hub');
}

/**
 * The absolute path that a user's path or hub name stands for: a file or folder where there is one, a snapshot of the cache
 * where the name is of the hub's form. Anything else is a user error that says where was looked.
 */
export function localPath(path: string, environment: Environment = process.env): string {
  if (existsSync(path)) return resolve(path);
  if (!HUB_NAME.test(path)) throw mistake({ where: path, problem: 'there is no such file or folder' });
  const cache = hubCache(environment);
  const repository = join(cache, `models--${path.replace('/', '--')}`);
  const missing = (problem: string, expected: string) =>
    mistake({
      where: path,
      problem: `there is no such file or folder, and ${problem}`,
      expected,
      fix: `fetch it: hf download ${path} (or set HF_HOME to the cache that has it)`,
    });
  if (!existsSync(repository)) throw missing("Hugging Face's cache does not have a model of this name", repository);
  const ref = join(repository, 'refs', 'main');
  const commit = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : onlySnapshot(repository);
  if (!commit || !/^[\w.-]+$/.test(commit))
    throw missing("Hugging Face's cache does not say which revision is its main", ref);
  const snapshot = join(repository, 'snapshots', commit);
  if (!existsSync(snapshot)) throw missing("Hugging Face's cache lacks the revision that it calls main", snapshot);
  return snapshot;
}

/** Downloads of a fixed revision leave no refs/main. */
function onlySnapshot(repository: string): string | null {
  const folder = join(repository, 'snapshots');
  const names = existsSync(folder) ? readdirSync(folder) : [];
  return names.length === 1 ? names[0]! : null;
}
