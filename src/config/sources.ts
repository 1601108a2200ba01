/** The configuration files of a search path, each read once. */
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';
import { SearchPath } from './search_path.ts';
import { readYaml, type YamlFile } from './yaml.ts';

export class Sources extends SearchPath {
  private readonly cache = new Map<string, YamlFile>();

  /** @param name without `.yaml`; null when no folder has it */
  load(name: string): YamlFile | null {
    const cached = this.cache.get(name);
    if (cached !== undefined) return cached;
    const path = this.find(name);
    if (path === null) return null;
    const shown = relative(process.cwd(), path);
    const file = readYaml(readFileSync(path, 'utf8'), shown.startsWith('..') ? path : shown);
    this.cache.set(name, file);
    return file;
  }
}
