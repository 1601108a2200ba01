import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

function findPackageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (true) {
    const manifest = join(folder, 'package.json');
    if (existsSync(manifest) && JSON.parse(readFileSync(manifest, 'utf8')).name === 'neva') return folder;
    const parent = dirname(folder);
    if (parent === folder) throw new Error(`no package.json of neva above ${fileURLToPath(import.meta.url)}`);
    folder = parent;
  }
}

/** The folder that holds neva's own package.json, conf/, native/ and data/: the same from any compiled copy. */
export const packageRoot: string = findPackageRoot();

export function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { version: string }).version;
}
