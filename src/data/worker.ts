/** The loader's worker thread: keeps global batches ready, as many as the main thread has asked for. */
import { parentPort, workerData } from 'node:worker_threads';
import sharp from 'sharp';
import type { FromWorker, ToWorker, WorkerStart } from './loader.ts';
import { Pipeline } from './pipeline.ts';
import type { GlobalBatch } from './types.ts';

const port = parentPort;
if (port === null) throw new Error('worker.ts runs as a worker thread');
const { options, consumedSamples } = workerData as WorkerStart;
// Several pictures are decoded side by side; one libvips thread each keeps the cores for training.
sharp.concurrency(1);
sharp.cache(false);

// One batch is always under way, even where none is to be kept ready.
let credit = Math.max(1, options.prefetchBatches);
let closed = false;
let wake: () => void = () => {};

port.on('message', (message: ToWorker) => {
  if (message === 'close') {
    closed = true;
    port.close();
  } else {
    credit++;
  }
  wake();
});

function post(message: FromWorker, transfer: ArrayBuffer[] = []): void {
  port?.postMessage(message, transfer);
}

function buffers({ microBatches }: GlobalBatch): ArrayBuffer[] {
  return microBatches.flatMap(({ ids, lengths, labelRows, labelTargets, pixels, imageRows }) =>
    [ids, lengths, labelRows, labelTargets, pixels, imageRows].map((array) => array.buffer as ArrayBuffer),
  );
}

async function run(): Promise<void> {
  const pipeline = await Pipeline.open(options);
  try {
    post({ type: 'open', size: pipeline.size });
    let position = consumedSamples;
    while (!closed) {
      if (credit === 0) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        continue;
      }
      credit--;
      const batch = await pipeline.batch(position);
      position = batch.consumedSamples;
      if (!closed) post({ type: 'batch', batch, problems: pipeline.takeProblems() }, buffers(batch));
    }
  } finally {
    pipeline.close();
  }
}

run().catch((error: Error & { userError?: boolean; kind?: string }) => {
  const { message, stack, userError, kind } = error;
  if (!closed) post({ type: 'error', message, stack, userError: userError === true, kind });
  port.close();
});
