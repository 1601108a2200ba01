// Compiles src/data/resample.wat into src/data/resample-wasm.generated.ts.
//
//     npm install --no-save wabt && node test/tools/resample_wasm.js
import { readFileSync, writeFileSync } from 'node:fs';
import wabt from 'wabt';

const folder = new URL('../../src/data/', import.meta.url);
const source = readFileSync(new URL('resample.wat', folder), 'utf8');
const module = (await wabt()).parseWat('resample.wat', source, { simd: true });
module.validate();
const base64 = Buffer.from(module.toBinary({}).buffer).toString('base64');
const text = `// Made from resample.wat by test/tools/resample_wasm.js.
export const RESAMPLE_WASM =
  '${base64}';
`;
writeFileSync(new URL('resample-wasm.generated.ts', folder), text);
