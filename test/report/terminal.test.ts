import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { after, test } from 'node:test';
import { openLog } from '../../src/report/log.ts';
import { duration, Progress } from '../../src/report/progress.ts';

const folder = mkdtempSync(join(tmpdir(), 'neva-terminal-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** A stream that remembers; `terminal` gives it what cli-progress asks of a terminal. */
function memory(terminal: boolean): NodeJS.WritableStream & { text: string } {
  const stream = Object.assign(
    new Writable({
      write(chunk, _encoding, done) {
        stream.text += chunk;
        done();
      },
    }),
    { text: '', isTTY: terminal, columns: 200, cursorTo: () => true, clearLine: () => true, moveCursor: () => true },
  );
  return stream;
}

test('plain lines appear for the first step, every n-th and the last, with the time left', () => {
  const stream = memory(false);
  let now = 0;
  const progress = new Progress({ stream, bar: false, now: () => now });
  progress.start({ stage: 'pretrain', firstStep: 0, totalSteps: 25, everySteps: 10 });
  for (let step = 1; step <= 25; step++) {
    now += step === 1 ? 60_000 : 2000; // a slow first step does not spoil the time left
    progress.step({ step, loss: 2.5, lr: 0.001, tokensPerSecond: 1234.4 });
  }
  progress.stop();
  const lines = stream.text.trimEnd().split('\n');
  assert.deepEqual(
    lines.map((line) => line.split('  ')[0]!.trim()),
    ['pretrain', 'pretrain 10/25', 'pretrain 20/25', 'pretrain 25/25'],
  );
  assert.equal(lines[1], 'pretrain 10/25  loss 2.5000  lr 1.00e-3  1234 tokens/s  30s left');
});

test('on a terminal a bar shows stage, step and figures, and printed lines stand on their own', () => {
  const stream = memory(true);
  const progress = new Progress({ stream, bar: true });
  progress.start({ stage: 'finetune', firstStep: 3, totalSteps: 9, everySteps: 1 });
  progress.step({ step: 4, loss: 0.00012, lr: 2e-5, tokensPerSecond: 10 });
  progress.print('saved');
  progress.stop();
  assert.match(stream.text, /finetune .* 4\/9 {2}loss 1\.20e-4 {2}lr 2\.00e-5 {2}10 tokens\/s/);
  assert.ok(stream.text.includes('\r\x1b[Ksaved\n'));
  assert.equal(process.listenerCount('SIGINT'), 0);
});

test('durations', () => {
  assert.deepEqual([0, 59.4, 65, 3723].map(duration), ['0s', '59s', '1:05', '1:02:03']);
  assert.equal(duration(Number.NaN), '?');
});

test('the log is JSON lines in the file at once, and lines for people', () => {
  const file = join(folder, 'neva.log');
  const printed: string[] = [];
  const log = openLog(file, (line) => printed.push(line));
  log.info('saved a checkpoint', { step: 5 });
  log.warn('slow disk');
  log.debug('detail');
  log.error(new Error('boom'));
  const lines = readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
  assert.deepEqual(
    lines.map((line) => line.msg),
    ['saved a checkpoint', 'slow disk', 'detail', 'Error: boom'],
  );
  assert.equal(lines[0].step, 5);
  assert.equal(lines[0].rank, 0);
  assert.match(lines[3].err.stack, /^Error: boom\n +at /);
  assert.deepEqual(printed, ['saved a checkpoint', 'warning: slow disk']);
});
