// Writes docs/config.md from the schema. Build first: the schema is read from DIST (default dist).
import { writeFileSync } from 'node:fs';

const root = new URL('..', import.meta.url);
const { renderDocs } = await import(new URL(`${process.argv[2] ?? 'dist'}/src/config/index.js`, root).href);
writeFileSync(new URL('docs/config.md', root), renderDocs());
