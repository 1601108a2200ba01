/** The thread that writes checkpoints, one after the other, and prunes after each that is whole. */
import { parentPort } from 'node:worker_threads';
import { pruneCheckpoints } from './prune.ts';
import type { FromSaver, ToSaver } from './saver.ts';
import { writeCheckpoint } from './write_folder.ts';

const port = parentPort;
if (port === null) throw new Error('saver_worker.ts runs as a worker thread');
const answer = (message: FromSaver) => port.postMessage(message);

port.on('message', ({ dir, snapshot, rule }: ToSaver) => {
  const began = performance.now();
  try {
    const folder = writeCheckpoint(dir, snapshot);
    pruneCheckpoints(dir, rule);
    answer({ folder, seconds: (performance.now() - began) / 1000 });
  } catch (error) {
    const { message, stack, code } = error as NodeJS.ErrnoException;
    answer({ error: { message, stack, code } });
  }
});
