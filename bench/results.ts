/** Dated result files, all of one form: date, machine, figures. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { cpus, loadavg, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { packageRoot } from '../src/root.ts';

/** Writes bench/results/DATE-NAME.json, or `out`. The load at the end says whether the machine was quiet. */
export function writeResult(name: string, figures: object, out?: string): void {
  const date = new Date().toISOString().slice(0, 10);
  const path = out ?? join(packageRoot, 'bench/results', `${date}-${name}.json`);
  const machine = {
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memory_gib: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    load: loadavg().map((each) => Math.round(each * 100) / 100),
  };
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `${JSON.stringify({ date, machine, ...figures }, null, 2)}\n`);
  console.log(`written to ${path}`);
}

/** Exponent b of y ≈ a·x^b by least squares on logarithms. */
export function exponent(points: readonly (readonly [x: number, y: number])[]): number {
  const logs = points.map(([x, y]) => [Math.log(x), Math.log(y)] as const);
  const mean = (at: 0 | 1) => logs.reduce((sum, point) => sum + point[at], 0) / logs.length;
  const [mx, my] = [mean(0), mean(1)];
  const top = logs.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  return top / logs.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}
