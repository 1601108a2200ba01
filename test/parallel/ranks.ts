/** Several ranks of a script beside this file, each a process of its own. */

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../src/parallel/launch.ts';

export interface RankResult {
  status: number | null;
  signal: NodeJS.Signals | null;
  output: string;
}

export async function runRanks(script: string, world: number, args: readonly string[] = []): Promise<RankResult[]> {
  const port = await freePort();
  const path = fileURLToPath(new URL(script, import.meta.url));
  return Promise.all(
    Array.from({ length: world }, (_, rank) => {
      const child = spawn(process.execPath, [path, ...args], {
        stdio: ['ignore', 'pipe', 'pipe'],
        env: {
          ...process.env,
          OMP_NUM_THREADS: '1',
          RANK: String(rank),
          WORLD_SIZE: String(world),
          LOCAL_RANK: String(rank),
          LOCAL_WORLD_SIZE: String(world),
          MASTER_ADDR: '127.0.0.1',
          MASTER_PORT: String(port),
        },
      });
      let output = '';
      for (const stream of [child.stdout, child.stderr]) {
        stream.on('data', (piece) => {
          output += piece;
        });
      }
      return new Promise<RankResult>((resolve) => {
        child.once('close', (status, signal) => resolve({ status, signal, output }));
      });
    }),
  );
}
