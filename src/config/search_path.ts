/** Where configuration files are looked for. Nothing is read here: help and completion need no YAML. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** Folders in order: the first that holds a file wins. */
export class SearchPath {
  readonly folders: readonly string[];

  constructor(folders: readonly string[]) {
    this.folders = folders;
  }

  /** @param name without `.yaml`, groups joined by `/` */
  find(name: string): string | null {
    const file = `${name.replace(/\.ya?ml$/, '')}.yaml`;
    for (const folder of this.folders) {
      const path = join(folder, file);
      if (existsSync(path) && statSync(path).isFile()) return path;
    }
    return null;
  }

  isGroup(name: string): boolean {
    return name !== '' && this.folders.some((f) => existsSync(join(f, name)) && statSync(join(f, name)).isDirectory());
  }

  /** Options of a group (or, for '', the configurations at the top), sorted. */
  options(group: string): string[] {
    return this.list(group, (entry, isFolder) => (!isFolder && entry.endsWith('.yaml') ? entry.slice(0, -5) : null));
  }

  groups(parent = ''): string[] {
    return this.list(parent, (entry, isFolder) => (isFolder ? entry : null));
  }

  private list(group: string, pick: (entry: string, isFolder: boolean) => string | null): string[] {
    const names = new Set<string>();
    for (const folder of this.folders) {
      const path = join(folder, group);
      if (!existsSync(path) || !statSync(path).isDirectory()) continue;
      for (const entry of readdirSync(path, { withFileTypes: true })) {
        const name = pick(entry.name, entry.isDirectory());
        if (name !== null) names.add(name);
      }
    }
    return [...names].sort();
  }
}
