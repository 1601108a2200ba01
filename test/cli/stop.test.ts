import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { onStopSignals, timeLimit } from '../../src/cli/stop.ts';

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

test('trainer.max_time is days, hours, minutes and seconds', () => {
  assert.equal(timeLimit(null), null);
  assert.equal(timeLimit('00:00:00:02'), 2000);
  assert.equal(timeLimit('01:02:03:04'), (((24 + 2) * 60 + 3) * 60 + 4) * 1000);
  for (const text of ['01:00:00', '00:00:00:00', '30:00:00:00', '00:00:61:00', 'soon']) {
    assert.throws(() => timeLimit(text), /trainer\.max_time[\s\S]*DD:HH:MM:SS/);
  }
});

test('when the time is up, the run is asked to stop as by a signal', async () => {
  const said: string[] = [];
  const request = onStopSignals((line) => said.push(line), 20);
  // Its own timer lets the process end.
  const open = setInterval(() => {}, 1000);
  await once(request.signal, 'abort');
  clearInterval(open);
  request.release();
  assert.deepEqual(said, ['trainer.max_time is up: finishing this step and saving']);
});

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
