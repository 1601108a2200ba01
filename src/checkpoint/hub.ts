/**
 * Names of the Hugging Face hub (`openai/clip-vit-large-patch14`, or with `@REVISION`) as folders of its local cache. Nothing is
 * fetched here (hub_download.ts does): the layout is that of huggingface_hub, models--ORG--NAME/{refs/main, snapshots/COMMIT/…}.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { mistake } from '../errors.ts';

const HUB_NAME = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*?)(?:@([A-Za-z0-9][\w.-]*(?:\/[A-Za-z0-9][\w.-]*)*))?$/;
const COMMIT = /^[0-9a-f]{40}$/;

export type Environment = Readonly<Record<string, string | undefined>>;

/** A model of the hub; `revision` is a branch, a tag or a commit. */
export interface HubModel {
  name: string;
  revision: string;
}

/** Null where the text has not the form of such a name. */
export function hubModel(text: string): HubModel | null {
  const [, name, revision = 'main'] = HUB_NAME.exec(text) ?? [];
  return name === undefined ? null : { name, revision };
}

export const isCommit = (revision: string): boolean => COMMIT.test(revision);

/** Where the cache keeps everything of a model. */
export const hubFolder = (cache: string, name: string): string => join(cache, `models--${name.replace('/', '--')}`);

/** Where huggingface_hub keeps models: HF_HUB_CACHE, or hub/ in HF_HOME, or ~/.cache/huggingface. */
export function hubCache(environment: Environment = process.env): string {
  const { HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE } = environment;
  return HF_HUB_CACHE || HUGGINGFACE_HUB_CACHE || join(hubHome(environment), 'hub');
}

export function hubHome({ HF_HOME, XDG_CACHE_HOME }: Environment): string {
  return HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface');
}

/**
 * The absolute path that a user's path or hub name stands for: a file or folder where there is one, a snapshot of the cache
 * where the name is of the hub's form. Anything else is a user error that says where was looked.
 */
export function localPath(path: string, environment: Environment = process.env): string {
  if (existsSync(path)) return resolve(path);
  const model = hubModel(path);
  if (!model) throw mistake({ where: path, problem: 'there is no such file or folder' });
  const repository = hubFolder(hubCache(environment), model.name);
  const missing = (problem: string, expected: string) =>
    mistake({
      where: path,
      problem: `there is no such file or folder, and ${problem}`,
      expected,
      fix: `fetch it: neva download ${path} (or set HF_HOME to the cache that has it)`,
    });
  if (!existsSync(repository)) throw missing("Hugging Face's cache does not have a model of this name", repository);
  const { revision } = model;
  const ref = join(repository, 'refs', revision);
  const commit = existsSync(ref) ? readFileSync(ref, 'utf8').trim() : withoutRef(repository, revision);
  if (!commit || !/^[\w.-]+$/.test(commit))
    throw missing(`Hugging Face's cache does not say which revision is its ${revision}`, ref);
  const snapshot = join(repository, 'snapshots', commit);
  if (!existsSync(snapshot))
    throw missing(`Hugging Face's cache lacks the revision that it calls ${revision}`, snapshot);
  return snapshot;
}

/** Downloads by commit leave no refs: the commit itself, or for `main` the only one that is there. */
function withoutRef(repository: string, revision: string): string | null {
  if (isCommit(revision)) return revision;
  return revision === 'main' ? onlySnapshot(repository) : null;
}

function onlySnapshot(repository: string): string | null {
  const folder = join(repository, 'snapshots');
  const names = existsSync(folder) ? readdirSync(folder) : [];
  return names.length === 1 ? names[0]! : null;
}
