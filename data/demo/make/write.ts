/** Writes data/demo anew: `node dist/data/demo/make/write.js`. */
import { mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../../src/root.ts';
import { bundle } from './bundle.ts';
import { png } from './picture.ts';

const folder = join(packageRoot, 'data', 'demo');
const images = join(folder, 'images');
const { texts, pictures } = bundle();

rmSync(images, { recursive: true, force: true });
for (const split of ['train', 'heldout']) mkdirSync(join(images, split), { recursive: true });
let bytes = 0;
for (const [name, scene] of pictures) {
  const data = await png(scene);
  writeFileSync(join(images, name), data);
  bytes += data.length;
}
for (const [name, text] of texts) writeFileSync(join(folder, name), text);
console.log(
  `${pictures.size} pictures, ${Math.round(bytes / pictures.size)} bytes each; ${[...texts.keys()].join(', ')}`,
);
