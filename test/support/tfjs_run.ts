/** `node tfjs_run.js BACKEND STEPS`: the tiny LLaVA's finetune on one backend, its figures as one JSON object. */
import type { BackendName } from '../../src/engine/tfjs/backends.ts';
import { tfjsEngine } from './tfjs.ts';
import { tinyRun } from './tiny_run.ts';

const [backend, steps] = process.argv.slice(2) as [BackendName, string];
const engine = await tfjsEngine(backend);
const resident: number[] = [];
const run = tinyRun(engine, 'finetune', Number(steps), () => {
  (globalThis as { gc?: () => void }).gc?.(); // what is garbage already should not look like growth
  resident.push(process.memoryUsage().rss);
});
console.log(JSON.stringify({ ...run, resident }));
