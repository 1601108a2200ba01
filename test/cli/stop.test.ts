import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';

const stop = new URL('../../src/cli/stop.js', import.meta.url).href;
/** A process that works in steps of 20 ms until it is asked to stop, then "saves". */
const code = `
import { onStopSignals, STOPPED } from ${JSON.stringify(stop)};
const request = onStopSignals((line) => console.log(line));
console.log('started');
while (!request.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 20));
if (process.argv[1] === 'hang') setInterval(() => {}, 1000);
else {
  request.release();
  console.log('saved');
  process.exitCode = STOPPED;
}
`;

async function start(mode: string) {
  const child = spawn(process.execPath, ['--input-type=module', '-e', code, '--', mode], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.on('data', (piece) => {
    text += piece;
  });
  const waitFor = async (what: string) => {
    while (!text.includes(what)) await once(child.stdout, 'data');
  };
  await waitFor('started');
  return { child, waitFor, text: () => text };
}

for (const [signal, words] of [
  ['SIGTERM', 'SIGTERM: finishing this step and saving\n'],
  ['SIGINT', 'Ctrl-C: finishing this step and saving (once more to stop at once)\n'],
] as const) {
  test(`${signal} asks for an orderly end, which exits 143`, async () => {
    const { child, text } = await start('end');
    child.kill(signal);
    const [status] = await once(child, 'close');
    assert.equal(status, 143);
    assert.equal(text(), `started\n${words}saved\n`);
  });
}

test('a second Ctrl-C ends at once, a second SIGTERM does not', async () => {
  const { child, waitFor } = await start('hang');
  child.kill('SIGTERM');
  await waitFor('saving');
  child.kill('SIGTERM');
  const early = await Promise.race([
    once(child, 'close').then(() => 'ended'),
    new Promise((resolve) => setTimeout(resolve, 200)),
  ]);
  assert.equal(early, undefined);
  child.kill('SIGINT');
  const [, signal] = await once(child, 'close');
  assert.equal(signal, 'SIGINT');
});
